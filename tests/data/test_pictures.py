"""One picture in every form gives the same pixels; kinds that cannot be read are counted; lists of pictures."""

import io
import json
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denseclip.data.folder import open_folder
from denseclip.data.images import as_rgb, list_images, read_image, unread_in, unread_line
from denseclip.errors import UserError
from denseclip.label.sources import list_items

RAMP = np.linspace(0, 1, 12 * 10 * 3).reshape(12, 10, 3)
BYTES = np.rint(RAMP * 255).astype(np.uint8)
GRAY16 = np.rint(RAMP[..., 0] * 65535).astype(np.uint16)


def stored(kind):
    """A Pillow image of a kind, and how it is saved."""
    rgb = Image.fromarray(BYTES)
    alpha = np.dstack([BYTES, np.linspace(0, 255, 120).reshape(12, 10).astype(np.uint8)])
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgb": (rgb, "png", {}),
        "gray": (rgb.convert("L"), "png", {}),
        "bits": (rgb.convert("1"), "png", {}),
        "gray 16": (Image.fromarray(GRAY16), "png", {}),
        "float": (Image.fromarray(RAMP[..., 0].astype(np.float32)), "tiff", {}),
        "int32": (Image.fromarray(GRAY16.astype(np.int32)), "tiff", {}),
        "palette": (rgb.quantize(16), "png", {}),
        "transparent palette": (rgb.quantize(16), "png", {"transparency": 3}),
        "rgba": (Image.fromarray(alpha), "png", {}),
        "gray and alpha": (Image.fromarray(alpha).convert("LA"), "png", {}),
        "cmyk": (rgb.convert("CMYK"), "tiff", {}),
        "turned": (rgb, "png", {"exif": exif}),
        "turned jpeg": (rgb, "jpeg", {"exif": exif}),
        "ycbcr": (rgb.convert("YCbCr"), "jpeg", {}),
    }[kind]


KINDS = ("rgb", "gray", "bits", "gray 16", "float", "int32", "palette", "transparent palette", "rgba",
         "gray and alpha", "cmyk", "turned", "turned jpeg", "ycbcr")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_bytes_a_file_and_a_pil_image_give_the_same_pixels(tmp_path, kind):
    picture, suffix, options = stored(kind)
    path = tmp_path / f"p.{suffix}"
    picture.save(path, **options)
    expected = read_image(path)
    assert expected.dtype == np.uint8 and expected.shape[2] == 3
    content = path.read_bytes()
    for form in (str(path), path, content, io.BytesIO(content), path.open("rb"), Image.open(path)):
        np.testing.assert_array_equal(as_rgb(form), expected)
    if "turned" in kind:
        assert expected.shape == (10, 12, 3)


