"""Every recipe for two steps and an evaluation, on data in the archives' real layout, with nothing downloaded.

The CLIPs of recipes at paper size have the published architecture and generated weights; students start from random
ones. Reduced: pictures are a few pixels large, one to a split, batches have two, crops 64 pixels (sticker scenes as
well), one picture is evaluated at a short side of 64. Select a part with -k, such as -k "voc20 and zeroshot".
"""

import json

import pytest
import torch
from dataset_trees import TREES, image, instances

from cli_support import run
from denseclip.clip.clip import OPENAI_STATS
from denseclip.clip.pretrained import EMBEDDED
from denseclip.data.prepare import prepare
from denseclip.models.checkpoint import read_saved
from denseclip.train.recipe import read_recipe, recipe_names

pytestmark = pytest.mark.slow
open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of generated weights for a published CLIP, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("weights")

    def made(name):
        path = folder / name / "open_clip_pytorch_model.bin"
        if name in EMBEDDED:
            return name
        if not path.exists():
            torch.manual_seed(0)
            path.parent.mkdir()
            settings = {
                "model_cfg": {**open_clip.get_model_config(name), "quick_gelu": True},
                "preprocess_cfg": {"mean": OPENAI_STATS.mean, "std": OPENAI_STATS.std},
            }
            (path.parent / "open_clip_config.json").write_text(json.dumps(settings))
            torch.save(open_clip.create_model(name, force_quick_gelu=True).half().state_dict(), path)
        return path

    return made


def laid_out(recipe, root):
    """Data as a recipe names them, and what has to be changed of it for that."""
    part = recipe.data
    if part.train == "coco":
        instances(root)
    elif part.train in TREES:
        TREES[part.train](root)
        assert not prepare(part.train, root).failed
    elif part.classes is not None:
        for i in range(12):
            image(root / part.train / f"{'x' * i}y.jpg", (40, 60))
    elif part.train.startswith("stickers"):
        return ["data.images=4", "data.side=64", "data.val_images=1"]
    else:
        return [
            "data.train=stickers20",
            "data.val=stickers20",
            "data.images=4",
            "data.side=64",
            "data.val_images=1",
        ]
    return []


def smaller(recipe, weights):
    """What is changed for the time it takes."""
    changes = [
        "steps=2",
        "batch=2",
        "accumulate=1",
        "workers=0",
        "panel_every=0",
        "probe_every=1",
        "precision=fp32",
    ]
    if recipe.system == "detection":
        changes += ["detection.resize=short:64"]
        changes += ["detection.crop=[64,64]"] if recipe.detection.crop else []
    else:
        changes += ["augment.crop=[64,64]", "evaluation.resize=short:64", "evaluation.slide=none"]
    if recipe.system == "maskclip+":
        changes += [f"teacher.model={weights(recipe.teacher.model)}", "student.pretrained=false"]
        start = recipe.student.backbone.partition(":")[2]
        if recipe.student.from_clip and start:
            changes.append(f"student.backbone=clip:{weights(start)}")
    else:
        changes.append(f"denseclip.clip={weights(recipe.denseclip.clip)}")
    return changes


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_ends_with_a_figure(name, tmp_path, capsys, weights):
    recipe = read_recipe(name)
    changes = [*smaller(recipe, weights), *laid_out(recipe, tmp_path)]
    out = tmp_path / "run"
    arguments = ["train", name, *changes, "--data-root", tmp_path, "--out", out, "--device", "cpu"]
    ran = run(capsys, *arguments)
    assert ran.code == 0, ran.err
    progress = read_saved(out / "last.pt")["progress"]
    assert progress["step"] == 2
    if (
        recipe.data.val is None and recipe.data.classes is not None
    ):  # no annotation: how far it agrees with its teacher
        assert 0 <= progress["best"] <= 1
        return
    figures = json.loads((out / "evaluation" / "result.json").read_text())["summary"]
    assert figures, "nothing was measured"
