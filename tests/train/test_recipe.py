"""Training recipes: types, changes, bases, and that all packaged ones are sound."""

import pytest

from denseclip.data.published import dataset_spec
from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig
from denseclip.train.pseudo_labels import LabelSchedule
from denseclip.train.recipe import make_recipe, parse_changes, read_recipe, recipe_names
from denseclip.train.training import training_data_or_words
from train_support import small

DATA = {"data": {"train": "stickers20"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "data is missing"),
        ({"data": {"trian": "x", "train": "y"}}, r"unknown key data\.trian; did you mean data\.train"),
        ({**DATA, "steps": "many"}, "steps = 'many': input should be a valid integer"),
        ({**DATA, "steps": 0}, "steps = 0"),
        ({**DATA, "student": {"head": "fcn"}}, "student.head = 'fcn'"),
        ({**DATA, "batch": 6, "accumulate": 4}, "batch = 6 does not divide"),
        ({**DATA, "labels": {"hide": "unseen", "ignore_mask": "none"}}, "goes with hide"),
        ({**DATA, "labels": {"hide": "none", "guided": [1, 5]}}, "leaves nothing to guide"),
    ],
)
def test_mistakes_are_one_line(content, message):
    with pytest.raises(UserError, match=message) as caught:
        make_recipe(content)
    assert "\n" not in str(caught.value)


def test_changes():
    changed = read_recipe(
        "stickers20-zeroshot", ["steps=7", "data.images=none", "teacher.refine=pd+ks", "labels.guided=[2]"]
    )
    assert (changed.steps, changed.data.images, changed.teacher.refine) == (7, None, "pd+ks")
    assert changed.labels.guided == (2, None)
    assert parse_changes(["augment.crop=[64, 32]"]) == {"augment": {"crop": [64, 32]}}
    for wrong in ("steps", "=3", "steps.more=3"):
        with pytest.raises(UserError, match=r"not understood|is no key"):
            read_recipe("stickers20-zeroshot", [wrong])


def test_a_file_with_a_base(tmp_path):
    (tmp_path / "mine.toml").write_text('base = "stickers20-zeroshot"\n[data]\nimages = 5\n')
    mine, base = read_recipe(tmp_path / "mine.toml"), read_recipe("stickers20-zeroshot")
    assert mine.data.images == 5
    assert mine.model_copy(update={"data": base.data}) == base


def test_unknown_names_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="stickers20-zeroshot"):
        read_recipe("stickers20-zeroshoot")
    (tmp_path / "torn.toml").write_text("steps = ")
    with pytest.raises(UserError, match="is no TOML"):
        read_recipe(tmp_path / "torn.toml")


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes(name):
    recipe = read_recipe(name)
    assert recipe.title
    if name.startswith(("own-", "web-")) or recipe.system == "detection":
        return
    spec = dataset_spec(recipe.data.train)
    LabelSchedule(recipe.labels.guided, recipe.labels.self_training)  # refuses overlaps
    assert recipe.labels.hide != "unseen" or spec.unseen
    assert not recipe.student.background or spec.background == 0


def test_published_settings():
    """maskclip section d.3: the zero-shot VOC run, and the exception for Context."""
    voc, context = read_recipe("voc20-zeroshot-rn50"), read_recipe("context60-zeroshot-rn50")
    assert (voc.steps, voc.batch, voc.labels.guided, voc.labels.self_training) == (
        20_000,
        16,
        (1, 1999),
        (2000, None),
    )
    assert (voc.optimizer.lr, voc.optimizer.weight_decay, voc.optimizer.min_lr) == (0.01, 5e-4, 1e-4)
    assert (voc.augment.crop, voc.augment.ratio, voc.augment.cat_max_ratio) == ((512, 512), (0.5, 2.0), 0.75)
    assert (context.optimizer.lr, context.optimizer.weight_decay) == (0.004, 1e-4)
    assert context.student.background and context.student.head == "deeplabv3plus"
    assert read_recipe("voc20-adapted").labels.guided is None


def test_denseclip_recipes():
    """denseclip section 4.1."""
    rn50, vit = read_recipe("ade20k-denseclip-rn50"), read_recipe("ade20k-denseclip-vitb16")
    assert (rn50.batch, rn50.steps, rn50.optimizer.name, rn50.optimizer.lr) == (32, 80_000, "adamw", 1e-4)
    assert (rn50.optimizer.min_lr, rn50.optimizer.warmup, rn50.optimizer.warmup_ratio) == (1e-6, 1500, 1e-6)
    assert (vit.augment.crop, vit.augment.resize, vit.evaluation.slide) == ((640, 640), "2048x640", "640/426")
    for name in recipe_names():
        recipe = read_recipe(name)
        if recipe.system == "denseclip":
            DenseClipConfig.from_dict(recipe.denseclip.config)
    with pytest.raises(UserError, match="learns from annotation"):
        make_recipe({**DATA, "system": "denseclip"})


@pytest.mark.parametrize(("name", "classes"), [("voc20-supervised", 20), ("coco-retinanet-rn50", 80)])
def test_the_words_of_published_data_are_known_without_its_images(name, classes):
    data = training_data_or_words(read_recipe(name), None)
    assert len(data) == 0 and len(data.spec.classes if name.startswith("voc") else data.classes) == classes


def test_clips_that_a_recipe_starts_from():
    assert small().clips == ("tiny-rn",)
    assert small(student={"backbone": "clip"}, teacher={"model": "tiny-vit"}).clips == ("tiny-vit",)
    assert small(student={"backbone": "clip:tiny-rn"}, teacher={"model": "tiny-vit"}).clips == (
        "tiny-vit",
        "tiny-rn",
    )
    assert read_recipe("stickers59-denseclip").clips == ("tiny-rn",)
