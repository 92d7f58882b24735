"""The public interface: load, encode once, query many, every setting."""

import copy
import io
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import denseclip
from clip_support import tiny_clip
from denseclip.errors import UserError
from denseclip.loading import make_settings
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import PRESETS

WORDS = ["cat", "sofa", "grass", "red car"]


FINE_VIT = ("vit", "maskclip-dilated")  # of ResNets only


def picture(height=60, width=90, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def segmenter(kind="vit", classes=WORDS, **options):
    return Segmenter(tiny_clip(kind), classes, make_settings(templates="1", resize="short:64", **options))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for name, options in PRESETS.items()
        for kind in ("rn", "vit")
        if (kind, name) != FINE_VIT and name != "proxyclip" and not (kind == "rn" and options.vit_only)
    ],
)
def test_every_preset_gives_a_mask_of_the_pictures_size(kind, name):
    out = segmenter(kind, preset=name).segment(picture())
    assert out.mask.shape == (60, 90)
    assert out.mask.dtype == np.uint8
    assert out.classes == tuple(WORDS)
    assert out.scores.shape[0] == 4
    assert sum(out.areas.values()) == 60 * 90


def test_the_mask_is_the_argmax_of_upsampled_cosines():
    seg = segmenter()
    encoded = seg.encode(picture())
    scores = seg.decoding(encoded).maps[0][0]
    expected = F.interpolate(scores[None], (60, 90), mode="bilinear")[0].argmax(0)
    assert (torch.from_numpy(seg.segment(encoded).mask) == expected).float().mean() > 0.999


def test_encode_once_query_many():
    seg = segmenter()
    encoded = seg.encode(picture())
    first = seg.segment(encoded).mask
    seg.set_classes(["dog", "sky"])
    assert seg.segment(encoded).classes == ("dog", "sky")
    seg.set_classes(WORDS)
    np.testing.assert_array_equal(seg.segment(encoded).mask, first)
    np.testing.assert_array_equal(segmenter().segment(picture()).mask, first)


def test_a_batch_gives_what_single_pictures_give():
    seg = segmenter("rn", scales=(1.0, 1.5), flip=True)
    pictures = [picture(60, 90, 1), picture(90, 60, 2), picture(60, 90, 3)]
    for one, encoded in zip(pictures, seg.encode_batch(pictures), strict=True):
        alone = seg.segment(one)
        together = seg.segment(encoded)
        torch.testing.assert_close(alone.scores, together.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options", [{"slide": "48/32"}, {"scales": (0.75, 1.25)}, {"flip": True}, {"compat": "official"}]
)
def test_windows_scales_flips_and_compat_run(options):
    out = segmenter(**options).segment(picture(), confidence=True)
    assert out.mask.shape == (60, 90)
    assert out.confidence is not None
    assert 0 < out.confidence.min() <= out.confidence.max() <= 1


def test_a_symmetric_picture_segments_symmetrically_with_flip():
    half = picture(64, 48)
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    scores = segmenter(flip=True).decoding(image)
    heat = scores.heat(0)
    np.testing.assert_allclose(heat, heat[:, ::-1], atol=1e-5)


def test_background_words_become_class_0():
    out = segmenter(background="wall, sky").segment(picture())
    assert out.classes == ("background", *WORDS)
    assert out.scored == out.classes
    assert out.has_background


def test_a_threshold_alone_adds_class_0_without_scores():
    seg = segmenter(threshold=0.5)
    plain = segmenter().segment(picture(), confidence=True)
    out = seg.segment(picture(), confidence=True)
    assert out.classes[0] == "background"
    sure = plain.confidence >= 0.5
    np.testing.assert_array_equal(out.mask, np.where(sure, plain.mask + 1, 0))
    with pytest.raises(UserError, match="no scores for 'background'"):
        out.heatmap("background")


def test_words_and_threshold_together():
    words = segmenter(background="wall").segment(picture(), confidence=True)
    both = segmenter(background="wall", threshold=0.6).segment(picture())
    np.testing.assert_array_equal(both.mask, np.where(words.confidence < 0.6, 0, words.mask))


def test_the_usual_background_leaves_out_the_users_own_words():
    seg = segmenter(classes=["sky", "cat"], background="usual")
    assert seg.classes == ("background", "sky", "cat")
    assert len(seg.embeddings.matrix) > 10


def test_refinement_changes_scores_and_keeps_shapes():
    plain, refined = segmenter(), segmenter(refine="pd=0.4+ks")
    a, b = plain.segment(picture()), refined.segment(picture())
    assert a.scores.shape == b.scores.shape
    assert not torch.allclose(a.scores, b.scores)
    assert segmenter(refine="ks", threshold=0.2).segment(picture()).mask.max() <= 4


