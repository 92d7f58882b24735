"""`denseclip distill` on a folder as folders are; `denseclip export` of what comes out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import denseclip
from cli_support import run
from denseclip.data.stickers import render
from denseclip.nets.export import Exported


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good pictures of all kinds, and three broken files."""
    made = tmp_path_factory.mktemp("pictures")
    scenes = [Image.fromarray(render("tests/distill", i, side=96).image) for i in range(5)]
    scenes[0].save(made / "plain.jpg")
    scenes[1].convert("L").save(made / "grey.png")
    scenes[2].convert("CMYK").save(made / "cmyk.jpg")
    Image.fromarray(np.asarray(scenes[3].convert("L"), np.uint16) * 257).save(made / "deep.png")
    scenes[4].convert("RGBA").save(made / "alpha.png")
    scenes[0].resize((1200, 900)).save(made / "large.jpg")
    (made / "empty.jpg").write_bytes(b"")
    (made / "text.png").write_text("no picture")
    (made / "torn.jpg").write_bytes((made / "plain.jpg").read_bytes()[:900])
    return made


SMALL = ["--from-scratch", "--set", "batch=4", "--set", "workers=0", "--set", "augment.crop=[32, 32]"]
SMALL += [
    "--set",
    "augment.resize=short:64",
    "--set",
    "student.backbone=resnet18",
    "--set",
    "student.output_stride=16",
]


@pytest.fixture(scope="module")
def distilled(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        import sys

        from denseclip.cli.main import main

        patch.setattr(
            sys,
            "argv",
            [
                "denseclip",
                "distill",
                str(folder),
                "-c",
                "cat, dog, grass|lawn",
                "-o",
                str(out),
                "--steps",
                "4",
                *SMALL,
            ],
        )
        main_ended(main)
    return out


def main_ended(main):
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)


def test_it_trains_and_lists_what_it_skipped(distilled):
    skipped = (distilled / "skipped.txt").read_text().splitlines()
    assert sorted({line.split("/")[-1].split(" ")[0] for line in skipped}) == [
        "empty.jpg",
        "text.png",
        "torn.jpg",
    ]
    report = (distilled / "report.md").read_text()
    assert "torn.jpg" in report and "denseclip segment PICTURES --model" in report
    assert sum(1 for _ in (distilled / "report").glob("*.png")) >= 3


def test_the_model_is_used_with_one_command(distilled, folder, tmp_path, capsys):
    ran = run(capsys, "segment", folder / "plain.jpg", "--model", distilled / "last.pt", "--out", tmp_path)
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "classes.json").read_text()) == {"0": "cat", "1": "dog", "2": "grass"}


def test_it_goes_on_and_refuses_other_settings(distilled, folder, capsys):
    same = ["distill", folder, "-c", "cat, dog, grass|lawn", "-o", distilled, *SMALL]
    assert "nothing was left to do" in run(capsys, *same, "--steps", 4).out
    other = run(capsys, *same, "--steps", 5)
    assert other.code == 2 and "another steps" in other.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "-c", "cat"], "no folder"),
        (["PICTURES"], "no words are given"),
        (["PICTURES", "-c", "cat", "--set", "stepps=3"], "unknown key stepps"),
        (["PICTURES", "-c", "cat", "--model", "tiny-nothing", "--from-scratch"], "tiny-nothing"),
    ],
)
def test_mistakes(folder, tmp_path, capsys, arguments, message):
    arguments = [folder if one == "PICTURES" else one for one in arguments]
    ran = run(capsys, "distill", *arguments, "--out", tmp_path / "run")
    assert ran.code == 2 and message in ran.err and ran.err.count("\n") == 1


@pytest.fixture(scope="module")
def onnx_file(distilled):
    from denseclip.nets.export import export

    model = denseclip.load(distilled / "last.pt").clip
    network, names = model.network(None, ())
    export(network, model.stats, names, distilled / "student.onnx")
    return distilled / "student.onnx"


def test_onnx_gives_the_same_masks(distilled, onnx_file):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(onnx_file))
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["cat", "dog", "grass"]
    model = denseclip.load(distilled / "last.pt", resize="none")
    exported = Exported(model.clip.network(None, ())[0], model.clip.stats, argmax=True)
    for size in ((96, 96), (70, 131)):
        image = np.asarray(
            Image.fromarray(render("tests/onnx", 1, side=144).image).crop((0, 0, size[1], size[0]))
        )
        pixels = image.transpose(2, 0, 1)[None].astype(np.float32)
        (mask,) = session.run(None, {"image": pixels})
        with torch.no_grad():
            ours = exported(torch.from_numpy(pixels)).numpy()
        assert (mask == ours).mean() >= 0.999
        assert (mask[0] == model.segment(image).mask).mean() >= 0.999


def test_torch_export(distilled, tmp_path, capsys):
    ran = run(
        capsys,
        "export",
        distilled / "last.pt",
        "--format",
        "torch-export",
        "--out",
        tmp_path / "m.pt2",
        "--scores",
    )
    assert ran.code == 0, ran.err
    names = {"classes": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=names)
    assert json.loads(names["classes"]) == ["cat", "dog", "grass"]
    assert program.module()(torch.rand(2, 3, 64, 80) * 255).shape == (2, 3, 64, 80)
    again = run(
        capsys, "export", distilled / "last.pt", "--format", "torch-export", "--out", tmp_path / "m.pt2"
    )
    assert again.code == 2 and "is there already" in again.err
