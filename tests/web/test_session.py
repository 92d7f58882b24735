"""A visitor's picture and the answers about it."""

import numpy as np
import pytest

from denseclip.errors import UserError
from denseclip.segment.attention import DenseEncoder
from denseclip.segment.segmenter import Segmenter
from denseclip.web.model_server import MemoryCache, ModelServer, presets
from denseclip.web.request import Limits, Origin
from denseclip.web.session import ENCODINGS, Session, SharedModel
from web_support import noise, question, shared


@pytest.fixture(params=["rn", "vit"])
def session(request):
    made = Session(shared(request.param), Limits())
    made.show("noise.png", noise())
    return made


@pytest.fixture
def encodings(monkeypatch):
    """Grows by one whenever the image tower runs."""
    runs = []
    encode = DenseEncoder.encode
    monkeypatch.setattr(
        DenseEncoder,
        "encode",
        lambda self, images, **o: runs.append(images.shape) or encode(self, images, **o),
    )
    return runs


CHANGES = [
    {"words": "dog, tree"},
    {"threshold": 0.3},
    {"background": "sky|cloud, wall"},
    {"background": "usual", "threshold": 0.2},
    {"refine": "pd=0.2"},
    {"refine": "ks=0.9"},
    {"refine": "pd=0.1+ks=0.8", "threshold": 0.1},
    {"templates": "80"},
]


def test_the_network_looks_once_whatever_is_asked(session, encodings):
    assert session.ask(question()).encoded
    for change in CHANGES:
        assert not session.ask(question(**change)).encoded, change
    assert len(encodings) == 1
    assert session.ask(question(preset="vanilla")).encoded
    assert not session.ask(question(words="cow")).encoded
    assert not session.ask(question(preset="vanilla")).encoded
    assert len(encodings) == 2


@pytest.mark.parametrize("change", [{}, *CHANGES, {"preset": "clearclip"}], ids=repr)
def test_answers_are_those_of_a_fresh_segmenter(session, change):
    session.ask(question("something, else"))  # leaves its traces
    asked = question(**change)
    answer = session.ask(asked)
    fresh = Segmenter(session.shared.model, asked.classes, asked.settings())
    expected = fresh.segment(noise())
    assert (answer.result.mask == expected.mask).all()
    assert answer.result.classes == expected.classes


@pytest.mark.parametrize("preset", list(presets(shared("vit").model)))
def test_every_preset_of_the_list_answers(preset):
    session = Session(shared("vit"), Limits())
    session.show("noise.png", noise())
    session.ask(question(preset=preset))
    assert not session.ask(question(preset=preset, refine="ks=0.9")).encoded


def test_another_picture_keeps_the_last_one(session):
    first = session.ask(question()).result.mask
    session.show("other.png", noise(50, 30, seed=1))
    with pytest.raises(UserError, match="nothing is segmented yet"):
        session.answered()
    answer = session.ask(question())
    assert answer.encoded
    assert (first.shape, answer.result.mask.shape) == ((40, 60), (50, 30))
    session.turn(1)
    with pytest.raises(UserError, match="nothing is segmented yet"):
        session.answered()
    again = session.ask(question())
    assert not again.encoded
    assert (again.result.mask == first).all()


def test_the_oldest_pictures_go_and_the_latest_always_stays():
    session = Session(shared(), Limits(roll=2 * 40 * 60))
    for seed in range(3):
        session.show(f"{seed}.png", noise(seed=seed))
        session.ask(question())
    assert list(session.roll) == [2, 3]
    with pytest.raises(UserError, match="no longer kept"):
        session.turn(1)
    session.show("large.png", noise(400, 600))
    assert list(session.roll) == [4]
    assert session.picture.name == "large.png"
    assert len(session._views) == 0


def test_few_encodings_are_kept(session, encodings):
    asked = [
        question(preset=p, size=s) for s in (256, 384) for p in ("maskclip", "vanilla", "clearclip", "sclip")
    ]
    for one in asked[: ENCODINGS + 1]:
        session.ask(one)
    assert not session.ask(asked[1]).encoded
    assert session.ask(asked[0]).encoded
    assert len(encodings) == ENCODINGS + 2


