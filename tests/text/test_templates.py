import pytest

from denseclip.errors import UserError
from denseclip.text import TEMPLATES_1, TEMPLATES_80, TEMPLATES_85, official_templates, templates
from denseclip.text.embeddings import fill


def test_85_are_80_and_five_in_the_scene() -> None:
    assert len(set(TEMPLATES_85)) == 85
    assert len(TEMPLATES_80) == 80
    assert all(sentence.endswith(" in the scene.") for sentence in TEMPLATES_85[80:])
    assert not any("in the scene" in sentence for sentence in TEMPLATES_80)
    assert all(sentence.count("{}") == 1 for sentence in TEMPLATES_85)
    assert set(TEMPLATES_1) < set(TEMPLATES_85)


def test_by_name_or_by_sentence() -> None:
    assert templates("85") is TEMPLATES_85
    assert templates("80") is TEMPLATES_80
    assert templates("1") is TEMPLATES_1
    assert templates("a map of {}.") == ("a map of {}.",)
    assert templates(["a {}", "the {}"]) == ("a {}", "the {}")
    assert templates(TEMPLATES_85) == TEMPLATES_85


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("86", "there are no templates '86'; use 85, 80, 1 or a sentence with {}"),
        ([], "the list of templates is empty; give at least one sentence such as 'a photo of a {}.'"),
        (["a cat"], "template 'a cat' must be a sentence with exactly one {} for the word"),
        (["{} and {}"], "template '{} and {}' must be a sentence with exactly one {} for the word"),
        ([3], "template 3 must be a sentence with exactly one {} for the word"),
    ],
)
def test_mistakes(choice: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        templates(choice)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_the_blur_set_makes_all_sets_use_a_single_template() -> None:
    assert official_templates("voc", "city") == TEMPLATES_85
    assert official_templates("voc", "blur") == TEMPLATES_1


def test_braces_in_a_word_are_only_letters() -> None:
    assert fill("a photo of a {}.", "{0} {x!r}") == "a photo of a {0} {x!r}."
