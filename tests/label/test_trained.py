"""Trained models label like any other, with their own words or with others."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from clip_support import tiny_clip
from denseclip.clip.clip import OPENAI_STATS
from denseclip.errors import UserError
from denseclip.label.engines import LocalEngine
from denseclip.label.job import JobOptions, run_job
from denseclip.label.sources import list_items
from denseclip.label.words import WordLabeller
from denseclip.loading import load, make_settings
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import build_denseclip
from denseclip.models.trained import contents_of
from label_support import blobs

OWN = ("cat", "dog", "sky")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    network = build_denseclip(DenseClipConfig(), tiny_clip("rn"), OWN)
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    saved = {"format": 1, "kind": "denseclip", "system": "denseclip", "model": state}
    path = tmp_path_factory.mktemp("run") / "last.pt"
    torch.save(saved | {"contents": contents_of(network, OPENAI_STATS)}, path)
    return path


@pytest.mark.parametrize("words", [None, ["sky", "cat"]])
def test_masks_are_the_models_own(checkpoint, tmp_path, words):
    (tmp_path / "in").mkdir()
    Image.fromarray(blobs(np.random.default_rng(0), 60, 80)).save(tmp_path / "in" / "a.png")
    segmenter = load(checkpoint, words, device="cpu", precision="fp32", cache=False, resize="short:64")
    items, out, labeler = list_items(str(tmp_path / "in")), tmp_path / "out", WordLabeller(segmenter)
    summary = run_job(labeler, items, out, JobOptions(("png", "voc")), LocalEngine(labeler))
    assert (summary.labeled, summary.skipped) == (1, 0)
    names = json.loads((out / "classes.json").read_text())
    assert tuple(names.values()) == (OWN if words is None else tuple(words))
    expected = segmenter.segment(tmp_path / "in" / "a.png").mask
    assert (np.asarray(Image.open(out / "masks" / "a.png")) == expected).all()
    assert 0 < summary.confidence <= 1


def test_settings_of_a_clip_are_refused(checkpoint):
    with pytest.raises(UserError, match="it has no last block to vary"):
        load(checkpoint, device="cpu", preset=make_settings("naclip").dense)
