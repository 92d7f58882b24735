"""Choosing a model's defaults on the training split."""

import json

import pytest

from denseclip.evaluate.run import evaluate
from tools import choose_protocol


def test_a_table_of_the_training_split_that_goes_on(tmp_path, monkeypatch, capsys):
    out, splits = tmp_path / "rows.json", []

    def watched(segmenter, dataset, **options):
        splits.append((dataset.split, segmenter.clip.dtype, options["limit"]))
        return evaluate(segmenter, dataset, **options)

    monkeypatch.setattr(choose_protocol, "evaluate", watched)
    command = [
        "tiny-rn",
        "--data",
        "stickers20",
        "--limit",
        "2",
        "--windows",
        "whole",
        "160/80",
        "--out",
        str(out),
    ]
    choose_protocol.main([*command, "--presets", "vanilla"])
    choose_protocol.main([*command, "--presets", "vanilla", "maskclip"])
    assert [(split, str(dtype), limit) for split, dtype, limit in splits] == [
        ("train", "torch.float32", 2)
    ] * 8
    rows = json.loads(out.read_text())["rows"]
    assert len({(row["preset"], row["windows"], row["refine"]) for row in rows}) == len(rows) == 8
    best = max(rows, key=lambda row: row["mIoU"])
    table = capsys.readouterr().out.rpartition("preset ")[2].splitlines()
    assert len(table) == 9
    assert table[1].split()[:3] == [best["preset"], best["windows"], best["refine"]]
    with pytest.raises(SystemExit):
        choose_protocol.main([*command, "--data", "stickers59"])
    assert "holds figures of other weights or scenes" in capsys.readouterr().err


def test_what_does_not_go_with_a_model_is_left_out(capsys):
    choose_protocol.main(["tiny-vit", "--limit", "1", "--presets", "maskclip-dilated", "--refine", "none"])
    assert "is a ViT" in capsys.readouterr().out
