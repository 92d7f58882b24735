"""The grid of corruptions on a tiny random CLIP and a few small sticker scenes."""

import json

import numpy as np
import pytest
import torch

from cli_support import run
from clip_support import tiny_clip, write_embedded
from denseclip.data.corruptions import KINDS, corrupt, corruption_seed
from denseclip.data.opening import open_dataset
from denseclip.data.published import dataset_spec
from denseclip.data.sticker_sets import open_stickers
from denseclip.errors import UserError
from denseclip.evaluate.grid import Grid, check_grid, corrupted, robustness, write_grid
from denseclip.evaluate.run import evaluate
from denseclip.loading import make_settings, set_dataset_classes
from denseclip.segment.segmenter import Segmenter

SPEC = dataset_spec("stickers20")


@pytest.fixture(scope="module")
def dataset():
    return open_stickers(SPEC, side=64)


@pytest.fixture(scope="module")
def segmenter():
    made = Segmenter(tiny_clip("vit"), settings=make_settings(resize="none", templates="1"))
    set_dataset_classes(made, SPEC)
    return made


def grid_of(segmenter, dataset, folder, **options):
    given = {"kinds": ("spatter", "gaussian_noise"), "levels": (5, 1), "limit": 3}
    return robustness(segmenter, dataset, folder, **(given | options))


def test_cells_are_the_evaluations_of_corrupted_pictures(segmenter, dataset, tmp_path):
    grid = grid_of(segmenter, dataset, tmp_path)
    assert list(grid.cells) == [
        None, ("spatter", 1), ("spatter", 5), ("gaussian_noise", 1), ("gaussian_noise", 5),
    ]  # fmt: skip
    plain = evaluate(segmenter, dataset, limit=3)
    assert torch.equal(grid.cells[None].matrix.matrix, plain.matrix.matrix)
    by_hand = torch.zeros_like(plain.matrix.matrix)
    for sample in (dataset[i] for i in range(3)):
        picture = corrupt(sample.image, "spatter", 5, seed=corruption_seed(sample.image_id, "spatter", 5))
        guess, counted = segmenter.segment(picture).mask, sample.mask != 255
        np.add.at(by_hand.numpy(), (sample.mask[counted], guess[counted]), 1)
    assert torch.equal(grid.cells["spatter", 5].matrix.matrix, by_hand)
    assert grid.cells["spatter", 5].protocol.corruption == ("spatter", 5)


def test_a_picture_is_corrupted_alike_whatever_came_before(dataset):
    change = corrupted("gaussian_noise", 2)
    first = [change(dataset[i]) for i in (0, 1)]
    second = [change(dataset[i]) for i in (1, 0)]
    assert np.array_equal(first[0], second[1])
    assert np.array_equal(first[1], second[0])
    assert not np.array_equal(first[0], corrupted("gaussian_noise", 3)(dataset[0]))


def test_an_interrupted_grid_continues_to_the_same_counts(segmenter, dataset, tmp_path):
    whole = grid_of(segmenter, dataset, tmp_path / "whole")

    def stop(cell, done, total):
        assert total == 15
        if (cell, done) == ("gaussian_noise 1", 11):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid_of(segmenter, dataset, tmp_path / "parts", progress=stop)
    seen = []
    again = grid_of(
        segmenter, dataset, tmp_path / "parts", resume=True, progress=lambda *told: seen.append(told)
    )
    assert ("gaussian_noise 1", 10, 15) not in seen  # its first picture was counted before
    assert seen[-1] == ("gaussian_noise 5", 15, 15)
    for key, result in whole.cells.items():
        assert torch.equal(result.matrix.matrix, again.cells[key].matrix.matrix)
        assert torch.equal(result.matrix.per_image, again.cells[key].matrix.per_image)
    assert whole.to_json() == again.to_json()


def test_results_are_neither_overwritten_nor_mixed_with_another_protocol(segmenter, dataset, tmp_path):
    grid_of(segmenter, dataset, tmp_path, kinds=("spatter",), levels=(1,))
    with pytest.raises(UserError, match="has results already; add --resume"):
        grid_of(segmenter, dataset, tmp_path)
    with pytest.raises(UserError, match="belongs to another evaluation"):
        grid_of(segmenter, dataset, tmp_path, resume=True, limit=2)


def test_figures_files_and_their_means(segmenter, dataset, tmp_path):
    grid = grid_of(segmenter, dataset, tmp_path / "cells")
    write_grid(grid, tmp_path)
    content = json.loads((tmp_path / "robustness.json").read_text())
    assert [row["level"] for row in content["rows"]] == [0, 1, 5, 1, 5]
    assert content["protocol"]["model"] == segmenter.clip.name
    figures = {(row["corruption"], row["level"]): row["mIoU"] for row in content["rows"]}
    assert len(set(figures.values())) > 3  # a random CLIP is right now and then
    mean = (figures["spatter", 5] + figures["gaussian_noise", 5]) / 2
    assert content["mean_over_kinds"]["5"] == pytest.approx(mean, abs=0.011)
    assert content["rows"][0]["kept"] == 100
    assert len((tmp_path / "robustness.csv").read_text().splitlines()) == 6
    picture = (tmp_path / "robustness.png").read_bytes()
    write_grid(Grid(grid.cells), tmp_path)
    assert (tmp_path / "robustness.png").read_bytes() == picture


@pytest.mark.parametrize(
    ("kinds", "levels", "named"),
    [
        (("fog",), (1,), "kinds fog"),
        (("spatter", "spatter"), (1,), "each once"),
        ((), (1,), "kinds"),
        (KINDS, (0, 1), "levels 0, 1"),
        (KINDS, (), "levels"),
    ],
)
def test_unusable_kinds_and_levels(kinds, levels, named):
    with pytest.raises(UserError, match=named):
        check_grid(kinds, levels)


def test_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DENSECLIP_CACHE", str(tmp_path / "cache"))
    model, out = write_embedded(tmp_path / "clip", "rn"), tmp_path / "out"
    command = (
        "robustness", model, "stickers20", "--kinds", "jpeg_compression", "--levels", "1,5", "--limit", 2,
        "--templates", "1", "--preset", "vanilla", "--out", out,
    )  # fmt: skip
    ran = run(capsys, *command)
    assert ran.code == 0, ran.err
    assert "jpeg_compression" in ran.out
    content = json.loads((out / "robustness.json").read_text())
    assert content["protocol"]["last block"].startswith("qk")
    assert content["protocol"]["templates"] == 1
    assert content["protocol"]["images"] == 2
    assert len(open_dataset("stickers20")) > 2
    ran = run(capsys, *command)
    assert ran.code == 2
    assert "--resume" in ran.err
    ran = run(capsys, *command, "--resume")
    assert ran.code == 0
    assert json.loads((out / "robustness.json").read_text()) == content
    ran = run(capsys, "robustness", model, "stickers20", "--kinds", "fog", "--out", tmp_path / "new")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