def test_synonyms_are_reduced_by_max():
    seg = segmenter(classes={"cat": ["cat", "kitten", "tabby"], "grass": ["grass"]})
    out = seg.decoding(picture()).maps[0][0]
    single = segmenter(classes=["cat", "kitten", "tabby", "grass"]).decoding(picture()).maps[0][0]
    torch.testing.assert_close(out[0], single[:3].amax(0))
    torch.testing.assert_close(out[1], single[3])


def test_heat_maps_and_single_pixels_agree():
    for options in ({}, {"scales": (1.0, 1.5)}):
        decoding = segmenter(**options).decoding(picture())
        assert decoding.at(10, 20)[2].item() == pytest.approx(decoding.heat(2)[10, 20], abs=1e-5)


def test_many_classes_use_wider_ids():
    words = [f"thing {i}" for i in range(300)]
    out = segmenter(classes=words).segment(picture())
    assert out.mask.dtype == np.int32
    assert out.indexed().mode in ("I;16", "I")


def test_saving(tmp_path):
    out = segmenter(threshold=0.3).segment(picture())
    paths = out.save(tmp_path, "a", heatmaps=True)
    assert {p.name for p in paths} >= {"a.png", "a-overlay.png", "classes.json", "a-heat-red-car.png"}
    with Image.open(tmp_path / "a.png") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), out.mask)
    assert next(iter(json.loads((tmp_path / "classes.json").read_text()))) == "1"  # 0 is background
    assert not list(tmp_path.glob(".*.tmp*"))