def test_a_question_that_fails_leaves_the_last_answer(session):
    before = session.ask(question())
    for bad in ({"words": "cat, cat"}, {"threshold": 2.0}, {"preset": "none"}, {"background": "cat"}):
        with pytest.raises(UserError):
            session.ask(question(**bad))
    assert session.answered() is before


def test_nothing_to_ask_about():
    empty = Session(shared(), Limits())
    for call in (empty.shown, empty.answered, lambda: empty.ask(question())):
        with pytest.raises(UserError, match="there is no picture yet"):
            call()


def test_the_best_word_of_a_pixel_gives_its_class(session):
    answer = session.ask(question("cat|kitten, dog, cow|ox|bull", background="none", refine="none"))
    for row, column in ((0, 0), (39, 59), (17, 31)):
        words = answer.words_at(row, column)
        assert words[0].owner == answer.result.classes[answer.result.mask[row, column]]
        assert len(words) == 6
        assert [word.score for word in words] == sorted((word.score for word in words), reverse=True)
        assert sum(word.share for word in words) == pytest.approx(1, abs=1e-4)
        assert {word.word: word.owner for word in words}["ox"] == "cow"


def test_words_of_a_pixel_do_not_depend_on_refinement_and_thresholds(session):
    plain = session.ask(question()).words_at(5, 6)
    assert session.ask(question(refine="pd=0.9+ks=1", threshold=0.9)).words_at(5, 6) == plain
    with_sky = session.ask(question(background="sky")).words_at(5, 6)
    assert {word.owner for word in with_sky if word.word == "sky"} == {"background"}


def test_pixels_outside_are_refused(session):
    answer = session.ask(question())
    for row, column in ((-1, 0), (40, 0), (0, 60)):
        with pytest.raises(UserError, match="there is no pixel"):
            answer.words_at(row, column)


def test_heat_is_the_probability(session):
    answer = session.ask(question())
    levels, low, high = answer.heat("red car")
    assert (low, high) == (0, 1)
    np.testing.assert_allclose(levels / 255, answer.result.probability("red car"), atol=1 / 500)


def test_heat_with_contrast_is_the_score_as_levels(session):
    answer = session.ask(question())
    levels, low, high = answer.heat("red car", contrast=True)
    scores = answer.result.heatmap("red car")
    assert (levels.min(), levels.max()) == (0, 255)
    np.testing.assert_allclose(levels / 255 * (high - low) + low, scores, atol=(high - low) / 500)


def test_heat_of_what_has_none_says_why(session):
    answer = session.ask(question(refine="pd=1", background="none"))
    removed = [name for name in answer.result.classes if answer.result.heatmap(name).max() < -99]
    assert removed
    with pytest.raises(UserError, match="prompt denoising took"):
        answer.heat(removed[0])
    with pytest.raises(UserError, match="no scores for 'background'"):
        session.ask(question(threshold=0.5, background="none")).heat("background")


def test_a_trained_model_is_asked_like_any_other():
    from clip_support import tiny_clip
    from denseclip.clip.clip import OPENAI_STATS
    from denseclip.models.config import DenseClipConfig
    from denseclip.models.denseclip import build_denseclip
    from denseclip.models.trained import TrainedDenseClip

    network = build_denseclip(DenseClipConfig(), tiny_clip("rn"), ["cat", "dog", "background"])
    shared = SharedModel(TrainedDenseClip("runs/last.pt", network, OPENAI_STATS), MemoryCache(10))
    about = ModelServer(shared, Origin("runs/last.pt"), Limits(), "maskclip").about()
    assert about["text"].startswith("last.pt: DenseCLIP")
    assert about["words"] == "cat, dog, background"
    assert list(presets(shared.model)) == ["maskclip"]
    session = Session(shared, Limits())
    session.show("noise.png", noise())
    own = session.ask(question(about["words"]))
    assert (
        own.result.mask
        == Segmenter(shared.model, None, question(background="none", refine="none").settings())
        .segment(noise())
        .mask
    ).all()
    other = session.ask(question("dog, cat", threshold=0.01))  # its own "background" is not asked for
    assert other.result.classes == ("background", "dog", "cat")
    assert not other.encoded
    assert {word.word for word in other.words_at(3, 4)} == {"dog", "cat"}
    with pytest.raises(UserError, match="it has no keys; leave out key smoothing"):
        session.ask(question("dog", refine="ks=1"))
