"""Damaged pictures and vocabularies: every one is labeled or listed, none brings the job down."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from denseclip.data.images import list_images
from denseclip.errors import UserError
from denseclip.label.labelled import Labels
from denseclip.text import ClassPrompts
from label_support import blobs, label

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
KINDS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")


def seeds(rng):
    """One small picture of every kind, and of every odd mode."""
    image = Image.fromarray(blobs(rng, 24, 30))
    made = [(kind, image, {}) for kind in KINDS]
    made += [
        ("JPEG", image.convert("CMYK"), {}),
        ("PNG", image.convert("LA"), {}),
        ("PNG", image.convert("1"), {}),
    ]
    made += [("PNG", Image.fromarray(np.arange(720, dtype=np.uint16).reshape(24, 30) * 90), {})]
    made += [("GIF", image, {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]})]
    made += [("TIFF", image, {"compression": "tiff_lzw"}), ("JPEG", image, {"progressive": True})]
    for kind, picture, options in made:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        yield kind.lower().replace("2000", "2"), buffer.getvalue()


def mutated(content, rng):
    """Bits flipped, cut, doubled, moved, or overwritten with what is large or small."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at = (
            int(rng.integers(0, len(data)))
            if rng.random() < 0.5
            else int(rng.integers(0, min(64, len(data))))
        )
        match int(rng.integers(0, 6)):
            case 0:
                data[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                del data[at + 1 :]
            case 2:
                data[at:at] = data[at : at + 16]
            case 3:
                data[at : at + 4] = b"\xff\xff\xff\x7f"
            case 4:
                data[at : at + 4] = bytes(4)
            case 5:
                data[at : at + 8] = rng.bytes(8)
    return bytes(data)


def run_pictures(tmp_path, count):
    rng = np.random.default_rng(count)
    originals = list(seeds(rng))
    (tmp_path / "in").mkdir()
    for number in range(count):
        suffix, content = originals[number % len(originals)]
        suffix = {"jpeg": "jpg", "jpeg2": "jp2"}.get(suffix, suffix)
        (tmp_path / "in" / f"{number:04d}.{suffix}").write_bytes(mutated(content, rng))
    assert len(list_images(tmp_path / "in")) == count
    summary = label(tmp_path / "in", tmp_path / "out", formats=("png",))
    assert summary.labeled + summary.skipped == count
    assert summary.labeled > count // 10 and summary.skipped > count // 10
    lines = (tmp_path / "out" / "pictures.csv").read_text().splitlines()[1:]
    assert len(lines) == count
    masks = {path.stem for path in (tmp_path / "out" / "masks").iterdir()}
    assert masks == {line.split(",")[1] for line in lines if line.endswith(",")}
    assert all("\n" not in reason for _, reason in summary.reasons)


def test_mutated_pictures(tmp_path):
    run_pictures(tmp_path, 150)


@pytest.mark.slow
def test_a_thousand_mutated_pictures(tmp_path):
    run_pictures(tmp_path, 1000)


VOCABULARIES = [
    json.dumps({"cat": ["cat", "kitten"], "red car": "car", "gräs": ["=a meadow", "grass"]}).encode(),
    json.dumps(["cat|kitten", "red car", "a, b"]).encode(),
    "cat|kitten, red car\n# comment\ngräs, sky\n".encode(),
    b"voc+city",
]


def test_a_hundred_mutated_vocabularies(tmp_path):
    rng, good, bad = np.random.default_rng(0), 0, 0
    messages = []
    for number in range(100):
        content = mutated(VOCABULARIES[number % 4], rng)
        path = tmp_path / f"{number}.{'json' if number % 4 < 2 else 'txt'}"
        path.write_bytes(content)
        for source in (path, content.decode("utf-8", "replace")):
            try:
                class_prompts = ClassPrompts.parse(source)
            except UserError as error:
                bad += 1
                messages.append(str(error))
            else:
                good += 1
                assert len(Labels(class_prompts.classes).things) >= 1
    assert good + bad == 200
    assert all("\n" not in message and len(message) < 500 for message in messages)
    assert good and bad
