import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denseclip.errors import UserError
from denseclip.text import ClassPrompts, class_set
from denseclip.text.prompts import MAX_FILE_BYTES


def parsed(source: object) -> dict[str, list[str]]:
    return ClassPrompts.parse(source).to_dict()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("cat, red car,grass", {"cat": ["cat"], "red car": ["red car"], "grass": ["grass"]}),
        (" cat ,  red \t car,", {"cat": ["cat"], "red car": ["red car"]}),
        ("cat|kitten, dog", {"cat": ["cat", "kitten"], "dog": ["dog"]}),
        ("cat\ndog, cow\n", {"cat": ["cat"], "dog": ["dog"], "cow": ["cow"]}),
        ("=two dogs on a sofa|dogs", {"two dogs on a sofa": ["=two dogs on a sofa", "dogs"]}),
        (["salt, pepper", "cat|kitten"], {"salt, pepper": ["salt, pepper"], "cat": ["cat", "kitten"]}),
        (["voc"], {"voc": ["voc"]}),
        (["city"], {"city": ["city"]}),
        (("cat",), {"cat": ["cat"]}),
        ({"pet": ["cat", "dog"], "lawn": "grass|turf"}, {"pet": ["cat", "dog"], "lawn": ["grass", "turf"]}),
        ("cafe\u0301", {"caf\u00e9": ["caf\u00e9"]}),
        ("\U0001f469\u200d\U0001f680", {"\U0001f469\u200d\U0001f680": ["\U0001f469\u200d\U0001f680"]}),
    ],
)  # fmt: skip
def test_grammar(source: object, expected: dict[str, list[str]]) -> None:
    assert parsed(source) == expected


def test_class_sets_by_name() -> None:
    assert ClassPrompts.parse("voc").classes == class_set("voc")
    both = ClassPrompts.parse("mickey+batman").classes
    assert both == (*class_set("mickey"), "Batman", "Joker")  # the five shared words once
    ade = ClassPrompts.parse("ADE")
    assert ade.classes[7] == "bed"
    assert ade.prompts[7] == ("bed ",)


