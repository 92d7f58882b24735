"""The written-out towers: equal to open_clip's own, fused equal to explicit, any size."""

import pytest
import torch
import torch.nn.functional as F

from clip_support import tiny_clip
from denseclip.clip.transformer import resize_positions
from denseclip.errors import UserError
from denseclip.segment.attention import DenseEncoder, dense_block, mix_values, neighborhood
from denseclip.segment.settings import PRESETS, Compat, DenseOptions, Refinement, preset


def images(side=(64, 64), seed=0):
    return torch.randn(2, 3, *side, generator=torch.Generator().manual_seed(seed))


def attend(q, k, v, bias=0.0):
    """Soft-max attention written out."""
    return (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1) @ v


OWN = ("sc-clip", "proxyclip")  # methods that are more than a mix, tested with their fixtures


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in OWN])
def test_values_are_mixed_as_the_papers_write_it(name):
    q, k, v = torch.randn(3, 2, 4, 13, 8).unbind(0)
    options = preset(name)
    bias = neighborhood((3, 4), options.sigma, v) if options.sigma else 0.0
    expected = {
        "identity": lambda: v,
        "qk": lambda: attend(q, k, v, bias),
        "qq": lambda: attend(q, q, v, bias),
        "kk": lambda: attend(k, k, v, bias),
        "qq+kk": lambda: attend(q, q, v, bias) + attend(k, k, v, bias),
    }[options.mix]()
    torch.testing.assert_close(mix_values(q, k, v, options, (3, 4)), expected, atol=1e-5, rtol=0)


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
    vit = tiny_clip("vit").visual
    block = vit.transformer.blocks[-1]
    x = torch.randn(1, 17, vit.width)
    y = x.clone()
    y[:, 5] += 1
    one, other = (dense_block(block, z, DenseOptions(), (4, 4)) for z in (x, y))
    moved = (one - other).abs().amax(-1)[0]
    assert moved[5] > 0.1
    assert moved[[i for i in range(17) if i != 5]].max() < 1e-6


def test_neighborhood_is_naclips_gaussian():
    w = neighborhood((2, 3), 5.0, torch.zeros(()))
    assert w.shape == (7, 7)
    assert w[0].eq(0).all()
    assert w[:, 0].eq(0).all()
    assert w[1, 1] == 1
    assert w[1, 6] == pytest.approx(torch.exp(torch.tensor(-(1 + 4) / 50)).item())


def test_position_table_follows_shape_unless_the_official_rule_is_asked_for():
    clip, wide = tiny_clip("vit"), images((32, 128))  # 2 x 8 patches, as many as the table's 4 x 4
    own, official = (
        DenseEncoder(clip, compat=compat).encode(wide).map for compat in (None, Compat(count_rule=True))
    )
    assert not torch.allclose(own, official, atol=1e-3)
    table = torch.randn(1 + 16, 8)
    assert resize_positions(table, (2, 8)).shape == table.shape
    assert not torch.equal(resize_positions(table, (2, 8)), table)
    assert resize_positions(table, (4, 4)) is table


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: preset("maskclap"),
            "preset 'maskclap' is unknown; did you mean maskclip",
        ),
        (lambda: DenseOptions(mix="vv"), "mix 'vv' is unknown; choose one of identity, qk, qq, kk"),
        (lambda: DenseOptions(sigma=5.0), "sigma must be above 0 and needs a mix other than identity"),
        (lambda: Compat.named("offical"), "compat 'offical' is unknown; choose official, "),
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
