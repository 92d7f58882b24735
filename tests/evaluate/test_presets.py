"""Named protocols: what they set, and what goes before them."""

import pytest

from clip_support import write_embedded
from denseclip.data.published import dataset_spec
from denseclip.errors import UserError
from denseclip.evaluate.run import PROTOCOLS, protocol_settings, segmenter_for
from denseclip.loading import make_settings


def described(protocol, name, **changes):
    return make_settings(**protocol_settings(protocol, dataset_spec(name), **changes)).describe()


def test_sizes_are_those_of_the_data_set():
    for protocol in ("ours", "official"):
        assert described(protocol, "context59")["resize"] == "520x520"
        assert described(protocol, "voc20")["resize"] == "2048x512"
    assert described("slide", "context59")["resize"] == "short:336"


def test_the_protocols():
    ours, official, slide = (described(name, "voc20", refine="ks") for name in PROTOCOLS)
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


def test_an_unknown_protocol_is_refused():
    with pytest.raises(UserError, match="protocol 'theirs' is unknown; choose one of ours, official, slide"):
        protocol_settings("theirs", dataset_spec("voc20"))


def test_a_segmenter_for_a_data_set(tmp_path):
    folder = write_embedded(tmp_path / "tiny", "vit")
    segmenter = segmenter_for(dataset_spec("stickers21"), folder, device="cpu", cache=False, templates="1")
    assert segmenter.classes == dataset_spec("stickers21").classes
    assert "sky" in segmenter.embeddings.classes or segmenter.embeddings.owner.eq(0).sum() > 5
    assert str(segmenter.settings.resize) == "none"
