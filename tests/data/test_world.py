"""COCO files and folders of own data as the world writes them: read right, or refused in one line."""

import copy
import json
import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from denseclip.data.check import check
from denseclip.data.datasets import refuse_binary
from denseclip.data.folder import open_folder
from denseclip.data.images import list_images
from denseclip.data.open_things import open_things
from denseclip.data.opening import open_dataset
from denseclip.errors import UserError
from denseclip.train.recipe import read_recipe
from denseclip.train.training import open_recipe_data

pytest.importorskip("pycocotools")
HEIGHT, WIDTH = 20, 30
DOG, CAT, VOID = 1, 0, 255


def corners(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def base():
    """Two pictures: a dog of 10 x 8 with a cat of 4 x 4 on it; a dog in run lengths, 5 columns."""
    boxes = {1: (4, 2, 10, 8), 2: (6, 3, 4, 4), 3: (0, 0, 5, HEIGHT)}
    segmentations = {
        1: [corners(*boxes[1])],
        2: [corners(*boxes[2])],
        3: {"size": [HEIGHT, WIDTH], "counts": [0, 5 * HEIGHT, 25 * HEIGHT]},
    }
    return {
        "images": [
            {"id": k, "file_name": f"sub/{name}.png", "height": HEIGHT, "width": WIDTH}
            for k, name in ((1, "a"), (2, "b"))
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {
                "id": k,
                "image_id": 1 if k < 3 else 2,
                "category_id": 3 if k == 2 else 7,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": segmentations[k],
            }
            for k, box in boxes.items()
        ],
    }


def expected():
    first = np.full((HEIGHT, WIDTH), VOID)
    first[2:10, 4:14] = DOG
    first[3:7, 6:10] = CAT
    second = np.full((HEIGHT, WIDTH), VOID)
    second[:, :5] = DOG
    return {"sub/a": first, "sub/b": second}


@pytest.fixture
def home(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "sub" / f"{name}.png")
    (tmp_path / "data.json").write_text('{"images": "images", "coco": "i.json"}')
    return tmp_path


def put(home, raw, mark=b""):
    (home / "i.json").write_bytes(mark + json.dumps(raw).encode())


def each(raw, key, value):
    """Set, or with ... remove, a key of all annotations."""
    for entry in raw["annotations"]:
        if value is ...:
            entry.pop(key, None)
        else:
            entry[key] = value


def one(rng, entries, key, value):
    entry = rng.choice(entries)
    if value is ...:
        entry.pop(key, None)
    else:
        entry[key] = value


def sizes(raw, value):
    for entry in raw["images"]:
        for side in ("height", "width"):
            entry.pop(side, None)
            if value is None:
                entry[side] = None


def runs_of(raw):
    return raw["annotations"][next(i for i, a in enumerate(raw["annotations"]) if a.get("id") in (3, 3.0))][
        "segmentation"
    ]


def shuffle(rng, raw):
    for key in ("images", "categories", "annotations"):
        rng.shuffle(raw[key])


Mutation = Callable[[random.Random, dict], None]
HARMLESS: list[Mutation] = [
    *(
        lambda rng, raw, v=v: one(rng, raw["annotations"], "iscrowd", v)
        for v in ("0", None, ..., False, 0.0, "false")
    ),
    *(lambda rng, raw, v=v: one(rng, raw["annotations"], "area", v) for v in (None, ..., 1, 1e6, 0)),
    *(lambda rng, raw, v=v: one(rng, raw["annotations"], "bbox", v) for v in (None, ..., [])),
    *(lambda rng, raw, v=v: sizes(raw, v) for v in (None, ...)),
    lambda rng, raw: [e.update(file_name=e["file_name"].replace("/", "\\")) for e in raw["images"]],
    lambda rng, raw: raw["categories"].append({"id": 900, "name": "zebra"}),
    lambda rng, raw: raw.update(info=None, licenses=[], more={"a": 1}),
    lambda rng, raw: [e.update(category_id=float(e["category_id"])) for e in raw["annotations"]],
    lambda rng, raw: runs_of(raw)["counts"].pop() if len(runs_of(raw)["counts"]) == 3 else None,
    lambda rng, raw: raw["annotations"][0].update(note="[red]"),
    lambda rng, raw: [e.update(name=f" {e['name']} ") for e in raw["categories"]],
    shuffle,
]
REFUSED: list[Mutation] = [
    *(lambda rng, raw, v=v: one(rng, raw["annotations"], "iscrowd", v) for v in ("maybe", 2, [], {})),
    *(lambda rng, raw, v=v: one(rng, raw["annotations"], "area", v) for v in ("4", -1, [], float("nan"))),
    *(
        lambda rng, raw, v=v: one(rng, raw["annotations"], "bbox", v)
        for v in ([1, 2, 3], "box", 4, ["1"] * 4)
    ),
    *(
        lambda rng, raw, v=v: one(rng, raw["annotations"], "segmentation", v)
        for v in (
            [[1, 2, 3, 4, 5, 6, 7]],
            [[1, 2, 3, 4]],
            [["1", 2, 3, 4, 5, 6]],
            [[1, 2, 3, 4, 5, float("inf")]],
            [[1, 2], 3],
            [None],
            "mask",
            7,
            {"counts": [600]},
            {"size": [HEIGHT, WIDTH]},
            {"size": [HEIGHT, WIDTH], "counts": [5]},
            {"size": [HEIGHT, WIDTH], "counts": [5, 596]},
            {"size": [HEIGHT, WIDTH], "counts": [-5, 605]},
            {"size": [HEIGHT, WIDTH], "counts": [1.5, 598.5]},
            {"size": [HEIGHT, WIDTH], "counts": "~~~"},
            {"size": [HEIGHT, WIDTH], "counts": "oooo"},
            {"size": [0, 0], "counts": []},
        )
    ),
    *(
        lambda rng, raw, k=k, v=v: one(rng, raw["annotations"], k, v)
        for k in ("image_id", "category_id")
        for v in (99, None, ..., "1", [], True)
    ),
    *(
        lambda rng, raw, v=v: raw["images"][0].update(id=v)
        for v in (raw_id for raw_id in (None, [], True, ""))
    ),
    lambda rng, raw: raw["images"][0].update(id=raw["images"][1]["id"]),
    lambda rng, raw: raw["images"][0].update(file_name=raw["images"][1]["file_name"]),
    *(lambda rng, raw, v=v: raw["images"][0].update(file_name=v) for v in (None, "", " ", 4, "a\0b")),
    *(
        lambda rng, raw, v=v: raw["images"][0].update(height=v, width=WIDTH)
        for v in (None, 0, -4, "20", 1.5, True)
    ),
    lambda rng, raw: raw["categories"][0].update(id=raw["categories"][1]["id"]),
    *(lambda rng, raw, v=v: raw["categories"][0].update(name=v) for v in (None, "", "  ", 4, [])),
    lambda rng, raw: raw["categories"][0].update(name=raw["categories"][1]["name"].strip().upper()),
    *(
        lambda rng, raw, k=k, v=v: raw.update({k: v})
        for k in ("images", "annotations", "categories")
        for v in (None, {}, "all", [3])
    ),
    *(lambda rng, raw, k=k: raw.pop(k) for k in ("images", "annotations", "categories")),
]


def read_all(home):
    """Masks of the data set for segmentation and boxes of that for detection, by image; UserError if refused."""
    segmented = {sample.image_id: sample.mask for sample in open_dataset(home)}
    things = {sample.image_id: sample.truth for sample in open_things(home)}
    return segmented, things


@pytest.mark.parametrize("part", range(4))
def test_a_thousand_coco_files(home, part):
    rng, refused = random.Random(part), 0
    for number in range(250):
        raw = base()
        for mutation in rng.sample(HARMLESS, rng.randint(0, 3)):
            mutation(rng, raw)
        bad = number % 2
        if bad:
            REFUSED[(part * 125 + number // 2) % len(REFUSED)](rng, raw)
        put(home, raw, rng.choice((b"", b"\xef\xbb\xbf")))
        if bad:
            with pytest.raises(UserError) as caught:
                read_all(home)
            assert "\n" not in str(caught.value), raw
            refused += 1
            continue
        masks, things = read_all(home)
        for image_id, mask in expected().items():
            np.testing.assert_array_equal(masks[image_id], mask, str(raw))
        boxes = sorted(things["sub/a"].boxes.tolist()), things["sub/b"].boxes.tolist()
        assert boxes == ([[4, 2, 14, 10], [6, 3, 10, 7]], [[0, 0, 5, HEIGHT]]), raw
        assert not things["sub/a"].crowd.any() and (things["sub/a"].areas >= 0).all()
    assert refused == 125


JUNK = [
    None,
    True,
    -1,
    0,
    3,
    1e9,
    10**30,
    float("nan"),
    "",
    "x",
    "\0",
    [],
    {},
    [[]],
    [[1, 2]],
    {"size": [1, 1]},
]


def places(value):
    """Every container and key in a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


@pytest.mark.parametrize("part", range(4))
def test_junk_anywhere_is_read_twice_alike_or_refused_in_one_line(home, part):
    rng, messages = random.Random(100 + part), []
    for _ in range(250):
        raw = base()
        for _ in range(rng.randint(1, 2)):
            container, key = rng.choice(list(places(raw)))
            container[key] = copy.deepcopy(rng.choice(JUNK))
        put(home, raw)
        try:
            masks, things = read_all(home)
        except UserError as error:
            messages.append(str(error))
            continue
        again, _ = read_all(home)
        for image_id, mask in masks.items():
            np.testing.assert_array_equal(mask, again[image_id])
            assert set(np.unique(mask)) <= {CAT, DOG, VOID}
        for truth in things.values():
            assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()
    assert messages and not any("\n" in message for message in messages)


def test_text_that_is_cut_anywhere_is_refused(home):
    put(home, base())
    whole = (home / "i.json").read_bytes()
    for end in range(0, len(whole) - 1, 23):
        (home / "i.json").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"i\.json"):
            open_dataset(home)


def test_a_box_without_a_mask_is_not_counted_and_spoils_nothing(home):
    raw = base()
    raw["annotations"][0]["segmentation"] = []
    put(home, raw)
    (home / "data.json").write_text('{"images": "images", "coco": "i.json", "background": "rest"}')
    mask = open_dataset(home)[0].mask
    counts = {int(k): int(n) for k, n in zip(*np.unique(mask, return_counts=True), strict=True)}
    assert counts == {0: HEIGHT * WIDTH - 80, 1: 16, VOID: 64}


def test_boxes_alone_are_data_for_detection(home):
    raw = base()
    each(raw, "segmentation", ...)
    put(home, raw)
    with pytest.raises(UserError, match="has boxes but no masks"):
        open_dataset(home)
    found = check(home)
    assert [(one.images, one.ok) for one in found] == [(2, True)]
    assert len(open_things(home)[0].truth.boxes) == 2


def test_a_val_file_with_other_ids_and_fewer_classes(home):
    put(home, base())
    data = open_things(home).with_classes(("dog", "zebra", "cat"))
    assert data.categories == (7, 1, 3)
    assert sorted(data[0].truth.labels.tolist()) == [0, 2]
    with pytest.raises(UserError, match="has the class 'dog', which is none of cat"):
        open_things(home).with_classes(("cat",))


# --- folders of one's own


def write_mask(path, ids, orientation=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    picture.save(path, **({"exif": exif} if orientation else {}))


def own(root, count=3, *, classes=None, **keys):
    for k in range(count):
        ids = np.zeros((6, 8), np.uint8)
        ids[k % 6, :4] = 1
        write_mask(root / "masks" / f"{k}.png", ids)
        write_mask(root / "images" / f"{k}.png", np.full((6, 8, 3), 9 * k, np.uint8))
    content = {"images": "images", "masks": "masks", "classes": classes or {"0": "sky", "1": "car"}, **keys}
    (root / "data.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_are_turned_like_their_images(tmp_path, orientation):
    own(tmp_path, 1)
    ids = np.zeros((6, 8), np.uint8)
    ids[0, :4], ids[5, 7] = 1, 255
    for folder, stored in (("images", np.repeat(ids[..., None], 3, 2)), ("masks", ids)):
        write_mask(tmp_path / folder / "0.png", stored, orientation)
    sample = open_dataset(tmp_path)[0]
    np.testing.assert_array_equal(sample.image[..., 0], np.where(sample.mask == 255, 255, sample.mask))
    assert (sample.mask.shape == (6, 8)) == (orientation < 5)


def test_masks_of_0_and_255_are_refused_unless_255_is_a_class(tmp_path):
    own(tmp_path, 2)
    for k in range(2):
        write_mask(tmp_path / "masks" / f"{k}.png", np.array([[0, 255]] * 6, np.uint8).repeat(4, 1))
    with pytest.raises(UserError, match="hold 0 and 255 only") as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    assert not check(tmp_path)[0].ok
    own(tmp_path, 0, classes={"0": "background", "255": "car"})
    assert (open_dataset(tmp_path)[0].mask == 1).sum() == 24
    refuse_binary([])


def test_hidden_folders_links_and_folders_that_are_called_like_pictures(tmp_path):
    own(tmp_path, 2)
    for place in (".ipynb_checkpoints", ".Trash/deep"):
        write_mask(tmp_path / "images" / place / "9.png", np.zeros((6, 8), np.uint8))
    (tmp_path / "images" / "folder.png").mkdir()
    far = tmp_path / "far"
    write_mask(far / "i" / "7.png", np.zeros((6, 8), np.uint8))
    write_mask(far / "m" / "7.png", np.zeros((6, 8), np.uint8))
    (tmp_path / "images" / "linked").symlink_to(far / "i")
    (tmp_path / "masks" / "linked").symlink_to(far / "m")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    assert [entry.image_id for entry in open_dataset(tmp_path).entries] == ["0", "1", "linked/7"]
    assert check(tmp_path)[0].ok
    names = ["0.png", "1.png", "linked/7.png"]
    found = open_folder(tmp_path / "images", ("sky",), (("sky",),))
    assert [entry.image_id for entry in found.entries] == names
    assert [
        path.relative_to(tmp_path / "images").as_posix() for path in list_images(tmp_path / "images")
    ] == names


def test_more_than_255_classes(tmp_path):
    own(tmp_path, 1, classes={str(k): f"class {k}" for k in range(300)}, ignore=65535)
    ids = np.full((6, 8), 299, np.uint16)
    ids[0] = 65535
    Image.fromarray(ids).save(tmp_path / "masks" / "0.png")
    data = open_dataset(tmp_path)
    assert data.spec.ignore_index == 65535
    assert np.unique(data[0].mask).tolist() == [299, 65535]
    own(tmp_path, 0, classes=[f"class {k}" for k in range(300)])  # 255 is a class, so nothing is ignored
    assert open_dataset(tmp_path).spec.void_ids == ()


LISTS = [
    (b"\xef\xbb\xbf0\r\n1\r\n", ["0", "1"]),
    (b"# two of them\n\n0.png\n ./1 \n", ["0", "1"]),
    (b"0\n0\n", "names '0' twice"),
    (b"0\n0.png\n", "names '0.png' twice"),
    (b"0\n99\n", "names '99', which is no image"),
    (b"\xff\xfe0", "is not text in UTF-8"),
    (b"", "has no images"),
    (None, "no list"),
]


@pytest.mark.parametrize(("content", "outcome"), LISTS, ids=str)
@pytest.mark.parametrize("kind", ["own-denseclip", "own-detector-small"])
def test_a_fault_in_the_train_list_never_means_all_images(tmp_path, content, outcome, kind):
    own(tmp_path, splits={"train": "train.txt", "val": "val.txt"})
    if content is not None:
        (tmp_path / "train.txt").write_bytes(content)
    if "detector" in kind:
        images = [{"id": k, "file_name": f"{k}.png"} for k in range(3)]
        annotations = [{"image_id": k, "category_id": 1, "bbox": [1, 1, 3, 3]} for k in range(3)]
        raw = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
        (tmp_path / "i.json").write_text(json.dumps(raw))
        splits = {"train": "train.txt", "val": "val.txt"}
        (tmp_path / "data.json").write_text(
            json.dumps({"images": "images", "coco": "i.json", "splits": splits})
        )
    recipe = read_recipe(kind, [f"data.train={tmp_path / 'data.json'}"])
    if isinstance(outcome, list):
        assert [entry.image_id for entry in open_recipe_data(recipe, None).entries] == outcome
    else:
        with pytest.raises(UserError, match=outcome):
            open_recipe_data(recipe, None)


BAD_KEYS = [
    {"classes": {"0": "Sky", "1": "sky"}},
    {"classes": {"0": None, "1": "car"}},
    {"classes": {"0": "", "1": "car"}},
    {"classes": {"x": "sky"}},
    {"classes": "sky"},
    {"classes": 7},
    {"ignore": "none"},
    {"ignore": [0, 255]},
    {"ignore": -1},
    {"unseen": "dog"},
    {"prompts": {"dog": ["dog"]}},
    {"prompts": {"sky": [3]}},
    {"prompts": ["sky"]},
    {"splits": ["a"]},
    {"splits": {"all": 3}},
    {"name": 7},
    {"background": "dog"},
    {"images": 4},
    {"images": "nowhere"},
    {"masks": "nowhere"},
    {"masks": None},
    {"color": "red"},
]
GOOD_KEYS = [
    {},
    {"unseen": "car"},
    {"unseen": ["car"]},
    {"prompts": {"sky": "blue sky"}},
    {"background": "sky"},
    {"ignore": []},
    {"ignore": None},
    {"classes": ["sky", "car"]},
    {"classes": {"0": " sky ", "1": "car"}},
    {"name": "mine"},
]


def test_two_hundred_folders_of_own_data(tmp_path):
    rng = random.Random(5)
    for number in range(200):
        root = tmp_path / str(number)
        keys = dict(rng.choice(GOOD_KEYS))
        bad = number % 2
        if bad:
            keys |= BAD_KEYS[number // 2 % len(BAD_KEYS)]
        own(root, 2, **keys)
        if rng.random() < 0.5:
            text = (root / "data.json").read_bytes()
            (root / "data.json").write_bytes(b"\xef\xbb\xbf" + text)
        if bad:
            with pytest.raises(UserError) as caught:
                open_dataset(root)[0]
            assert "\n" not in str(caught.value)
        else:
            data = open_dataset(root)
            assert data.spec.classes == ("sky", "car")
            assert [(sample.mask == 1).sum() for sample in data] == [4, 4]
