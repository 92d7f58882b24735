"""A learned background, as zero-shot VOC21 and Context60 have it (cls_bg): trained, then evaluated."""

import json

from denseclip.cli.train import evaluate
from denseclip.train.training import train
from train_support import small


def test_the_background_is_evaluated_too(tmp_path):
    recipe = small(
        steps=2,
        data={"train": "stickers21", "val": "stickers21", "val_images": 2},
        student={"background": True},
        labels={"hide": "unseen", "guided": [1, 1], "self_training": [2]},
        evaluation={"resize": "short:64"},
    )
    done = train(recipe, tmp_path / "run", device="cpu")
    evaluate(done.checkpoint, recipe, None, "cpu", tmp_path / "evaluation")
    tables = [json.loads(path.read_text()) for path in (tmp_path / "evaluation").glob("*.json")]
    assert any("background" in json.dumps(table) and "mIoU" in json.dumps(table) for table in tables)
