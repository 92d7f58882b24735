import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from denseclip.data.images import MAX_PIXELS, SUFFIXES, list_images, read_image
from denseclip.errors import UserError

WHITE, GRAY, RED = (255, 255, 255), (128, 128, 128), (255, 0, 0)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    """A gradient, red to the right and green downwards, which survives JPEG."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), 0 * x + 40], -1).astype(np.uint8)


def assert_near(array: np.ndarray, expected: object, levels: float) -> None:
    assert array.dtype == np.uint8
    assert np.abs(array.astype(int) - np.asarray(expected)).max() <= levels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_formats_come_back_equal(kind: str, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(noise()), kind, **options)
    path = tmp_path / "a picture"
    path.write_bytes(content)
    with path.open("rb") as file:
        results = [read_image(source) for source in (content, path, str(path), file, io.BytesIO(content))]
    for result in results:
        assert result.shape == (24, 32, 3)
        assert np.array_equal(result, noise())
        assert result.flags.c_contiguous
        assert result.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(smooth()), kind, exif=exif, **options)
    with Image.open(io.BytesIO(content)) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    result = read_image(content)
    assert result.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))
    assert np.array_equal(result, expected)
    assert result.flags.c_contiguous


def test_gray_bilevel_and_palette() -> None:
    gray = smooth()[..., 0]
    for content in (encoded(Image.fromarray(gray)), encoded(Image.fromarray(gray), "TIFF")):
        assert np.array_equal(read_image(content), np.repeat(gray[..., None], 3, -1))
    bits = encoded(Image.fromarray(gray > 100))
    assert np.array_equal(read_image(bits)[..., 1], np.where(gray > 100, 255, 0))
    palette = Image.fromarray(noise()).quantize(16)
    assert np.array_equal(read_image(encoded(palette)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_not_clipped(suffix: str, channels: int) -> None:
    values = np.linspace(0, 65535, 64 * 64 * channels).astype(np.uint16).reshape(64, 64, channels)
    content = cv2.imencode(suffix, values)[1].tobytes()
    result = read_image(content)
    expected = np.broadcast_to(values[..., ::-1].astype(float) / 257, result.shape)
    assert_near(result, expected, 1)
    assert (result.min(), result.max()) == (0, 255)


def test_floats_of_0_to_1_are_scaled() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert_near(read_image(encoded(Image.fromarray(values), "TIFF"))[..., 0], values * 255, 0.5)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert_near(read_image(encoded(picture, kind)), RED, 3)


def test_adobes_inverted_cmyk_jpeg_equals_another_decoder() -> None:
    content = encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in content[:100]
    bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert_near(read_image(content), bgr[..., ::-1], 4)
    assert_near(read_image(content), smooth(), 12)


def transparent() -> dict[str, bytes]:
    rgba = Image.new("RGBA", (8, 8), (*RED, 0))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *RED])
    return {
        "RGBA": encoded(rgba),
        "LA": encoded(Image.new("LA", (8, 8), (9, 0))),
        "P": encoded(palette, transparency=1),
        "RGB with a transparent color": encoded(Image.new("RGB", (8, 8), RED), transparency=RED),
        "L with a transparent level": encoded(Image.new("L", (8, 8), 9), transparency=9),
        "GIF": encoded(palette, "GIF", transparency=1),
        "WebP": encoded(rgba, "WEBP", lossless=True),
    }


@pytest.mark.parametrize("name", transparent())
def test_what_is_transparent_shows_white(name: str) -> None:
    assert_near(read_image(transparent()[name]), WHITE, 0)


def test_half_transparent_is_half_white() -> None:
    assert_near(read_image(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 127)))), GRAY, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_several(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, (0, 0, 255), WHITE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert_near(read_image(content), RED, 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_is_passed_over() -> None:
    content = encoded(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_image(content).shape == (48, 64, 3)


def png_of_size(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


JPEG = encoded(Image.fromarray(smooth()), "JPEG")
PNG = encoded(Image.fromarray(smooth()))
WIDE = np.full((4, 4), 70_000, np.int32)
NO_PICTURE = "picture {} is no picture in a known format; convert it to JPEG or PNG"
DAMAGED = "picture {} is cut short or damaged (*); copy it again"
BAD_CONTENT = {
    "empty": (b"", "picture {} is empty; copy it again"),
    "text": (b"hello, I am a text\n" * 9, NO_PICTURE),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_PICTURE),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), NO_PICTURE),
    "cut JPEG": (encoded(Image.fromarray(noise()), "JPEG")[:-300], DAMAGED),
    "cut JPEG header": (JPEG[:300], DAMAGED),
    "cut PNG": (PNG[:-100], DAMAGED),
    "overwritten PNG": (PNG[:60] + bytes(40) + PNG[100:], DAMAGED),
    "cut GIF": (transparent()["GIF"][:-9], DAMAGED),
    "bomb": (
        png_of_size(50_000, 30_000),
        "picture {} has more than 357,913,940 pixels; make it smaller",
    ),
    "large": (
        png_of_size(13_400, 13_400),
        "picture {} has 13400 x 13400 pixels, more than 178,956,970; make it smaller",
    ),
    "32 bits": (
        encoded(Image.fromarray(WIDE), "TIFF"),
        "picture {} has values from 70000 to 70000, not 0 to 65535; save it with 8 or 16 bits",
    ),
    "floats": (
        encoded(Image.fromarray(WIDE.astype(np.float32)), "TIFF"),
        "picture {} has values from 70000 to 70000, not 0 to 1; save it with 8 or 16 bits",
    ),
    "not a number": (
        encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"),
        "picture {} has values from nan to nan, not 0 to 1; save it with 8 or 16 bits",
    ),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD_CONTENT)
def test_bad_content(tmp_path: Path, name: str) -> None:
    content, message = BAD_CONTENT[name]
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_image(path)
    before, _, after = message.format(path).partition("*")  # what Pillow says differs between its versions
    assert str(caught.value).startswith(before)
    assert str(caught.value).endswith(after)
    assert after or str(caught.value) == before


class ClosedFile(io.BytesIO):
    def read(self, *_: object) -> bytes:
        raise OSError("gone")


BAD_SOURCES = [
    ("nowhere.jpg", "there is no picture nowhere.jpg; check the name"),
    ("/", "/ is a folder; give a picture in it"),
    ("/dev/null", "/dev/null is no file but a device or a pipe; give a picture file"),
    ("a\0b.jpg", "picture 'a\\x00b.jpg' cannot be read (embedded null byte); check it"),
    ("http://x.org/a.jpg", "picture http://x.org/a.jpg is a web address; download it and give the file"),
    (b"", "the picture in memory is empty; copy it again"),
    (None, "a picture cannot be read from NoneType; give a path, bytes or a file"),
    (3, "a picture cannot be read from int; give a path, bytes or a file"),
    (io.StringIO("text"), "picture in memory is opened as text; open it as binary"),
    (ClosedFile(), "picture in memory cannot be read (gone); open it again as binary"),
]


@pytest.mark.parametrize(("source", "message"), BAD_SOURCES)
def test_bad_sources(source: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_image(source)  # type: ignore[arg-type]
    assert str(caught.value) == message


def forbid(*_: object) -> None:  # root may read everything, so a file's mode would not do
    raise PermissionError(13, "Permission denied", "secret")


def test_a_picture_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    monkeypatch.setattr(Path, "read_bytes", forbid)
    with pytest.raises(UserError, match=r"^picture .*a\.png may not be read; check its permissions$"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_of_pixels_and_bytes(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    assert read_image(path, max_pixels=48 * 64).shape == (48, 64, 3)
    with pytest.raises(UserError) as caught:
        read_image(PNG, max_pixels=48 * 64 - 1)
    assert str(caught.value) == ("the picture in memory has 64 x 48 pixels, more than 3,071; make it smaller")
    with path.open("r+b") as file:
        file.truncate(8 * MAX_PIXELS + 1)  # a hole: takes no room
    with pytest.raises(UserError, match=r"a\.png has 1\.3 GiB; make it smaller$"):
        read_image(path)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    whole=st.sampled_from([JPEG, PNG, *transparent().values(), encoded(Image.fromarray(smooth()), "TIFF")]),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=8),
    keep=st.floats(0, 1),
)
def test_mutated_bytes_give_a_picture_or_one_line(
    whole: bytes, changes: list[tuple[float, int]], keep: float
) -> None:
    content = bytearray(whole)
    for place, value in changes:
        content[int(place * len(content))] = value
    message = ""
    try:
        result = read_image(bytes(content[: round(keep * len(content))]), max_pixels=1_000_000)
        assert result.ndim == 3
        assert result.shape[2] == 3
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in (
        "b.JPG",
        "a.png",
        "deep/er/c.webp",
        "notes.txt",
        ".hidden/d.png",
        "deep/._a.png",
        "x[1].jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(album: Path, found: list[Path]) -> list[str]:
    return [str(path.relative_to(album)) for path in found]


def test_folders_files_and_patterns(album: Path) -> None:
    everything = ["a.png", "b.JPG", "deep/er/c.webp", "x[1].jpg"]
    assert names(album, list_images(album)) == everything
    assert names(album, list_images([str(album), album / "a.png", f"{album}/deep"])) == everything
    assert names(album, list_images(f"{album}/**/*")) == everything
    assert names(album, list_images(f"{album}/*.png")) == ["a.png"]
    assert names(album, list_images(album / "x[1].jpg")) == ["x[1].jpg"]
    assert names(album, list_images([album / "notes.txt"])) == [
        "notes.txt"
    ]  # named, so the reader shall judge


def test_nothing_found(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album)
    ends = f"they end in {', '.join(SUFFIXES)}"
    for sources, message in [
        ([], "no pictures are given; name files, folders or patterns such as 'photos/*.jpg'"),
        ("empty", f"folder empty holds no pictures; {ends}"),
        (["a.png", "z.png"], "there is no picture z.png; check the name"),
        ("*.bmp", f"no picture matches *.bmp; {ends}"),
    ]:
        with pytest.raises(UserError) as caught:
            list_images(sources)
        assert str(caught.value) == message


def test_a_folder_that_may_not_be_read(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", forbid)
    with pytest.raises(UserError) as caught:
        list_images(album)
    assert str(caught.value) == f"folder {album} cannot be read (Permission denied); check its permissions"
