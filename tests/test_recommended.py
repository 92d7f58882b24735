"""What a model's own configuration recommends is used by everything unless told otherwise."""

import json

import pytest

import denseclip
from clip_support import write_embedded
from denseclip.data.published import dataset_spec
from denseclip.errors import UserError
from denseclip.evaluate.run import segmenter_for
from denseclip.segment.settings import PRESETS, Refinement, Slide

ASKED = {"preset": "sclip", "resize": "short:64", "slide": "48/32", "refine": "pd"}


@pytest.fixture
def folder(tmp_path):
    made = write_embedded(tmp_path / "tiny", "vit")
    recommend(made, ASKED)
    return made


def recommend(folder, options):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"denseclip": options}))


def load(folder, **options):
    return denseclip.load(folder, ["cat"], cache=False, precision="fp32", templates="1", **options).settings


def test_load_takes_what_is_recommended(folder):
    found = load(folder)
    assert (found.dense, str(found.resize)) == (PRESETS["sclip"], "short:64")
    assert (found.slide, found.refine) == (Slide(48, 32), Refinement(pd=0.5))


def test_the_user_goes_before(folder):
    found = load(folder, preset="maskclip", resize="none", slide="none", refine="guided")
    assert (found.dense, str(found.resize)) == (PRESETS["maskclip"], "none")
    assert (found.slide, found.refine) == (None, Refinement(guided=True))
    assert load(folder, slide=None).slide is None


def test_published_protocols_are_what_they_say(folder):
    found = load(folder, compat="official")
    assert (found.dense, found.slide, found.refine) == (PRESETS["maskclip"], None, Refinement())


def test_evaluation_follows_it_at_the_data_sets_size_or_a_named_protocol(folder):
    options = {"cache": False, "precision": "fp32", "templates": "1"}
    found = segmenter_for(dataset_spec("stickers20"), folder, protocol="recommended", **options).settings
    assert (found.dense, str(found.resize), found.slide) == (PRESETS["sclip"], "none", Slide(48, 32))
    assert found.refine == Refinement(pd=0.5)
    ours = segmenter_for(dataset_spec("stickers20"), folder, **options).settings
    assert (ours.dense, ours.slide, ours.refine) == (PRESETS["maskclip"], None, Refinement())


def test_without_a_recommendation_evaluation_refines_nothing(tmp_path):
    plain = write_embedded(tmp_path / "plain", "rn")
    options = {"cache": False, "precision": "fp32", "templates": "1"}
    found = segmenter_for(dataset_spec("stickers20"), plain, protocol="recommended", **options).settings
    assert (found.dense, found.slide, found.refine) == (PRESETS["maskclip"], None, Refinement())


@pytest.mark.parametrize("wrong", [{"presett": "sclip"}, {"slide": 3}, "sclip"])
def test_a_recommendation_that_is_not_understood_is_refused(folder, wrong):
    recommend(folder, wrong)
    with pytest.raises(UserError, match="'denseclip' in its configuration must be"):
        load(folder)
    recommend(folder, {"preset": "sclipp"})
    with pytest.raises(UserError, match="preset 'sclipp' is unknown"):
        load(folder)
