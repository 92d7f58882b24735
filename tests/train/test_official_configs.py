"""Every recipe of published size against its official configuration, option by option.

official_configs.json: what the 59 configurations that can be parsed say, resolved from their bases, of batch, size,
augmentation, optimizer, schedule, network and test. Lists of classes are given by their length.
"""

import json
from pathlib import Path

import pytest

from cli_support import run
from denseclip.data.published import dataset_spec
from denseclip.data.transforms import ResizeRule
from denseclip.evaluate.run import protocol_settings
from denseclip.train.differences import DIFFERENCES
from denseclip.train.recipe import read_recipe, recipe_names

FACTS = json.loads((Path(__file__).parent / "official_configs.json").read_text())
GPUS = {"maskclip_plus": 4, "denseclip": 8, "fpn": 8, "detection": 8}
DATA = {
    "PascalContextDataset59": "context59",
    "PascalContextDataset": "context60",
    "PascalVOCDataset20": "voc20",
    "PascalVOCDataset": "voc21",
    "CityscapesDataset": "cityscapes",
    "ADE20KDataset": "ade20k",
    "COCOStuffDataset": "coco-stuff",
}
TEACHERS = {"r50": "RN50", "r50x16": "RN50x16", "vit16": "ViT-B-16"}


def recipe_of(name):
    """The recipe of a configuration, "" for one that trains nothing."""
    if name.startswith("maskclip/"):
        return ""
    if name.startswith("detection/"):
        kind, what, net = name.removeprefix("detection/").replace("mask_rcnn", "maskrcnn").split("_")[:3]
        return f"coco-{'denseclip-' if what == 'denseclip' else ''}{kind}-rn{net[1:]}"
    if "fpn" in name:
        what = "denseclip" if name.startswith("denseclip") else "fpn"
        net = "vitb16" if "vit" in name else "rn101" if "101" in name else "rn50"
        return f"ade20k-{what}-{net}"
    parts = name.rpartition("maskclip_plus_")[2].split("_")
    if "web_image" in name:
        return "web-" + "-".join(parts[parts.index("300") + 1 :])
    extra = "-" + parts.pop(0) if parts[0] in ("ks", "pd", "kspd", "distill") else ""
    net = {"r50": "rn50", "r50x16": "rn50x16", "vit16": "vit16"}[parts[0]]
    kind = "zeroshot" if "zero_shot" in name else "annofree"
    return f"{DATA[FACTS[name]['data']]}-{kind}-{net}{extra}"


RECIPES = {name: recipe_of(name) for name in FACTS}


def test_every_configuration_has_its_recipe_or_protocol():
    assert len(FACTS) == 59
    assert {recipe for recipe in RECIPES.values() if recipe} <= set(recipe_names())
    assert sum(not recipe for recipe in RECIPES.values()) == 13  # training-free ones


def long_short(pair):
    return f"{max(pair)}x{min(pair)}"


def of_segmentation(facts, recipe):
    """{option: (official, ours)} of MaskCLIP+ and of DenseCLIP on ADE20K."""
    spec = None if recipe.data.train.startswith("web/") else dataset_spec(recipe.data.train)
    usual = None if spec is None else spec.resize
    size = recipe.augment.resize or str(usual)
    tested = recipe.evaluation.resize or (None if usual is None else str(usual))
    optimizer, schedule = facts["optimizer"], facts["lr"]
    plus = recipe.system == "maskclip+"
    gpus = GPUS["maskclip_plus"] if plus else GPUS["denseclip"]
    found = {
        "data": (DATA.get(facts["data"], "web"), recipe.data.train.partition("/")[0]),
        "steps": (facts["iters"], recipe.steps),
        "batch": (facts["samples_per_gpu"] * gpus, recipe.batch),
        "resize": (str(ResizeRule.parse(long_short(facts["resize"]))), str(ResizeRule.parse(size))),
        "ratio": (facts["ratio"], list(recipe.augment.ratio)),
        "crop": (facts["crop"], list(recipe.augment.crop)),
        "cat_max_ratio": (facts["cat_max_ratio"], recipe.augment.cat_max_ratio),
        "flip": (facts["flip"], recipe.augment.flip),
        "colors": (facts["colors"], recipe.augment.colours),
        "optimizer": (optimizer["type"].lower(), recipe.optimiser.name),
        "lr": (optimizer["lr"], recipe.optimiser.lr),
        "weight_decay": (optimizer["weight_decay"], recipe.optimiser.weight_decay),
        "power": (schedule["power"], recipe.optimiser.power),
        "min_lr": (schedule["min_lr"], recipe.optimiser.min_lr),
        "warmup": (schedule.get("warmup_iters", 0), recipe.optimiser.warmup),
    }
    if "momentum" in optimizer:
        found["momentum"] = (optimizer["momentum"], recipe.optimiser.momentum)
    if tested is not None:
        found["test size"] = (
            str(ResizeRule.parse(long_short(facts["test_scale"]))),
            str(ResizeRule.parse(tested)),
        )
    test = facts["test_cfg"]
    slide = f"{test['crop_size'][0]}/{test['stride'][0]}" if test["mode"] == "slide" else None
    found["test windows"] = (slide, recipe.evaluation.slide)
    return found | (of_maskclip_plus(facts, recipe, spec) if plus else of_denseclip(facts, recipe))


