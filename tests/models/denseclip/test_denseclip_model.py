"""Choices of DenseCLIP: prompting, language, official quirks; what users can get wrong."""

import pytest
import torch
from small_denseclip import CLASSES, RESNET, VIT, from_clip, images, small, tokenize

from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import build_denseclip, pixel_cross_entropy
from denseclip.models.encoders import Shapes


@pytest.mark.parametrize("shapes", [RESNET, VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("prompting", ["post", "pre", "none"])
def test_every_prompting_gives_logits_and_gradients(shapes, prompting):
    model = small(shapes, prompting=prompting).train()
    labels = torch.randint(0, 3, (2, 64, 96))
    losses = model.loss(images(), labels)
    assert set(losses) == {"decode", "aux"}
    sum(losses.values()).backward()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    zero_by_nature = {name for name in learning if name.endswith("k_proj.bias")}  # softmax ignores them
    assert learning - reached <= zero_by_nature
    assert "contexts" in reached
    assert not any(name.startswith("text_encoder") for name in reached)
    assert model(images()).shape == (2, 3, 16, 24)


def test_pre_model_contexts_depend_on_the_picture():
    model = small(prompting="pre")
    with torch.no_grad():
        text = model.forward_features(images()).text
    assert (text[0] - text[1]).abs().max() > 1e-3
    assert not hasattr(model, "gamma")


def test_without_prompting_all_pictures_share_the_words():
    with torch.no_grad():
        text = small(prompting="none").forward_features(images()).text
    assert torch.equal(text[0], text[1])


def test_gamma_zero_is_no_prompting():
    post, none = small(gamma=0.0), small(prompting="none")
    none.load_state_dict({n: t for n, t in post.state_dict().items() if n in none.state_dict()})
    with torch.no_grad():
        torch.testing.assert_close(post(images()), none(images()))


@pytest.mark.parametrize("shapes", [RESNET, VIT], ids=["resnet", "vit"])
def test_baseline_has_no_text(shapes):
    model = small(shapes, language=False)
    names = {name.split(".")[0] for name in model.state_dict()}
    assert names == {"backbone", "neck", "decode_head"}
    assert not any("attnpool" in name or "ln_post" in name for name in model.state_dict())
    assert set(model.loss(images(), torch.zeros(2, 64, 96, dtype=torch.long))) == {"decode"}
    with pytest.raises(UserError, match="without language"):
        model.with_words(["dog"])


def test_auxiliary_loss_can_be_off():
    assert set(small(aux_weight=0.0).loss(images(), torch.zeros(2, 64, 96, dtype=torch.long))) == {"decode"}


def test_ignored_pixels_do_not_dilute_the_loss():
    logits, labels = torch.randn(1, 3, 4, 4), torch.full((1, 8, 8), 255)
    labels[0, :4] = 1
    ours, official = (pixel_cross_entropy(logits, labels, all_pixels=quirk) for quirk in (False, True))
    torch.testing.assert_close(ours, 2 * official)
    labels[:] = 255
    assert pixel_cross_entropy(logits, labels) == 0


def test_class_embedding_once_or_twice():
    once, twice = small(VIT), small(VIT, official=True)
    twice.load_state_dict(once.state_dict())
    with torch.no_grad():
        assert (once(images()) - twice(images())).abs().max() > 1e-3
        twice.backbone.positional_embedding[0] -= twice.backbone.class_embedding
        torch.testing.assert_close(once(images()), twice(images()))


@pytest.mark.parametrize("by_position", [False, True])
def test_dropped_paths(by_position):
    from denseclip.clip.transformer import DropPath

    torch.manual_seed(0)
    drop = DropPath(0.5, by_position=by_position).train()
    kept = drop(torch.ones(64, 64, 8))
    across = kept[:, 0] if by_position else kept[0]  # the official draw is shared by all pictures
    assert len(across.unique()) == 1
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(drop.eval()(kept), kept)


def test_text_encoder_is_frozen_unless_official():
    for official in (False, True):
        model = small(official=official)
        assert {p.requires_grad for p in model.text_encoder.parameters()} == {official}
        assert model.contexts.requires_grad
        assert (model.contexts.std() > 0.5) == official


def test_position_table_cropped_or_interpolated():
    cropped = small(positions="crop")  # a table of 4x4 cells: 128 pixels
    assert cropped(images()).shape[1] == 3
    with pytest.raises(UserError, match="larger than the 4x4 positions"):
        cropped(images(height=160))
    assert small()(images(height=160)).shape == (2, 3, 40, 24)


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_pyramids_of_all_patch_sizes(patch):
    sizes = {**VIT.vision, "patch_size": patch, "layers": 2, "image_size": 2 * patch}
    model = small(Shapes(sizes, VIT.text, 24), out_indices=(0, 0, 1, 1))
    side = 4 * patch
    output = model.run(images(height=side, width=side))
    sides = [one.shape[-1] for one in output.features.maps]
    assert [sides[0] // side_ for side_ in sides] == [1, 2, 4, 8]
    assert output.features.maps[model.level].shape[1] == 32 + 3


def test_names_of_any_length_change_nothing_for_others():
    short, long = small(prompting="none"), small(classes=(*CLASSES, "an old wooden door"), prompting="none")
    assert short.words.tokens.shape[1] < long.words.tokens.shape[1]
    long.text_encoder.load_state_dict(short.text_encoder.state_dict())
    long.contexts.data.copy_(short.contexts)
    with torch.no_grad():
        few, many = (m.words.embeddings(m.text_encoder, m.contexts) for m in (short, long))
    torch.testing.assert_close(many[:, :3], few)


def test_user_errors_are_one_line():
    for wrong, message in (
        ({"prompting": "both"}, "prompting 'both' is not known; choose one of post, pre, none"),
        ({"positions": "wrap"}, "choose one of interpolate, crop"),
        ({"backbone": "resnet50"}, 'write "clip" or "timm:NAME"'),
        ({"decoder_heads": 3}, "do not divide"),
        ({"tau": 0.0}, "tau"),
        ({"score_level": 4}, "give 0 to 3"),
    ):
        with pytest.raises(UserError, match=message) as error:
            DenseClipConfig(**wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no classes"):
        small(classes=())
    with pytest.raises(UserError, match="has 26 tokens, this model reads 18"):
        small(classes=("cat", "a very long name of a thing"[:26]))


def test_configurations_and_sizes_survive_plain_values():
    import json

    config = DenseClipConfig(prompting="pre", official=True)
    assert DenseClipConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for shapes in (RESNET, VIT):
        assert Shapes.from_dict(json.loads(json.dumps(shapes.to_dict()))) == shapes
    with pytest.raises(UserError, match="no setting 'gama'"):
        DenseClipConfig.from_dict({"gama": 1})


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_starts_from_a_clip_as_the_clip_is(kind):
    from clip_support import tiny_clip

    clip = tiny_clip(kind)
    model = from_clip(kind)
    pictures = images(height=64, width=64)
    with torch.no_grad():
        torch.testing.assert_close(
            model.backbone(pictures).global_feature, clip.encode_image(pictures), rtol=1e-4, atol=1e-5
        )
        tokens = clip.tokenizer(["a red car"])
        torch.testing.assert_close(
            model.text_encoder(tokens), clip.encode_text(["a red car"]), rtol=1e-4, atol=1e-5
        )
    assert torch.isfinite(model(images(height=80, width=112))).all()


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_baseline_and_larger_tables_from_a_clip(kind):
    assert from_clip(kind, language=False)(images()).shape[1] == 3
    table = from_clip(kind, resolution=256).state_dict()
    name = "backbone.attnpool.positional_embedding" if kind == "rn" else "backbone.positional_embedding"
    assert len(table[name]) == 1 + (256 // (32 if kind == "rn" else 16)) ** 2


def test_folded_clip_is_refused():
    from clip_support import tiny_clip

    with pytest.raises(UserError, match="folded"):
        build_denseclip(DenseClipConfig(), tiny_clip("rn").folded(), CLASSES)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_any_timm_backbone(name):
    model = from_clip("rn", backbone=f"timm:{name}")
    logits = model(images(batch=1, height=96, width=128))
    assert logits.shape == (1, 3, 24, 32)
    assert torch.isfinite(logits).all()
    groups = {name: how for name, how in model.named_parameters() if name.startswith("backbone.attnpool.")}
    assert groups


def test_timm_backbones_that_cannot_be_used():
    with pytest.raises(UserError, match="resnet"):
        from_clip("rn", backbone="timm:resnetto18")
    with pytest.raises(UserError, match=r"strides|feature maps"):
        from_clip("rn", backbone="timm:vit_tiny_patch16_224")


def test_tokens_are_trimmed_to_the_longest_name():
    assert small().words.tokens.shape == (3, 7)
    assert tokenize(CLASSES).shape == (3, 40)


def test_a_vit_gives_the_maps_of_the_blocks_that_are_asked_for():
    usual, other = small(VIT), small(VIT, out_indices=[0, 0, 1, 3])
    other.load_state_dict(usual.state_dict())
    with torch.no_grad():
        one, two = usual.backbone(images()).maps, other.backbone(images()).maps
    assert torch.equal(one[0], two[0]) and torch.equal(one[3], two[3])
    assert not torch.equal(one[1], two[1]) and not torch.equal(one[2], two[2])
    assert DenseClipConfig.from_dict(other.config.to_dict()).out_indices == (0, 0, 1, 3)
    for wrong in ([3, 5, 7, 11], [0, 1, 2], [3, 2, 1, 0]):
        with pytest.raises(UserError, match="out_indices"):
            small(VIT, out_indices=wrong)
