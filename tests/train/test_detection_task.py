"""Detectors through the loop, and everything that one does with them after it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cli_support import run
from denseclip.data.open_things import open_things
from denseclip.detection.predict import load_detector
from denseclip.errors import UserError
from denseclip.evaluate.detection import (
    DetectionFigures,
    average_precisions,
    evaluate_detector,
    kept_evaluation,
)
from denseclip.models.checkpoint import trained_kind
from denseclip.models.trained import load_trained
from denseclip.segment.paint import CAPTION, GAP
from denseclip.train.loop import learning_rate
from denseclip.train.progress import LAST
from denseclip.train.recipe import laid_over, read_recipe
from denseclip.train.tasks import build_task, make_batches
from denseclip.train.training import open_recipe_data, train
from train_support import same, small, weights

pytest.importorskip("pycocotools")

SIZES = {"fpn_channels": 16, "decoder_width": 16, "decoder_layers": 1, "contexts": 2}


def recipe(kind="retinanet", **changes):
    detection = {
        "config": {"kind": kind, "fc_width": 16, "candidates": [50, 50], "regions": 16},
        "resize": "short:64",
        "crop": [64, 64],
    }
    base = {
        "system": "detection",
        "labels": {"hide": "none"},
        "denseclip": {"clip": "tiny-rn", "config": SIZES},
        "detection": detection,
        "optimizer": {"name": "adamw", "lr": 1e-3, "drops": [2], "warmup": 1, "clip": 0.1},
        "batch": 2,
        "steps": 2,
    }
    return small(**laid_over(base, changes))


@pytest.fixture(scope="module", params=["retinanet", "maskrcnn"])
def trained(request, tmp_path_factory):
    """A folder with a finished training, and what was told."""
    folder, told = tmp_path_factory.mktemp(request.param), []
    train(recipe(request.param, panel_every=2), folder, on_step=told.append)
    return request.param, folder, told


def test_losses_panel_and_checkpoint(trained):
    kind, folder, told = trained
    names = {"classification", "boxes", "scores", "loss", "lr"}
    names |= {"masks", "rpn_objectness", "rpn_boxes"} if kind == "maskrcnn" else set()
    assert told[0].values.keys() == names
    parts = [value for name, value in told[0].values.items() if name not in ("loss", "lr")]
    assert told[0].values["loss"] == pytest.approx(sum(parts), rel=1e-5)
    panel = Image.open(folder / "panels" / "000002.png")
    assert panel.size == (2 * 64, 2 * 64)
    assert trained_kind(folder / LAST) == "detector"


def test_interrupted_training_goes_on_alike(trained, tmp_path):
    kind, folder, _ = trained
    assert not train(recipe(kind, panel_every=2), tmp_path, stop=lambda: True).finished
    assert train(recipe(kind, panel_every=2), tmp_path).finished
    assert same(weights(tmp_path / LAST), weights(folder / LAST))


def test_what_it_is_used_for(trained):
    kind, folder, _ = trained
    with pytest.raises(UserError, match="is a detector"):
        load_trained(folder / LAST, torch.device("cpu"), torch.float32)
    detector = load_detector(folder / LAST, torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 255, (80, 120, 3), np.uint8)
    found = detector.detect(image)
    assert (found.runs is not None) == (kind == "maskrcnn") == detector.masks
    assert (found.boxes >= 0).all()
    assert (found.boxes <= np.array([120, 80, 120, 80]) + 1e-3).all()
    again = load_detector(folder / LAST, torch.device("cpu")).detect(image)
    assert np.array_equal(found.boxes, again.boxes)
    assert found.overlay().size == (120, 80)
    assert found._repr_png_().startswith(b"\x89PNG")


def test_evaluation_and_its_file(trained, tmp_path):
    kind, folder, _ = trained
    detector = load_detector(folder / LAST, torch.device("cpu"))
    data = open_things("stickers20", side=64).first(3)
    done = []
    ran = evaluate_detector(detector, data, limit=2, progress=lambda n, total: done.append((n, total)))
    assert done == [(0, 2), (1, 2), (2, 2)]
    assert ran.images == 2
    kinds = ("box", "mask") if kind == "maskrcnn" else ("box",)
    assert set(ran.figures) == {
        f"{k} {name}" for k in kinds for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")
    }
    again = DetectionFigures.from_json(ran.to_json())
    assert again.to_json() == ran.to_json()
    kept = kept_evaluation(detector, data, tmp_path)
    (file,) = tmp_path.iterdir()
    changed = json.loads(file.read_text())
    changed["summary"]["box AP"] = 12.5
    file.write_text(json.dumps(changed))
    assert kept.images == 3
    assert kept_evaluation(detector, data, tmp_path).summary()["box AP"] == 12.5
    assert kept_evaluation(detector, data, tmp_path, fresh=True).summary()["box AP"] != 12.5
    with pytest.raises(UserError, match="no result of a detector"):
        DetectionFigures.from_json("{}")


def eager(checkpoint, path):
    """A copy that finds something everywhere; two steps teach a RetinaNet nothing."""
    saved = torch.load(checkpoint, weights_only=True)
    for name, tensor in saved["model"].items():
        if name.endswith("cls_logits.bias"):
            tensor += 5
    torch.save(saved, path)
    return path


def test_commands(trained, tmp_path, capsys):
    _, folder, _ = trained
    for number in range(2):
        picture = np.random.default_rng(number).integers(0, 255, (90, 70, 3), np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "torn.png").write_bytes(b"\x89PNG")
    model = eager(folder / LAST, tmp_path / "eager.pt")
    arguments = ("detect", tmp_path / "in", "--model", model, "--out", tmp_path / "out")
    ran = run(capsys, *arguments, "--threshold", "0")
    assert ran.code == 1 and "skipped" in ran.out
    assert (tmp_path / "out" / "0-detected.png").exists()
    from pycocotools.coco import COCO

    truth = COCO(str(tmp_path / "out" / "images.json"))
    results = truth.loadRes(str(tmp_path / "out" / "detections.json"))
    assert len(truth.getImgIds()) == 2 and results.getAnnIds()
    capsys.readouterr()
    assert run(capsys, *arguments).code == 2  # results are there
    ran = run(
        capsys, "evaluate", folder / LAST, "stickers20", "--limit", "2", "--out", tmp_path / "evaluated"
    )
    assert ran.code == 0, ran.err
    assert "box AP50" in ran.out
    assert json.loads((tmp_path / "evaluated" / "result.json").read_text())["images"] == 2
    assert (tmp_path / "evaluated" / "detections.json").exists()
    with Image.open(tmp_path / "evaluated" / "examples.png") as examples:
        assert examples.size == (2 * 320 + 6, 2 * (CAPTION + 320 + GAP)), (
            "not two pictures, truth above what was found"
        )
    ran = run(capsys, "evaluate", folder / LAST, "stickers20", "--preset", "sclip")
    assert ran.code == 2 and "--preset goes with models that segment" in ran.err
    ran = run(capsys, "segment", tmp_path / "in", "--model", folder / LAST, "--out", tmp_path / "s")
    assert ran.code == 1 and "skipped" in ran.out, ran.err
    assert (tmp_path / "s" / "0.png").exists()
    assert "0" not in json.loads((tmp_path / "s" / "classes.json").read_text())  # 0 is the background
    ran = run(capsys, "flops", folder / LAST, "--size", "64x64", "--json")
    assert ran.code == 0 and json.loads(ran.out)


def test_perfect_answers_have_all_points():
    """The figures are pycocotools' own; what is checked here is that truth and answers mean the same."""
    data = open_things("stickers20", side=64).first(5)
    images = list(data)
    found = [
        {
            "image_id": one.number,
            "category_id": data.categories[int(label)],
            "bbox": [*box[:2], box[2] - box[0], box[3] - box[1]],
            "score": 0.9,
            "segmentation": {**runs, "counts": runs["counts"].decode()},
        }
        for one in images
        for box, label, runs in zip(one.truth.boxes.tolist(), one.truth.labels, one.truth.runs, strict=True)
    ]
    figures, classes = average_precisions(images, found, data, masks=True)
    assert figures["box AP"] == pytest.approx(100) and figures["mask AP"] == pytest.approx(100)
    present = {data.classes[int(label)] for one in images for label in one.truth.learnable().labels}
    assert {name for name, values in classes.items() if values["box AP"] == pytest.approx(100)} == present
    shifted = [{**one, "bbox": [one["bbox"][0] + 30, *one["bbox"][1:]]} for one in found]
    assert average_precisions(images, shifted, data, masks=False)[0]["box AP"] < 50
    assert average_precisions(images, [], data, masks=False)[0]["box AP50"] == 0