ARRAYS = {
    "uint8": (BYTES, BYTES),
    "gray": (BYTES[..., 0], BYTES[..., [0, 0, 0]]),
    "gray with a channel": (BYTES[..., :1], BYTES[..., [0, 0, 0]]),
    "gray, channel first": (BYTES[None, ..., 0], BYTES[..., [0, 0, 0]]),
    "float32": (RAMP.astype(np.float32), BYTES),
    "float64": (RAMP, BYTES),
    "float16": (RAMP.astype(np.float16), BYTES),
    "uint16": (np.rint(RAMP * 65535).astype(np.uint16), BYTES),
    "big-endian": (np.rint(RAMP * 65535).astype(">u2"), BYTES),
    "gray 16": (GRAY16, BYTES[..., [0, 0, 0]]),
    "bool": (RAMP > 0.5, np.where(RAMP > 0.5, 255, 0)),
    "strided": (BYTES[::2, ::-1], BYTES[::2, ::-1]),
    "alpha": (np.dstack([BYTES, np.zeros((12, 10), np.uint8)]), np.full((12, 10, 3), 255)),
    "gray and alpha": (np.dstack([BYTES[..., 0], np.full((12, 10), 255, np.uint8)]), BYTES[..., [0, 0, 0]]),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_and_tensors(kind):
    array, expected = ARRAYS[kind]
    tolerance = 1 if kind == "float16" else 0
    np.testing.assert_allclose(as_rgb(array).astype(int), expected, atol=tolerance)
    if kind in ("big-endian", "strided"):
        return  # no tensor is of this kind
    first = array if array.ndim == 2 or array.shape[0] == 1 else array.transpose(2, 0, 1)
    np.testing.assert_allclose(as_rgb(torch.from_numpy(first.copy())).astype(int), expected, atol=tolerance)
    if kind == "float32":
        some = as_rgb(torch.from_numpy(first.copy()).bfloat16().requires_grad_())
        np.testing.assert_allclose(some.astype(int), expected, atol=1)


WRONG = [
    np.zeros((4, 4, 3), np.int64),
    np.zeros((4, 4, 3), complex),
    np.full((4, 4), "x"),
    np.full((4, 4, 3), np.nan),
    np.full((4, 4, 3), -0.1),
    np.full((4, 4, 3), 200.0),
    np.zeros((0, 4, 3), np.uint8),
    np.zeros((3, 40, 40), np.uint8),
    np.zeros(5),
    torch.zeros(8, 8, 3),
    torch.zeros(2, 3, 4, 4),
    torch.zeros(3, 4, 4, dtype=torch.int32),
    torch.zeros(3, 4, 4).to_sparse(),
    torch.zeros(3, 4, 4, device="meta"),
    torch.full((3, 4, 4), 200.0).to(torch.float8_e4m3fn),
    None,
    7,
    [1, 2],
    b"",
    b"no picture",
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: str(value)[:20])
def test_what_is_no_picture_is_refused_in_one_line(wrong):
    with pytest.raises(UserError) as caught:
        as_rgb(wrong)
    assert "\n" not in str(caught.value)


def png_of(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("state", ["closed", "closed before it is loaded", "torn"])
def test_a_pil_image_that_is_closed_or_torn_is_refused_in_one_line(state):
    whole = png_of(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    picture = Image.open(io.BytesIO(whole[:3000] if state == "torn" else whole))
    if state == "closed":
        picture.load()
    if state != "torn":
        picture.close()
    with pytest.raises(UserError, match="the picture is closed or damaged") as caught:
        as_rgb(picture)
    assert "\n" not in str(caught.value)


def test_tensors_of_unusual_kinds_that_hold_values():
    gray = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    expected = as_rgb(gray)
    np.testing.assert_array_equal(as_rgb(gray.to(torch.float8_e4m3fn)), expected)
    np.testing.assert_array_equal(as_rgb(torch.complex(gray, -gray).conj().imag), expected)


def test_the_transparent_value_of_a_16_bit_gray_png_shows_white_paper():
    plain = png_of(np.array([[0, 257, 32896, 65535]], np.uint16))
    np.testing.assert_array_equal(read_image(plain)[0, :, 0], [0, 1, 128, 255])
    body = b"tRNS" + (257).to_bytes(2, "big")
    chunk = (2).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    with_key = plain[:33] + chunk + plain[33:]  # behind the signature (8 bytes) and IHDR (25)
    np.testing.assert_array_equal(read_image(with_key)[0, :, 0], [0, 255, 128, 255])
    np.testing.assert_array_equal(as_rgb(Image.open(io.BytesIO(with_key)))[0, :, 0], [0, 255, 128, 255])


def test_kinds_that_cannot_be_read_are_counted_and_told(tmp_path):
    for name in ("a.HEIC", "deep/b.heic", "c.cr2", ".hidden.heic", ".cache/d.heic", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert unread_in([tmp_path]) == Counter({".heic": 2, ".cr2": 1})
    assert unread_in([f"{tmp_path}/*", tmp_path / "c.cr2"]) == Counter({".heic": 1, ".cr2": 1})
    assert "1 .cr2, 2 .heic" in unread_line(unread_in([tmp_path]))
    assert unread_line({}) == ""
    for found in (
        list_images,
        lambda source: list_items(str(source)),
        lambda source: open_folder(source, ("sky",), (("sky",),)),
    ):
        with pytest.raises(UserError, match=r"no pictures.*; .*2 \.heic"):
            found(tmp_path)
    Image.fromarray(BYTES).save(tmp_path / "good.png")
    counts: Counter[str] = Counter()
    assert [item.file for item in list_items(str(tmp_path), unread=counts)] == ["good.png"]
    assert counts == Counter({".heic": 2, ".cr2": 1})


def album(tmp_path):
    for name in ("p/a.png", "p/b c.png", "q/a.png", "p/sub/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(BYTES).save(tmp_path / name)
    return tmp_path


def test_lists_with_dots_comments_blanks_marks_and_doubles(tmp_path):
    home = album(tmp_path)
    lines = [
        "# pictures",
        "",
        "a.png",
        "  b c.png  ",
        "../q/a.png",
        str(home / "q" / "a.png"),
        "sub\\d.png",
        "a.png",
    ]
    (home / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    items = list_items(str(home / "list.txt"), images=str(home / "p"))
    assert [item.file for item in items] == ["a.png", "b c.png", "../q/a.png", "sub/d.png"]
    assert len({item.name for item in items}) == 4
    for item in items:
        assert (home / "p" / item.file).is_file() and item.read().shape == (12, 10, 3)
        assert ".." not in Path(item.name).parts


def test_a_coco_file_names_files_that_exist(tmp_path):
    home = album(tmp_path)
    images = [{"id": 9, "file_name": "sub\\d.png"}, {"id": 4, "file_name": "../q/a.png"}]
    (home / "i.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"images": images}).encode())
    items = list_items(str(home / "i.json"), images=str(home / "p"))
    assert [(item.number, item.file) for item in items] == [(4, "../q/a.png"), (9, "sub/d.png")]
    assert all((home / "p" / item.file).is_file() for item in items)
