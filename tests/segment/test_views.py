"""Windows, scales and flips: composed scores equal what full-size averaging gives."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from denseclip.errors import UserError
from denseclip.segment.fusion import ScoreFusion
from denseclip.segment.resample import windows
from denseclip.segment.settings import Slide


def full_size(cuts, scores, size):
    """The full-size score maps of all views, written plainly."""
    groups = {}
    for cut, one in zip(cuts, scores, strict=True):
        total, count = groups.setdefault(
            (cut.frame, cut.flip), [torch.zeros(len(one), *cut.frame), torch.zeros(cut.frame)]
        )
        up = F.interpolate(one[None], (cut.height, cut.width), mode="bilinear")[0]
        up = up.flip(-1) if cut.flip else up
        place = (slice(cut.top, cut.top + cut.height), slice(cut.left, cut.left + cut.width))
        total[(slice(None), *place)] += up
        count[place] += 1
    maps = [
        F.interpolate((total / count)[None], size, mode="bilinear")[0] for total, count in groups.values()
    ]
    return torch.stack(maps)


@pytest.mark.parametrize("slide", [None, Slide(32, 20), Slide(48, 48)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("frames", [[(64, 80)], [(64, 80), (40, 56)]])
def test_composed_scores_are_the_average_of_full_size_maps(slide, flip, frames):
    cuts = [cut for frame in frames for cut in windows(frame, slide, flip)]
    scores = [torch.randn(7, -(-cut.height // 16), -(-cut.width // 16)) for cut in cuts]
    composer = ScoreFusion(cuts, [(one.shape[1], one.shape[2]) for one in scores], (51, 77))
    expected = full_size(cuts, scores, (51, 77)).mean(0)
    torch.testing.assert_close(composer.full(scores), expected, atol=2e-5, rtol=0)
    bands = [composer.band(scores, rows) for rows in (slice(0, 20), slice(20, 51))]
    torch.testing.assert_close(torch.cat(bands, 1), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("frames", [[(64, 80)], [(64, 80), (40, 56)]])
def test_with_a_temperature_probabilities_are_averaged(frames):
    cuts = [cut for frame in frames for cut in windows(frame, Slide(32, 20), flip=True)]
    scores = [torch.randn(7, -(-cut.height // 16), -(-cut.width // 16)) for cut in cuts]
    before = [one.clone() for one in scores]
    composer = ScoreFusion(cuts, [(one.shape[1], one.shape[2]) for one in scores], (51, 77), temperature=3.0)
    expected = (3 * full_size(cuts, scores, (51, 77))).softmax(1).mean(0)
    torch.testing.assert_close((3 * composer.full(scores)).exp(), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close((3 * composer.plane(scores, 4)).exp(), expected[4], atol=2e-5, rtol=0)
    assert all(torch.equal(one, other) for one, other in zip(before, scores, strict=True))


def test_one_view_keeps_its_scores():
    cuts = windows((40, 56), Slide(32, 20), flip=False)
    scores = [torch.randn(3, 2, 2) for _ in cuts]
    plain, warm = (ScoreFusion(cuts, [(2, 2)] * len(cuts), (40, 56), t).full(scores) for t in (None, 5.0))
    assert torch.equal(plain, warm)


def test_mirrored_windows_are_those_of_the_mirrored_frame():
    frame = torch.rand(3, 100, 70)
    cuts = windows((100, 70), Slide(32, 24), flip=True)
    plain = windows((100, 70), Slide(32, 24), flip=False)
    mirrored = [cut.cut(frame) for cut in cuts if cut.flip]
    assert all(torch.equal(one, cut.cut(frame.flip(-1))) for one, cut in zip(mirrored, plain, strict=True))


def test_windows_cover_every_pixel_and_the_last_one_is_shifted_inside():
    cuts = windows((100, 70), Slide(32, 24), flip=False)
    seen = torch.zeros(100, 70)
    for cut in cuts:
        assert cut.top + cut.height <= 100
        assert cut.left + cut.width <= 70
        seen[cut.top : cut.top + cut.height, cut.left : cut.left + cut.width] += 1
    assert seen.min() >= 1
    assert Slide(32, 24).starts(100) == [0, 24, 48, 68]
    assert Slide(32, 24).starts(20) == [0]


def test_a_mirrored_window_is_cut_mirrored():
    frame = torch.arange(12.0).view(1, 3, 4)
    plain, mirrored = windows((3, 4), None, flip=True)
    assert torch.equal(mirrored.cut(frame), plain.cut(frame).flip(-1))


@pytest.mark.parametrize("text", ["224", "224/", "a/b", "224/0", "100/200", "-3/2"])
def test_a_slide_that_cannot_be(text):
    with pytest.raises(UserError, match=r"^slide .*(write crop/stride|the stride must be)"):
        Slide.parse(text)


def test_bands_hold_few_scores_and_cover_all_rows():
    composer = ScoreFusion(windows((64, 64), None, flip=True), [(4, 4)] * 2, (1000, 2000))
    bands = composer.bands(classes=171)
    assert bands[0].start == 0
    assert bands[-1].stop == 1000
    assert all(a.stop == b.start for a, b in itertools.pairwise(bands))
    assert max(b.stop - b.start for b in bands) * 171 * 2000 <= 1 << 23
