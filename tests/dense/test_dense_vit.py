"""The written-out towers: equal to open_clip's own, fused equal to explicit, any size."""

import pytest
import torch
import torch.nn.functional as F

from clip_support import tiny_clip
from denseclip.dense.features import DenseEncoder
from denseclip.dense.options import PRESETS, Compat, DenseOptions, Refinement, preset
from denseclip.dense.vit import DenseViT, attend, neighbourhood, resize_position
from denseclip.errors import UserError


def images(side=(64, 64), seed=0):
    return torch.randn(2, 3, *side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for name in PRESETS
        for kind in ("rn", "vit")
        if (kind, name) != ("vit", "maskclip-dilated")
    ],
)
def test_fused_and_explicit_attention_agree(kind, name):
    fused, explicit = (
        DenseEncoder(tiny_clip(kind), preset(name), fused=way).encode(images((96, 128)))
        for way in (True, False)
    )
    torch.testing.assert_close(fused.map, explicit.map, atol=2e-6, rtol=0)


def test_whole_picture_vector_is_open_clips_own():
    for kind in ("rn", "vit"):
        clip = tiny_clip(kind)
        dense = DenseEncoder(clip, DenseOptions(mix="qk", cls_bias=0.3)).encode(images())
        if kind == "rn":  # the pool of `whole` has no positional embedding, open_clip's has
            clip = None
            assert dense.whole.shape == (2, 32)
            continue
        torch.testing.assert_close(
            dense.whole, F.normalize(clip.encode_image(images()), dim=-1), atol=2e-6, rtol=0
        )


def test_cls_bias_takes_off_the_pictures_own_scores():
    clip, text = tiny_clip("vit"), F.normalize(torch.randn(5, 32), dim=-1)
    plain, biased = DenseEncoder(clip, DenseOptions()), DenseEncoder(clip, DenseOptions(cls_bias=0.3))
    a, b = plain.encode(images()), biased.encode(images())
    taken = plain.scores(a, text) - biased.scores(b, text)  # (2, 5, h, w)
    expected = 0.3 * (b.whole @ text.T)[:, :, None, None].expand_as(taken)
    torch.testing.assert_close(taken, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "size", "grid"), [("vit", (70, 90), (5, 6)), ("rn", (101, 83), (3, 2))])
def test_any_size(kind, size, grid):
    assert DenseEncoder(tiny_clip(kind)).encode(images(size)).map.shape == (2, 32, *grid)


def test_values_path_sees_only_its_own_position():
    clip = tiny_clip("vit")
    encoder = DenseViT(clip.image, DenseOptions(), Compat())
    x = torch.randn(1, 17, clip.image.width)
    y = x.clone()
    y[:, 5] += 1
    block = clip.image.blocks[-1]
    moved = (encoder.dense_block(x, block, (4, 4)) - encoder.dense_block(y, block, (4, 4))).abs().amax(-1)[0]
    assert moved[5] > 0.1
    assert moved[[i for i in range(17) if i != 5]].max() < 1e-6


def test_qq_plus_kk_is_the_sum_of_both():
    q, k, v = torch.randn(3, 2, 4, 9, 8).unbind(0)
    from denseclip.dense.vit import mix_values

    both = mix_values(q, k, v, DenseOptions(mix="qq+kk"), None, fused=True)
    torch.testing.assert_close(both, attend(q, q, v) + attend(k, k, v), atol=1e-5, rtol=0)


def test_neighbourhood_is_naclips_gaussian():
    w = neighbourhood((2, 3), 5.0, torch.zeros(()))
    assert w.shape == (7, 7)
    assert w[0].eq(0).all()
    assert w[:, 0].eq(0).all()
    assert w[1, 1] == 1
    assert w[1, 6] == pytest.approx(torch.exp(torch.tensor(-(1 + 4) / 50)).item())


def test_position_table_follows_shape_unless_the_official_rule_is_asked_for():
    table = torch.randn(1 + 16, 8)
    assert resize_position(table, (4, 4), (2, 8), count_rule=True) is table
    assert resize_position(table, (4, 4), (2, 8), count_rule=False).shape == table.shape
    assert not torch.equal(resize_position(table, (4, 4), (2, 8), count_rule=False), table)
    assert resize_position(table, (4, 4), (4, 4), count_rule=False) is table


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: preset("maskclap"),
            "preset 'maskclap' is unknown; choose one of maskclip, maskclip-reduced",
        ),
        (lambda: DenseOptions(mix="vv"), "mix 'vv' is unknown; choose one of identity, qk, qq, kk"),
        (lambda: DenseOptions(sigma=5.0), "sigma must be above 0 and needs a mix other than identity"),
        (lambda: Compat.named("offical"), "compat 'offical' is unknown; choose official or none"),
        (lambda: Refinement(pd=1.5), "refinement pd=1.5 is no probability"),
        (lambda: Refinement.parse("pk"), "refinement 'pk' is not understood; write none, pd, ks"),
        (lambda: Refinement.parse("pd=high"), "refinement 'pd=high' is not understood"),
        (lambda: Refinement(ks_norm="rows"), "ks-norm 'rows' is unknown; choose positions or channels"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_refinement_reads_its_short_form():
    assert Refinement.parse("pd+ks") == Refinement(pd=0.5, ks=1.0)
    assert Refinement.parse("ks=0.9") == Refinement(ks=0.9)
    assert Refinement.parse(None) == Refinement.parse("none") == Refinement()