def of_maskclip_plus(facts, recipe, spec):
    heads = {
        "ASPPHeadV2": "aspp_v2",
        "DepthwiseSeparableASPPHead": "deeplabv3plus",
        "ASPPHeadV3Plus": "deeplabv3plus",
    }
    refine = (
        "+".join(name for name, key in (("pd", "pd_thresh"), ("ks", "ks_thresh")) if key in facts) or None
    )
    guided, own = facts["start_clip_guided"], facts["start_self_train"]
    span = lambda pair: None if pair == [-1, -1] else (pair[0], None if pair[1] == -1 else pair[1])  # noqa: E731
    things = facts["text_categories"]
    hidden = facts.get("clip_unlabeled_cats", 0)
    hide = "all" if hidden == things else "unseen"
    found = {
        "teacher": (facts["teacher"], recipe.teacher.model),
        "refine": (refine, recipe.teacher.refine),
        "backbone": (f"resnet{facts['depth']}", recipe.student.backbone),
        "output stride": (8 if facts["dilations"] == [1, 1, 2, 4] else 16, recipe.student.output_stride),
        "background": (facts["cls_bg"], recipe.student.background),
        "normalize": (facts["norm_feat"], recipe.student.normalise),
        "guided": (span(guided), recipe.labels.guided),
        "self-training": (span(own), recipe.labels.self_training),
        "hide": (hide, recipe.labels.hide),
        "distillation": (float(facts.get("distill_weight", 0)), recipe.labels.distillation),
        "average": ("official", recipe.labels.average),
    }
    if facts["module"] in heads:
        found["head"] = (heads[facts["module"]], recipe.student.head)
    if spec is not None and hide == "unseen":
        found["unseen classes"] = (hidden, len(spec.unseen))
    return found


def of_denseclip(facts, recipe):
    config = recipe.denseclip.config
    language = "aux" in facts
    keys = facts["optimizer"]["paramwise_cfg"]["custom_keys"]
    found = {
        "language": (language, config.get("language", True)),
        "rate of the backbone": (keys["backbone"]["lr_mult"], 0.1),
        "decay of norms": (keys["norm"]["decay_mult"], 0.0),
        "official": (True, config.get("official")),
    }
    if language:
        found["weight of the score map's loss"] = (facts["aux"], config.get("aux_weight", 0.4))
        found["contexts"] = (13 - facts["context"], config.get("contexts", 8))
    if facts.get("resolution"):
        found["resolution"] = (facts["resolution"], config.get("resolution", 512))
    if "vit" in recipe.denseclip.clip.lower():
        found["drop path"] = (facts.get("drop_path_rate", 0.0), config.get("drop_path", 0.1))
    return found


def of_detection(facts, recipe):
    """{option: (official, ours)} of RetinaNet and Mask R-CNN on COCO."""
    optimizer, schedule = facts["optimizer"], facts["lr_config"]
    steps = recipe.steps
    return {
        "kind": (facts["kind"], recipe.detection.config.get("kind", "retinanet")),
        "clip": (facts["clip"], recipe.denseclip.clip),
        "language": (facts["language"], recipe.denseclip.config.get("language", True)),
        "batch": (facts["samples_per_gpu"] * GPUS["detection"], recipe.batch),
        "resize": (long_short(facts["resize"]), recipe.detection.resize),
        "flip": (facts["flip"], recipe.detection.flip),
        "lr": (optimizer["lr"], recipe.optimiser.lr),
        "weight_decay": (optimizer["weight_decay"], recipe.optimiser.weight_decay),
        "clip gradients": (facts["clip_grad"]["max_norm"], recipe.optimiser.clip),
        "warmup": (schedule["warmup_iters"], recipe.optimiser.warmup),
        "warmup ratio": (schedule["warmup_ratio"], recipe.optimiser.warmup_ratio),
        "drops, epochs of 12": (schedule["step"], [round(12 * at / steps) for at in recipe.optimiser.drops]),
    }


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe])
def test_a_recipe_says_what_its_configuration_says(name):
    recipe = read_recipe(RECIPES[name])
    compared = (of_detection if name.startswith("detection/") else of_segmentation)(FACTS[name], recipe)
    wrong = {
        option: {"official": official, "ours": ours}
        for option, (official, ours) in compared.items()
        if official != ours
    }
    assert not wrong


@pytest.mark.parametrize(
    "name", [name for name in FACTS if name.startswith("maskclip/") and "demo" not in name]
)
def test_training_free_protocols_have_the_official_sizes(name):
    facts = FACTS[name]
    spec = dataset_spec(DATA[facts["test_data"]])
    ours = protocol_settings("official", spec)["resize"]
    assert str(ResizeRule.parse(long_short(facts["test_scale"]))) == str(ours)


def test_names_that_lie_about_their_network_are_told():
    """Every configuration whose file says r101 and whose network is a ResNet-50, and no other."""
    lying = {
        RECIPES[name]
        for name, facts in FACTS.items()
        if RECIPES[name] and "r101" in name and facts.get("depth") == 50 and "maskclip_plus" in name
    }
    assert {recipe for recipe, option in DIFFERENCES if option == "name"} == lying
    assert {recipe for recipe, _ in DIFFERENCES} <= set(recipe_names())


def test_a_dry_run_tells_them(capsys):
    changes = ["teacher.model=tiny-rn", "student.backbone=resnet18", "augment.crop=[64,64]"]
    ran = run(capsys, "train", "context59-annofree-vit16-distill", *changes, "--dry-run")
    assert ran.code == 0, ran.err
    assert "differs on purpose distillation" in ran.out and "ResNet-50" in ran.out
