"""Where a recipe of published size is not what its official configuration is, or is called, on purpose, and why.

All other options are the configuration's: a test compares them one by one.
"""

_NAMED_R101 = "the official file is named deeplabv2_r101, its network is a ResNet-50, and so is this one"
_RESNET_50 = (
    "voc20-annofree-vit16",
    "cityscapes-annofree-vit16",
    "context59-annofree-vit16",
    "context59-annofree-vit16-ks",
    "context59-annofree-vit16-pd",
    "context59-annofree-vit16-kspd",
    "context59-annofree-vit16-distill",
    "coco-stuff-annofree-vit16",
    "coco-stuff-annofree-vit16-ks",
    "coco-stuff-annofree-vit16-pd",
    "coco-stuff-annofree-vit16-kspd",
    "web-blur",
    "web-car-brands",
    "web-sports",
)
_DETECTORS = tuple(
    f"coco-{words}{kind}-{net}"
    for words in ("", "denseclip-")
    for kind in ("retinanet", "maskrcnn")
    for net in ("rn50", "rn101")
)
_NORMS = "the official network takes no norm_eval and drops it without a word: its batch norms are trained"
DIFFERENCES: dict[tuple[str, str], str] = {
    **{(name, "name"): _NAMED_R101 for name in _RESNET_50},
    **{(name, "detection.norm_eval"): _NORMS for name in _DETECTORS},
    ("ade20k-fpn-rn101", "denseclip.pretrained"): (
        "the official file loads RN50's weights into 101 layers without an error, and 17 blocks stay random"
    ),
    ("web-batman-ext", "classes"): "the official file has 12 classes, the set of words that it names 26",
    ("context59-annofree-vit16-distill", "distillation"): (
        "the official code detaches the student's features, so that its distillation trains nothing; here it trains"
    ),
}
"""{(recipe, option): reason}."""


def of_recipe(name: str) -> dict[str, str]:
    """{option: reason} of a recipe."""
    return {option: reason for (recipe, option), reason in DIFFERENCES.items() if recipe == name}
