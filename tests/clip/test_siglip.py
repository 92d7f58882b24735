"""SigLIP and SigLIP 2: transformers' and open_clip's weights, towers as theirs, the head made dense, sigmoids."""

import json
import re
from functools import partial

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

import denseclip
from denseclip.clip import load_clip
from denseclip.clip.build import build_towers
from denseclip.clip.config import check, unsupported
from denseclip.clip.convert import to_open_clip
from denseclip.clip.siglip import TANH
from denseclip.clip.towers import without_values
from denseclip.errors import UserError

WIDTH, LAYERS, PATCH, SIDE, LENGTH = 128, 3, 8, 32, 16
VOCABULARY = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "dog", "sky", "the", "."]


def write_tokenizer(folder):
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


def write_stats(folder):
    stats = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(stats))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A small SigLIP of transformers, and its folder."""
    folder = tmp_path_factory.mktemp("siglip")
    shared = {"hidden_size": WIDTH, "intermediate_size": 200, "num_hidden_layers": LAYERS}
    shared |= {"num_attention_heads": 4}
    text = shared | {
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": LENGTH,
        "projection_size": WIDTH,
    }
    torch.manual_seed(0)
    config = SiglipConfig(text_config=text, vision_config=shared | {"image_size": SIDE, "patch_size": PATCH})
    model = SiglipModel(config).eval()
    for name, value in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(value, std=0.08)
    torch.nn.init.constant_(model.logit_scale, 4.0)
    torch.nn.init.constant_(model.logit_bias, -12.0)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    write_stats(folder)
    return model, folder


def test_transformers_weights_give_transformers_vectors(theirs):
    model, folder = theirs
    clip = load_clip(folder)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.vision_model(images).pooler_output
        tokens = torch.tensor([[3, 4, 5, 6, 1] + [0] * (LENGTH - 5)])
        words = model.text_model(tokens).pooler_output
    torch.testing.assert_close(clip.encode_image(images), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(clip.encode_text(["A photo of, CAT!"]), words, atol=1e-4, rtol=1e-4)
    assert clip.logit_scale == pytest.approx(np.exp(4.0), rel=1e-5)
    assert (clip.logit_bias, clip.stats.mean) == (-12.0, (0.5, 0.5, 0.5))


def test_a_picture_of_one_patch_has_the_whole_pictures_vector(theirs):
    """There the query attends to that patch whatever it asks, so the head made dense is the head."""
    segmenter = denseclip.load(theirs[1], resize="none", background=None, cache=False, device="cpu")
    image = torch.rand(1, 3, PATCH, PATCH)
    with torch.no_grad():
        whole = F.normalize(segmenter.clip.visual(image)[0], dim=0)
    torch.testing.assert_close(segmenter.encoder.encode(image).map[0, :, 0, 0], whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "preset", ["maskclip", "sclip", "clearclip", "naclip", "vanilla", "maskclip-reduced"]
)
@pytest.mark.parametrize(
    "options", [{"refine": None}, {}, {"slide": "32/16", "fusion": "features"}], ids=repr
)
def test_pictures_of_any_shape_are_segmented(theirs, preset, options):
    model = denseclip.load(
        theirs[1], ["cat", "dog"], preset=preset, resize="none", background=None, cache=False, **options
    )
    size = (40, 64) if "slide" in options else (37, 61)
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    result = model.segment(image, confidence=True)
    assert result.mask.shape == size
    assert 0 <= result.confidence.min() <= result.confidence.max() <= 1


def test_probabilities_are_sigmoids_of_each_word_alone(theirs):
    load = {"resize": "none", "refine": None, "background": None, "cache": False}
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    two, one = (denseclip.load(theirs[1], words, **load) for words in (["cat", "dog"], ["cat"]))
    result = two.segment(image, confidence=True)
    full = F.interpolate(result.scores[None], (48, 64), mode="bilinear")[0].amax(0)
    expected = torch.sigmoid(full * two.clip.logit_scale - 12.0).numpy()
    np.testing.assert_allclose(result.confidence, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(result.probabilities().amax(0), expected, rtol=1e-3, atol=1e-6)
    alone = one.segment(image, confidence=True)
    cat = result.mask == 0
    np.testing.assert_allclose(result.confidence[cat], alone.confidence[cat], rtol=1e-3, atol=1e-6)
    middle = float(np.median(expected))
    for refine in (None, "guided"):
        one.configure(background=denseclip.loading.make_settings(threshold=middle).background)
        one.configure(refine=denseclip.loading.make_settings(refine=refine).refine)
        below = (alone.confidence < middle).mean()
        assert (one.segment(image).mask == 0).mean() == pytest.approx(
            below, abs=0.02 if refine is None else 0.5
        )


def test_what_a_tower_without_class_token_cannot_do_is_said(theirs):
    for options in ({"preset": "sc-clip"}, {"preset": "resclip"}, {"compat": "official"}):
        with pytest.raises(UserError, match="has no class token"):
            denseclip.load(theirs[1], cache=False, **options)


@pytest.mark.parametrize("version", ["", "2"])
def test_open_clips_weights_give_open_clips_vectors(version, tmp_path):
    """timm's tower and open_clip's text tower, small, under the configuration of a published one."""
    name = f"ViT-B-16-SigLIP{version}"
    config = open_clip.get_model_config(name)
    small = {"width": 64, "heads": 1, "layers": 2, "vocab_size": len(VOCABULARY), "context_length": LENGTH}
    config["text_cfg"] |= small
    config["embed_dim"] = 64
    torch.manual_seed(0)
    image = timm.models.vision_transformer.VisionTransformer(
        img_size=SIDE, patch_size=PATCH, embed_dim=64, depth=3, num_heads=1, class_token=False, global_pool="map",
        num_classes=0, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    text_cfg = open_clip.model.CLIPTextCfg(**config["text_cfg"])
    text = open_clip.model._build_text_tower(64, text_cfg, quick_gelu=False).eval()
    state = {f"visual.trunk.{key}": value for key, value in image.state_dict().items()}
    state |= {f"text.{key}": value for key, value in text.state_dict().items() if "attn_mask" not in key}
    state |= {"logit_scale": torch.tensor([4.7]), "logit_bias": torch.tensor([-13.0])}
    save_file(
        {key: value.contiguous() for key, value in state.items()}, tmp_path / "open_clip_model.safetensors"
    )
    stats = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": stats})
    )
    write_tokenizer(tmp_path)
    clip = load_clip(tmp_path)
    images = torch.randn(2, 3, SIDE, SIDE)
    tokens = torch.tensor([[3, 4, 5, 6, 1] + [0] * (LENGTH - 5)])
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(images), image(images), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(clip.encode_text(["a photo of cat"]), text(tokens), atol=1e-4, rtol=1e-4)
    assert clip.logit_bias == -13.0


def test_weights_without_their_configuration_are_refused(theirs, tmp_path):
    state = SiglipModel.from_pretrained(theirs[1]).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "siglip.safetensors")
    with pytest.raises(
        UserError, match=r"SigLIP's weights do not say all; keep their open_clip_config\.json"
    ):
        load_clip(tmp_path / "siglip.safetensors")


WORKING = [name for name in open_clip.list_models() if unsupported(open_clip.get_model_config(name)) is None]
FEW = ("ViT-B-16-SigLIP2", "ViT-SO400M-14-SigLIP", "ViT-B-16", "ViT-L-14-CLIPA", "RN101")


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in WORKING]
)
def test_every_listed_model_takes_its_weights(name):
    """Names and shapes of open_clip's own network are those of ours, and so are SigLIP's activations."""
    config = open_clip.get_model_config(name)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"):
        model = kind(**config)
    state = to_open_clip(dict(model.state_dict()))
    state.pop("logit_bias", None)
    towers = without_values(lambda: build_towers(check({"quick_gelu": False, **config}, name, state)))
    ours = {key: tuple(value.shape) for key, value in towers.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in state.items()} == ours
    if "SigLIP" in name:
        timm_name = config["vision_cfg"]["timm_model_name"]
        approximate = "Tanh" in repr(model.visual.trunk.blocks[0].mlp.act)
        assert bool(TANH.search(timm_name)) == approximate


@pytest.mark.parametrize("name", [name for name in open_clip.list_models() if name not in WORKING])
def test_every_other_model_is_refused_in_one_line(name):
    with pytest.raises(UserError) as error:
        load_clip(name)
    assert re.fullmatch(
        rf"{re.escape(name)}: it[^\n]*work, .*`denseclip models` lists them", str(error.value)
    )