@pytest.mark.parametrize("form", ["path", "pil", "array", "gray", "rgba", "tensor", "float"])
def test_every_form_of_a_picture(form, tmp_path):
    array = picture()
    Image.fromarray(array).save(tmp_path / "p.png")
    forms = {
        "path": str(tmp_path / "p.png"),
        "pil": Image.fromarray(array),
        "array": array,
        "gray": array[..., 0],
        "rgba": np.dstack([array, np.full_like(array[..., :1], 255)]),
        "tensor": torch.from_numpy(array).permute(2, 0, 1),
        "float": (array / 255.0).astype(np.float32),
    }
    expected = np.repeat(array[..., :1], 3, 2) if form == "gray" else array
    np.testing.assert_array_equal(segmenter().encode(forms[form]).image, expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((3, 4, 5, 6)), "an array of shape (3, 4, 5, 6) is no picture; give (H, W, 3)"),
        (np.zeros((4, 4, 3), np.int32), "a picture of int32 does not say what is white; convert it to uint8"),
        (
            np.full((4, 4, 3), 7.0),
            "the picture has values from 7 to 7, not 0 to 1; ",
        ),
        (torch.zeros(2, 3, 8, 8), "a tensor of shape (2, 3, 8, 8) is no picture; give (3, H, W)"),
        (42, "a int is no picture; give a path"),
        ("no/such.png", "there is no picture no/such.png; check the name"),
    ],
)
def test_what_is_no_picture(wrong, message):
    with pytest.raises(UserError) as caught:
        segmenter().segment(wrong)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "maskclap"}, "preset 'maskclap' is unknown"),
        ({"resize": "huge"}, "cannot read the resize rule 'huge'"),
        ({"slide": "224"}, "slide '224' is not understood"),
        ({"scales": ()}, "scales () are not usable"),
        ({"scales": (100.0,)}, "scales (100.0,) are not usable"),
        ({"threshold": 1.5}, "background threshold 1.5 is no probability"),
        ({"compat": "exact"}, "compat 'exact' is unknown"),
        ({"refine": "kd"}, "refinement 'kd' is not understood"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(UserError) as caught:
        make_settings(**options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_misuse_is_refused():
    seg = Segmenter(tiny_clip("vit"), None, make_settings(resize="short:64", templates="1"))
    with pytest.raises(UserError, match="no classes are set"):
        seg.segment(picture())
    with pytest.raises(UserError, match="encoded by another model"):
        segmenter("vit").segment(segmenter("rn").encode(picture()))
    with pytest.raises(UserError, match="encoded by another model or under other settings"):
        segmenter(scales=(2.0,)).segment(segmenter().encode(picture()))
    with pytest.raises(UserError, match="there is a class 'background' already"):
        segmenter(classes=["Background", "cat"], threshold=0.5)
    with pytest.raises(TypeError, match="unknown option 'presett'"):
        make_settings(presett="x")
    huge = segmenter()
    huge.configure(resize=make_settings(resize="exact:9000x9000").resize)
    with pytest.raises(
        UserError, match="8992 x 8992 pixels are too many for one network input; give --slide"
    ):
        huge.encode(picture())


def test_configure_keeps_encodings_where_it_can():
    seg = segmenter(refine="ks")
    encoded = seg.encode(picture())
    seg.configure(
        refine=make_settings(refine="ks=0.5+pd").refine,
        background=make_settings(background="wall").background,
    )
    assert seg.segment(encoded).classes[0] == "background"


def test_the_package_offers_its_names():
    assert set(denseclip.__all__) <= {name for name in denseclip.__all__ if getattr(denseclip, name)}
    with pytest.raises(AttributeError):
        _ = denseclip.nothing


@pytest.mark.parametrize("batch_size", [None, 3])
def test_many_pictures_are_the_same_as_one_by_one(batch_size):
    one = segmenter()
    pictures = [picture(), picture()[:40], picture()[::-1].copy(), picture()]
    found = list(one.segment(iter(pictures), batch_size=batch_size))
    for image, result in zip(pictures, found, strict=True):
        assert (result.mask == one.segment(image).mask).mean() > (0.999 if batch_size else 0.99999)
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG")
    buffer.seek(0)
    assert (one.segment(buffer).mask == found[0].mask).mean() > 0.999  # a file is one picture
    lazy = one.segment([picture(), "no/such.png"])
    assert next(lazy).mask.shape == picture().shape[:2]
    with pytest.raises(UserError, match="there is no picture"):
        next(lazy)


@pytest.mark.parametrize("options", [{}, {"refine": "ks"}, {"flip": True}, {"background": "usual"}], ids=str)
def test_what_a_result_gives(options):
    out = segmenter(**options).segment(picture())
    masks = out.masks
    assert sum(mask.sum() for mask in masks.values()) == out.mask.size and set(masks) == set(out.areas)
    probabilities = out.probabilities()
    assert probabilities.shape == (len(out.scored), *out.mask.shape)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(out.mask.shape), atol=1e-4, rtol=0)
    best, sure = out.topk(2)
    assert best.shape == (2, *out.mask.shape) and (sure[0] >= sure[1]).all()
    if not options:
        assert (best[0] == out.mask).mean() > 0.999
    assert out._repr_png_().startswith(b"\x89PNG")
    again = pickle.loads(pickle.dumps(out))
    assert (again.mask == out.mask).all() and again.areas == out.areas
    with pytest.raises(UserError, match="segment the picture again"):
        again.heatmap(out.scored[0])


def test_a_result_for_other_software():
    coco = pytest.importorskip("pycocotools.mask")
    out = segmenter(background="usual").segment(picture())
    made = out.to_coco("p.png", 7)
    names = {category["id"]: category["name"] for category in made["categories"]}
    assert list(names.values()) == list(out.classes[1:]) and made["images"][0]["file_name"] == "p.png"
    for annotation in made["annotations"]:
        where = coco.decode(annotation["segmentation"]).astype(bool)
        assert (where == out.masks[names[annotation["category_id"]]]).all()
    pytest.importorskip("supervision")
    found = out.to_supervision()
    assert len(found) == len(out.areas)
    assert [out.classes[k] for k in found.class_id] == list(out.areas)


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_as_a_module(kind):
    model = segmenter(kind)
    assert isinstance(model, torch.nn.Module) and not model.training
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255).requires_grad_()
    scores = model(x)
    torch.testing.assert_close(scores[0].detach(), model.segment(image).scores, atol=1e-4, rtol=1e-4)
    scores.amax(1).sum().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in model.parameters())
    assert model.state_dict().keys() == {f"clip.{name}" for name in model.clip.state_dict()}
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(x.detach())).all()
    double = model(torch.cat([x, x]).detach())
    torch.testing.assert_close(double[0], double[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(3, 64, 64), "are no batch of pictures"),
        (torch.zeros(1, 4, 64, 64), "are no batch of pictures"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "give floats in 0..1"),
        (torch.full((1, 3, 64, 64), 200.0), "values beyond 0..1"),
        (torch.full((1, 3, 64, 64), float("nan")), "values beyond 0..1"),
        (torch.zeros(1, 3, 64, 64, device="meta"), "the images are on meta"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_inputs_of_the_module_that_are_wrong(wrong, message):
    with pytest.raises(UserError, match=message) as caught:
        segmenter()(wrong)
    assert "\n" not in str(caught.value)


def test_a_model_moves_with_its_words():
    model = Segmenter(copy.deepcopy(tiny_clip("vit")), WORDS, make_settings(templates="1")).to("meta")
    assert model.embeddings.matrix.device.type == "meta" and model.clip.device.type == "meta"