def test_files(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\ufeff# my classes\ncat|kitten\n\nred car, grass\n", encoding="utf-8")
    expected = {"cat": ["cat", "kitten"], "red car": ["red car"], "grass": ["grass"]}
    assert parsed(words) == parsed(str(words)) == expected
    table = tmp_path / "words.JSON"
    table.write_text(json.dumps(expected), encoding="utf-8")
    assert parsed(table) == expected
    table.write_text('["cat", "salt, pepper"]', encoding="utf-8")
    assert ClassPrompts.parse(str(table)).classes == ("cat", "salt, pepper")


def test_an_ontology_passes_through_and_survives_its_dict() -> None:
    class_prompts = ClassPrompts.parse("cat|kitten, =a red car at night")
    assert ClassPrompts.parse(class_prompts) is class_prompts
    assert ClassPrompts.parse(class_prompts.to_dict()) == class_prompts


def test_words_and_owners() -> None:
    class_prompts = ClassPrompts.parse({"pet": ["cat", "dog"], "grass": "grass"})
    assert class_prompts.words == ("cat", "dog", "grass")
    assert class_prompts.class_of_prompt == (0, 0, 1)


def test_background_is_class_zero() -> None:
    class_prompts = ClassPrompts.parse("cat, dog").with_background("sky|clouds, wall")
    assert class_prompts.classes == ("background", "cat", "dog")
    assert class_prompts.prompts[0] == ("sky", "clouds", "wall")
    assert class_prompts.class_of_prompt == (0, 0, 0, 1, 2)


@pytest.mark.parametrize(
    ("classes", "words", "message"),
    [
        ("sports", "sky", "there is a class 'background' already; rename it or give no background words"),
        ("cat, sky", ["Sky"], "prompt 'sky' serves 'background' and 'sky'; keep it in one"),
        ("cat", [], 'no classes are given; write "cat, red car, grass"'),
        ("cat", "wall, Wall", "of class 'background' the prompt 'Wall' is given twice; remove one"),
    ],
)
def test_background_mistakes(classes: str, words: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        ClassPrompts.parse(classes).with_background(words)  # type: ignore[arg-type]
    assert str(caught.value) == message


MISTAKES = [
    ("", 'no classes are given; write "cat, red car, grass"'),
    (" \n ", 'no classes are given; write "cat, red car, grass"'),
    ([], 'no classes are given; write "cat, red car, grass"'),
    ({}, 'no classes are given; write "cat, red car, grass"'),
    ("cat,, dog", "class 2 is empty; write a word or remove the extra separator"),
    ("cat|", "class 1 is empty; write a word or remove the extra separator"),
    ("=", "class 1 is empty; write a word or remove the extra separator"),
    (["cat", "\u200b "], "class 2 is empty; write a word or remove the extra separator"),
    ("cat, dog, CAT", "class 'CAT' is given twice; remove one"),
    (["red car", "red  car "], "class 'red car' is given twice; remove one"),
    ("sofa|couch, settee|Couch", "prompt 'Couch' serves 'sofa' and 'settee'; keep it in one"),
    ({"pet": ["cat", "Cat"]}, "of class 'pet' the prompt 'Cat' is given twice; remove one"),
    ("c\x00at", "class 1, 'c\\x00at', holds control characters; remove them"),
    ("c\x1b[31mat", "class 1, 'c\\x1b[31mat', holds control characters; remove them"),
    (["\ud800"], "class 1, '\\ud800', holds control characters; remove them"),
    ("map of {}", "class 1, 'map of {}', holds {}; give the word alone, templates are a separate option"),
    (["x" * 501], f"class 1, '{'x' * 29}...xxxxx', has 501 characters; use at most 500"),
    (None, "the classes are of type NoneType; give a text, a list or a dict {class: [prompts]}"),
    (3, "the classes are of type int; give a text, a list or a dict {class: [prompts]}"),
    ({"cat", "dog"}, "the classes are of type set; give a text, a list or a dict {class: [prompts]}"),
    (["cat", 3], "class 2 is 3, not a text; put it in quotes"),
    ([["cat"]], "class 1 is ['cat'], not a text; put it in quotes"),
    ({3: "cat"}, "class name 3 is 3, not a text; put it in quotes"),
    ({"": "cat"}, "class name '' is empty; write a word or remove the extra separator"),
    ({"cat": []}, "class 'cat' has no prompts; give at least one, such as ['cat']"),
    ({"cat": None}, "class 'cat' has None for prompts; give a list of texts"),
    ({"cat": {"kitten": 1}}, "class 'cat' has {'kitten': 1} for prompts; give a list of texts"),
    ({"cat": ["kitten", 4]}, "a prompt of class 'cat' is 4, not a text; put it in quotes"),
    ({"cat|dog": "pet"}, "class name 'cat|dog' holds '|', which separates prompts; choose another name"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "message"), MISTAKES)
def test_mistakes(source: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        ClassPrompts.parse(source)  # type: ignore[arg-type]
    assert str(caught.value) == message


FILES = [
    ("a.yaml", b"cat: [cat]", "class file {} is not .json or .txt; save it as one of them"),
    ("a.txt", b"", 'class file {}: no classes are given; write "cat, red car, grass"'),
    ("a.txt", b"# only this\n", 'class file {}: no classes are given; write "cat, red car, grass"'),
    ("a.txt", b"caf\xe9", "class file {} is not UTF-8 text; save it as UTF-8"),
    ("a.txt", b"x" * (MAX_FILE_BYTES + 2**20), "class file {} has 9 MiB, more than 8; keep the words only"),
    ("a.json", b"[", "class file {}: it is not valid JSON (Expecting value: line 1 column 2 (char 1)); write "
     '{{"cat": ["cat", "kitten"]}}'),
    ("a.json", b"[" * 200_000, "class file {}: it is nested too deeply; write {{class: [prompts]}}"),
    ("a.json", b'"cat"', "class file {}: its classes are of type str; give a text, a list or a dict "
     "{{class: [prompts]}}"),
    ("a.json", b'{"cat": "a", "cat": "b"}', "class file {}: class 'cat' is given twice; keep one"),
    ("a.json", b'{"cat": [1]}', "class file {}: a prompt of class 'cat' is 1, not a text; put it in quotes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_file_mistakes(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        ClassPrompts.parse(path)
    assert str(caught.value) == message.format(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^class file nowhere/words\.txt does not exist; check the name$"):
        ClassPrompts.parse("nowhere/words.txt")
    folder = tmp_path / "f.txt"
    folder.mkdir()
    with pytest.raises(UserError, match=r"f\.txt is no file but a folder or a device; give a file$"):
        ClassPrompts.parse(folder)
    with pytest.raises(UserError, match=r"^class file 'a\\x00b\.txt' cannot be read \(.*null.*\); check it$"):
        ClassPrompts.parse("a\0b.txt")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.txt"
    path.write_text("cat")
    monkeypatch.setattr(Path, "read_text", forbid)
    with pytest.raises(UserError, match=r"a\.txt' cannot be read \(Permission denied\); check it$"):
        ClassPrompts.parse(path)


def test_ten_thousand_classes() -> None:
    class_prompts = ClassPrompts.parse(", ".join(f"thing number {i}" for i in range(10_000)))
    assert len(class_prompts.words) == len(set(class_prompts.class_of_prompt)) == 10_000


SOURCES = st.recursive(
    st.one_of(st.text(max_size=12), st.integers(), st.none(), st.sampled_from(["voc", "a,b", "c|d", "=x"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
)


@given(SOURCES)
def test_any_source_is_read_or_refused_in_one_line(source: object) -> None:
    message = ""
    try:
        class_prompts = ClassPrompts.parse(source)  # type: ignore[arg-type]
    except UserError as error:
        message = str(error)
    else:
        assert ClassPrompts.parse(class_prompts.to_dict()).classes == class_prompts.classes
        assert all(word.strip() for word in (*class_prompts.classes, *class_prompts.words))
    assert len(message.splitlines()) <= 1
    assert len(message) < 400