def test_other_classes_are_refused(trained, tmp_path):
    _, folder, _ = trained
    detector = load_detector(folder / LAST, torch.device("cpu"))
    with pytest.raises(UserError, match="take data of the same classes"):
        evaluate_detector(detector, open_things("stickers59").first(1))


def test_own_data_in_coco_format(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(3):
        picture = rng.integers(0, 255, (70, 100, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "images" / f"{i}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 70, "width": 100} for i in range(3)],
        "categories": [{"id": 4, "name": "bolt"}, {"id": 9, "name": "hex nut"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 4 + 5 * (i % 2), "bbox": [5, 5, 40, 30], "area": 1200}
            for i in range(2)
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    (tmp_path / "data.json").write_text(json.dumps({"images": "images", "coco": "boxes.json"}))
    data = {"train": str(tmp_path / "data.json"), "images": None, "side": None}
    outcome = train(recipe(data=data, steps=1, batch=3), tmp_path / "run")
    detector = load_detector(outcome.checkpoint, torch.device("cpu"))
    assert detector.classes == ("bolt", "hex nut")
    with pytest.raises(UserError, match="train a retinanet"):
        train(recipe("maskrcnn", data=data, steps=1, batch=3), tmp_path / "run2")


def test_batches_are_whole_cells_and_padding_is_known():
    plan = recipe(detection={"crop": None, "ratio": [0.7, 1.4]})
    data = open_recipe_data(plan, None)
    task = build_task(plan, data, torch.device("cpu"))
    from denseclip.train.batches import Share

    batches = make_batches(plan, data, task, Share(4), 0)
    batch = batches.batch(0)
    assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
    assert len({tuple(size) for size in batch.extent.tolist()}) > 1
    for image, (height, width), one in zip(batch.images, batch.extent.tolist(), batch.instances, strict=True):
        assert not image[:, height:].any() and not image[:, :, width:].any()
        assert (one.boxes <= torch.tensor([width, height] * 2)).all()
        assert one.masks is None


def test_schedule_of_the_paper():
    plan = read_recipe("coco-denseclip-maskrcnn-rn50")
    rates = {step: learning_rate(plan, step) for step in (1, 251, 501, 58_640, 58_641, 80_631)}
    assert rates == pytest.approx(
        {1: 2e-7, 251: 1.001e-4, 501: 2e-4, 58_640: 2e-4, 58_641: 2e-5, 80_631: 2e-6}, rel=1e-3
    )
    assert plan.optimizer.clip == 0.1 and plan.detection.config["profile"] == "mmdet"


def test_text_encoder_has_rate_0_in_the_papers_recipe():
    """With the step schedule it then is really frozen, unlike in segmentation."""
    plan = recipe()
    config = {**SIZES, "official": True}
    plan = plan.model_copy(
        update={
            "denseclip": plan.denseclip.model_copy(update={"config": {**config, "positions": "interpolate"}})
        }
    )
    task = build_task(plan, open_recipe_data(plan, None), torch.device("cpu"))
    rates = {group["rate"]: group for group in task.parameter_groups()}
    assert rates.keys() == {0.0, 0.1, 1.0}
    text = {id(p) for p in task.model.text_encoder.parameters()}
    assert {id(p) for p in rates[0.0]["params"]} == text
    assert learning_rate(plan, 2, 0.0) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"hide": "all"}}, "learns from annotation"),
        ({"detection": {"config": {"kind": "yolo"}}}, "detector 'yolo' is not known"),
        ({"detection": {"config": {"kinds": "retinanet"}}}, "a detector has no setting 'kinds'"),
        ({"data": {"classes": "cat, dog"}}, "a detector needs boxes"),
        ({"data": {"train": "voc20", "side": None}}, "voc20 has no boxes"),
        ({"denseclip": {"weights": "random"}}, "without words"),
    ],
)
def test_recipes_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(recipe(**changes), tmp_path)
