"""Every recipe against its published configuration, option by option (tests/train/official_configs.json)."""

import json
from pathlib import Path

import pytest

from cli_support import run
from denseclip.data.published import dataset_spec
from denseclip.data.transforms import ResizeRule
from denseclip.detection.config import DetectorConfig, guidance_config
from denseclip.evaluate.run import protocol_settings
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import OFFICIAL_RULES
from denseclip.segment.settings import Refinement
from denseclip.text import ClassPrompts
from denseclip.train.maskclip_plus import STATS
from denseclip.train.recipe import DIFFERENCES, of_recipe, read_recipe, recipe_names

CONFIGS = json.loads((Path(__file__).parent / "official_configs.json").read_text(encoding="utf-8"))
DATA = {
    "PascalVOCDataset20": "voc20",
    "PascalVOCDataset": "voc21",
    "PascalContextDataset59": "context59",
    "PascalContextDataset": "context60",
    "COCOStuffDataset": "coco-stuff",
    "ADE20KDataset": "ade20k",
    "CityscapesDataset": "cityscapes",
    "CocoDataset": "coco",
}
HEADS = {"ASPPHeadV2": "aspp_v2", "DepthwiseSeparableASPPHead": "deeplabv3plus"}
COCO_LEARNED = 117_266  # images of train2017 with boxes
GPUS = {"configs": 4, "segmentation": 8, "detection": 8}


def recipe_of(name):
    """The recipe of a configuration, "" for one that trains nothing."""
    family, _, name = name.partition("configs/")
    if name.startswith("maskclip/"):
        return ""
    if family == "detection/":
        kind, what, net = name.replace("mask_rcnn", "maskrcnn").split("_")[:3]
        return f"coco-{'denseclip-' if what == 'denseclip' else ''}{kind}-rn{net[1:]}"
    if "fpn" in name:
        what = "denseclip" if name.startswith("denseclip") else "fpn"
        net = "vitb16" if "vit" in name else "rn101" if "101" in name else "rn50"
        return f"ade20k-{what}-{net}"
    parts = name.removesuffix(".py").rpartition("maskclip_plus_")[2].split("_")
    if "web_image" in name:
        return "web-" + "-".join(parts[parts.index("300") + 1 :])
    extra = "-" + parts.pop(0) if parts[0] in ("ks", "pd", "kspd", "distill") else ""
    net = {"r50": "rn50", "r50x16": "rn50x16", "vit16": "vit16"}[parts[0]]
    kind = "zeroshot" if "zero_shot" in name else "annofree"
    return f"{DATA[CONFIGS[family + 'configs/' + name]['train']['type']]}-{kind}-{net}{extra}"


RECIPES = {name: recipe_of(name) for name in CONFIGS}


TRAINED = [name for name, recipe in RECIPES.items() if recipe]


def scale(pair):
    return "x".join(map(str, sorted(pair, reverse=True)))


def clip_of(config):
    if "ViT" in str(config.get("pretrained", "")) or config.get("type") == "VisionTransformer":
        return "ViT-B-16"
    return {50: "RN50", "50x16": "RN50x16"}[config["depth"]]


def phase(pair):
    return None if pair[0] < 0 else (pair[0], None if pair[1] < 0 else pair[1])


def published(file):
    """The options of a configuration, under the names of a recipe."""
    config = CONFIGS[file]
    model, train, test, optimizer = (config[k] for k in ("model", "train", "test", "optimizer"))
    pipe, schedule = train["pipeline"], config["lr_config"]
    found = {
        "batch": GPUS[file.split("/")[0]] * config["samples_per_gpu"],
        "optimizer.name": optimizer["type"].lower(),
        "optimizer.lr": optimizer["lr"],
        "optimizer.weight_decay": optimizer["weight_decay"],
        "optimizer.warmup": schedule.get("warmup_iters", 0),
        "mean": [round(v, 3) for v in pipe["Normalize"]["mean"]],
        "std": [round(v, 3) for v in pipe["Normalize"]["std"]],
        "resize": scale(pipe["Resize"]["img_scale"]),
        "flip": pipe["RandomFlip"].get("prob", pipe["RandomFlip"].get("flip_ratio")),
        "colors": "PhotoMetricDistortion" in pipe,
        "evaluation.flip": test["pipeline"]["test"]["flip"],
        "evaluation.resize": scale(test["pipeline"]["test"]["img_scale"]),
        "evaluation.metric": config["evaluation"]["metric"],
    }
    if "warmup_ratio" in schedule:
        found["optimizer.warmup_ratio"] = schedule["warmup_ratio"]
    if not file.startswith("detection"):
        found |= {
            "steps": config["runner"]["max_iters"],
            "augment.ratio": tuple(pipe["Resize"]["ratio_range"]),
            "augment.crop": tuple(pipe["RandomCrop"]["crop_size"]),
            "augment.cat_max_ratio": pipe["RandomCrop"]["cat_max_ratio"],
            "augment.padded": tuple(pipe["Pad"]["size"]),
            "optimizer.power": schedule["power"],
            "optimizer.min_lr": schedule["min_lr"],
            "evaluation.slide": None,
        }
        if model["test_cfg"]["mode"] == "slide":
            found["evaluation.slide"] = (
                f"{model['test_cfg']['crop_size'][0]}/{model['test_cfg']['stride'][0]}"
            )
    if file.startswith("configs"):
        return found | _published_student(model, train) | {"optimizer.momentum": optimizer["momentum"]}
    custom = optimizer["paramwise_cfg"]["custom_keys"]
    found |= {f"rate of {k}": v["lr_mult"] for k, v in custom.items() if "lr_mult" in v}
    found |= {f"decay of {k}": v["decay_mult"] for k, v in custom.items() if "decay_mult" in v}
    return found | _published_guided(file, config)


