"""A student that starts from a CLIP's image tower: the teacher's, or another one's."""

import pytest
import torch

from denseclip.clip import load_clip
from denseclip.errors import UserError
from denseclip.train.maskclip_plus import build_maskclip_plus
from denseclip.train.training import open_training_data
from train_support import small


def task(backbone, teacher):
    recipe = small(student={"backbone": backbone}, teacher={"model": teacher, "preset": "maskclip"})
    return build_maskclip_plus(recipe, open_training_data(recipe.data, None), torch.device("cpu"))


@pytest.mark.parametrize(
    ("backbone", "teacher"), [("clip", "tiny-rn"), ("clip:tiny-rn", "tiny-rn"), ("clip:tiny-rn", "tiny-vit")]
)
def test_it_starts_from_that_tower(backbone, teacher):
    made = task(backbone, teacher)
    tower = load_clip("tiny-rn").visual
    assert torch.equal(made.model.backbone.conv1.weight, tower.conv1.weight)
    assert torch.equal(made.model.backbone.layer4[0].conv2.weight, tower.layer4[0].conv2.weight)
    assert made.model.config.backbone == "clip", "a checkpoint would name a CLIP that it does not need"
    assert torch.equal(made.model.matrix, made.teacher.embeddings.matrix)


@pytest.mark.parametrize(("backbone", "teacher"), [("clip", "tiny-vit"), ("clip:tiny-vit", "tiny-rn")])
def test_a_vit_is_no_backbone(backbone, teacher):
    with pytest.raises(
        UserError, match=r"tiny-vit is a ViT; student\.backbone = clip needs a CLIP with a ResNet"
    ):
        task(backbone, teacher)
