"""Named protocols: what they set, and what goes before them."""

import json

import numpy as np
import pytest

from clip_support import write_embedded
from denseclip.data.published import dataset_spec
from denseclip.errors import UserError
from denseclip.evaluate.run import protocol_settings, segmenter_for, worded
from denseclip.loading import make_settings
from denseclip.segment.settings import PRESETS


def described(protocol, name, **changes):
    return make_settings(**protocol_settings(protocol, dataset_spec(name), **changes)).describe()


def test_sizes_are_those_of_the_data_set():
    for protocol in ("ours", "official"):
        assert described(protocol, "context59")["resize"] == "520x520"
        assert described(protocol, "voc20")["resize"] == "2048x512"
    assert described("slide", "context59")["resize"] == "short:336"


def test_the_protocols():
    ours, official, slide = (described(name, "voc20", refine="ks") for name in ("ours", "official", "slide"))
    assert (ours["compat"], ours["templates"], ours["inference"]) == ("none", 85, "whole")
    assert (official["compat"], official["templates"], official["inference"]) == ("official", 85, "whole")
    assert official["key smoothing"] == "1 over positions"
    assert ours["key smoothing"] == "1 over channels"
    assert (slide["compat"], slide["templates"], slide["inference"]) == ("none", 80, "slide 224/112")


def test_what_is_given_goes_before_the_protocol():
    found = described("slide", "voc20", resize="short:448", templates="1", preset="sclip")
    assert (found["resize"], found["templates"], found["inference"]) == ("short:448", 1, "slide 224/112")
    assert found["last block"] == "qq+kk+residual+mlp"


def test_background_words_only_where_there_is_such_a_class():
    assert described("ours", "voc21")["background"] == "words usual"
    assert described("ours", "voc20")["background"] == "none"
    assert described("official", "voc21")["background"] == "none"
    assert described("ours", "voc21", threshold=0.3)["background"] == "probability below 0.3"
    assert described("ours", "voc21", background="wall")["background"] == "words wall"


@pytest.mark.parametrize(
    ("method", "name", "changes", "expected"),
    [
        ("sc-clip", "voc21", {}, ("2048x336", "slide 224/112", ["logit_scale 50", "area 0.1"], 0.15, 56)),
        ("sc-clip", "cityscapes", {}, ("2048x560", "slide 224/112", ["logit_scale 40"], None, 19)),
        ("sclip", "coco-object", {}, ("2048x336", "slide 224/112", ["logit_scale 50"], 0.1, 113)),
        ("proxyclip", "coco-object", {}, ("2048x336", "slide 336/112", ["pad_56"], 0.25, 97)),
        ("proxyclip", "cityscapes", {}, ("2048x448", "slide 224/112", ["pad_56"], None, 19)),
        ("resclip", "voc20", {}, ("2048x336", "whole", ["logit_scale 40"], None, 30)),
        ("naclip", "context60", {"slide": "96/48"}, ("2048x336", "slide 96/48", ["by_word"], 0.1, 60)),
    ],
)
def test_the_name_of_a_method_stands_for_its_whole_protocol(method, name, changes, expected):
    spec = worded(dataset_spec(name), method)
    settings = make_settings(**protocol_settings("ours", spec, compat=method, **changes))
    shown, words = settings.describe(), sum(map(len, spec.prompts[spec.background is not None :]))
    assert (shown["resize"], shown["inference"]) == expected[:2]
    assert all(one in shown["compat"] for one in expected[2])
    assert settings.background.threshold == expected[3]
    assert words + len(settings.background.words) == expected[4]
    assert settings.dense == PRESETS[method] or method == "resclip"
    assert settings.dense.rcs == ((2.0, 0.6) if method == "resclip" else None)
    assert (settings.refine.pamr == 10) == (method == "naclip")


def test_words_of_a_method_may_serve_two_classes(tmp_path):
    """COCO's "bed" is among the words of the background, too, which then has it."""
    folder = write_embedded(tmp_path / "tiny", "vit")
    fast = {"device": "cpu", "cache": False, "templates": "1", "preset": "sc-clip"}
    segmenter = segmenter_for(dataset_spec("coco-object"), folder, compat="sc-clip", **fast)
    assert segmenter.classes == dataset_spec("coco-object").classes
    assert len(segmenter.embeddings.matrix) == 113
    assert segmenter.segment(np.zeros((32, 48, 3), np.uint8)).mask.shape == (32, 48)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(UserError, match="protocol 'theirs' is unknown; choose one of recommended, ours"):
        protocol_settings("theirs", dataset_spec("voc20"))


def test_a_segmenter_for_a_data_set(tmp_path):
    folder = write_embedded(tmp_path / "tiny", "vit")
    segmenter = segmenter_for(dataset_spec("stickers21"), folder, device="cpu", cache=False, templates="1")
    assert segmenter.classes == dataset_spec("stickers21").classes
    assert "sky" in segmenter.embeddings.classes or segmenter.embeddings.class_of_prompt.eq(0).sum() > 5
    assert str(segmenter.settings.resize) == "none"


def test_what_is_shown_comes_back_the_same_from_a_file():
    """Kept counts are compared by it."""
    shown = described("ours", "voc20", preset="resclip")
    assert json.loads(json.dumps(shown)) == shown