def _published_student(model, train):
    head = model["decode_head"]
    refine = "+".join(f"{k}={head[f'{k}_thresh']:g}" for k in ("pd", "ks") if head.get(f"{k}_thresh"))
    return {
        "data.train": DATA.get(train["type"], "words"),
        "classes": head["text_categories"],
        "student.backbone": f"resnet{model['backbone']['depth']}",
        "student.head": HEADS[head["decode_module_cfg"]["type"]],
        "student.output_stride": 4 * 2 ** sum(s == 2 for s in model["backbone"]["strides"]),
        "student.pretrained": model["pretrained"].startswith("open-mmlab://resnet"),
        "student.background": head["cls_bg"],
        "student.normalize": head["norm_feat"],
        "teacher.model": clip_of(head["clip_cfg"]),
        "teacher.refine": str(Refinement.parse(refine or None)),
        "labels.average": "official",
        "labels.hide": "unseen" if head.get("unlabeled_cats") else "all",
        "labels.guided": phase(head["start_clip_guided"]),
        "labels.self_training": phase(head["start_self_train"]),
        "labels.distillation": float(head.get("distill_weight", 0)),
        "unseen": sorted(head.get("unlabeled_cats", ())),
    }


def _published_guided(file, config):
    model, backbone = config["model"], config["model"]["backbone"]
    vit, language = backbone["type"] == "CLIPVisionTransformer", "context_decoder" in model
    layers = None if vit else tuple(backbone.get("layers", ()))
    found = {
        "data.train": DATA[config["train"]["type"]],
        "denseclip.clip": "ViT-B-16" if vit else {(3, 4, 6, 3): "RN50", (3, 4, 23, 3): "RN101"}[layers],
        "denseclip.pretrained": Path(model["pretrained"]).stem,
        "denseclip.language": language,
        "denseclip.fpn_channels": model["neck"]["out_channels"],
        "denseclip.drop_path": backbone.get("drop_path_rate", 0.0) if vit else None,
    }
    if "input_resolution" in backbone and (language or vit):
        found["denseclip.resolution"] = backbone["input_resolution"]
    if language:
        decoder = model["context_decoder"]
        found |= {
            "denseclip.contexts": model["text_encoder"]["context_length"] - model["context_length"],
            "denseclip.decoder_width": decoder["transformer_width"],
            "denseclip.decoder_heads": decoder["transformer_heads"],
            "denseclip.decoder_layers": decoder["transformer_layers"],
            "denseclip.decoder_dropout": decoder["dropout"],
        }
    if file.startswith("segmentation"):
        found["denseclip.head_dropout"] = model["decode_head"]["dropout_ratio"]
        found["denseclip.classes"] = model["decode_head"]["num_classes"]
        if language:
            found["denseclip.score_level"] = model.get("score_concat_index", 3)
        return found
    epoch = -(-COCO_LEARNED // 16)
    return found | {
        "steps": 12 * epoch,
        "optimizer.drops": tuple(epochs * epoch for epochs in config["lr_config"]["step"]),
        "optimizer.clip": config["optimizer_config"]["grad_clip"]["max_norm"],
        "detection.kind": "maskrcnn" if "roi_head" in model else "retinanet",
        "detection.crop": None,
        "detection.norm_eval": backbone["norm_eval"],
    }


def resolved(name):
    """The same options of a recipe."""
    recipe = read_recipe(name)
    data, optimizer = recipe.data, recipe.optimizer
    part = recipe.detection if recipe.system == "detection" else recipe.augment
    spec = None if data.train == "coco" or data.classes else dataset_spec(data.train)
    usual = str(spec.resize) if spec else "2048x512"  # of pictures without a data set: the default of a spec
    evaluated = part.resize if recipe.system == "detection" else recipe.evaluation.resize or usual
    mean, std = STATS.mean, STATS.std
    if recipe.system != "maskclip+":
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    found = {
        **{key: getattr(recipe, key) for key in ("batch", "steps")},
        **{f"optimizer.{key}": value for key, value in optimizer.model_dump().items()},
        **{f"augment.{key}": value for key, value in recipe.augment.model_dump().items()},
        "augment.padded": recipe.augment.crop,
        "mean": [round(v * 255, 3) for v in mean],
        "std": [round(v * 255, 3) for v in std],
        "resize": part.resize or usual,
        "flip": part.flip,
        "colors": part.colors,
        "data.train": "words" if data.classes else data.train,
        "evaluation.resize": evaluated,
        "evaluation.slide": recipe.evaluation.slide,
        "evaluation.flip": recipe.evaluation.flip,
        "evaluation.metric": "mIoU",
    }
    if recipe.system == "maskclip+":
        known = spec.classes if spec else ClassPrompts.parse(data.classes).classes
        student = {f"student.{key}": value for key, value in recipe.student.model_dump().items()}
        labels = {f"labels.{key}": value for key, value in recipe.labels.model_dump().items()}
        return (
            found
            | student
            | labels
            | {
                "classes": len(known) - recipe.student.background,
                "teacher.model": recipe.teacher.model,
                "teacher.refine": str(Refinement.parse(recipe.teacher.refine)),
                "unseen": sorted(spec.unseen) if recipe.labels.hide == "unseen" else [],
            }
        )
    return found | _resolved_guided(recipe, spec)


def _resolved_guided(recipe, spec):
    settings = recipe.denseclip.config
    detector = recipe.system == "detection"
    config = guidance_config(settings) if detector else DenseClipConfig.from_dict(settings)
    vit = recipe.denseclip.clip.startswith("ViT")
    found = {f"denseclip.{key}": value for key, value in config.to_dict().items()} | {
        "denseclip.clip": recipe.denseclip.clip,
        "denseclip.pretrained": recipe.denseclip.clip,
        "denseclip.drop_path": config.drop_path if vit else None,
        "denseclip.score_level": 3 if config.score_level is None else config.score_level,
    }
    assert config.official  # the rules below are then those of the published code
    for key, rate, decay in OFFICIAL_RULES:
        found |= {f"rate of {key}": rate, f"decay of {key}": decay}
    if not detector:
        return found | {"denseclip.classes": len(spec.classes)}
    made = DetectorConfig.from_dict(recipe.detection.config)
    return found | {
        "detection.kind": made.kind,
        "detection.crop": recipe.detection.crop,
        "detection.norm_eval": made.details.frozen_norms,
        "evaluation.metric": ["bbox", "segm"] if made.kind == "maskrcnn" else "bbox",
    }


@pytest.mark.parametrize("name", TRAINED)
def test_a_recipe_says_what_its_configuration_says(name):
    recipe = RECIPES[name]
    ours, theirs = resolved(recipe), published(name)
    different = {key for key, value in theirs.items() if value != ours.get(key, "nothing")}
    assert different == {option for option in of_recipe(recipe) if option in theirs}


def test_every_configuration_has_its_recipe_or_protocol():
    assert len(CONFIGS) == 59
    assert {RECIPES[name] for name in TRAINED} <= set(recipe_names())
    assert len({RECIPES[name] for name in TRAINED}) == len(TRAINED) == 46
    rest = [name for name in CONFIGS if name not in TRAINED and name not in PROTOCOLS]
    assert [Path(name).stem for name in rest] == [
        "maskclip_vit16_512x512_demo"
    ]  # a picture and words of one's own


PROTOCOLS = [name for name in CONFIGS if not RECIPES[name] and "demo" not in name]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_training_free_protocols_have_the_official_sizes(name):
    config = CONFIGS[name]
    spec = dataset_spec(DATA[config["test"]["type"]])
    settings = protocol_settings("official", spec)
    size = scale(config["test"]["pipeline"]["test"]["img_scale"])
    assert settings["resize"] == ResizeRule.parse(size)
    assert config["model"]["test_cfg"]["mode"] == "whole" and settings.get("slide", "none") == "none"
    assert len(spec.classes) == config["model"]["decode_head"]["text_categories"]


def test_names_that_lie_about_their_network_are_told():
    """Every configuration whose file says r101 and whose network is a ResNet-50, and no other."""
    lying = {
        RECIPES[name]
        for name in TRAINED
        if "maskclip_plus" in name and "r101" in name and CONFIGS[name]["model"]["backbone"]["depth"] == 50
    }
    assert {recipe for recipe, option in DIFFERENCES if option == "name"} == lying
    assert {recipe for recipe, _ in DIFFERENCES} <= set(recipe_names())
    compared = {option for name in TRAINED for option in published(name)}
    assert {option for _, option in DIFFERENCES} - compared == {"name", "distillation"}


def test_a_dry_run_tells_them(capsys):
    changes = ["teacher.model=tiny-rn", "student.backbone=resnet18", "augment.crop=[64,64]"]
    ran = run(capsys, "train", "context59-annofree-vit16-distill", *changes, "--dry-run")
    assert ran.code == 0, ran.err
    assert "differs on purpose distillation" in ran.out and "ResNet-50" in ran.out
