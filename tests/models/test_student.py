"""The student: classes that change, background, options, rebuilding, export."""

import pytest
import torch
import torch.nn.functional as F

from clip_support import ARCHITECTURES, load_openai_checkpoint
from denseclip.errors import UserError
from denseclip.models.backbones import ResNetShape
from denseclip.models.portable import free_sizes
from denseclip.models.student import StudentConfig, build_student
from denseclip.text import ClassEmbeddings

SHAPE = ResNetShape((1, 1, 1, 1), stem=8, base=4)
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def words(owner, dim=16, seed=0):
    """Unit vectors for prompts of these classes."""
    matrix = torch.randn(len(owner), dim, generator=torch.Generator().manual_seed(seed))
    names = tuple(f"class {i}" for i in range(max(owner) + 1))
    return ClassEmbeddings(F.normalize(matrix, dim=1), torch.tensor(owner), names)


def student(owner=(0, 1, 2), **options):
    torch.manual_seed(0)
    config = StudentConfig(**{"dim": 16, "backbone": "resnet", "shape": SHAPE, **options})
    return build_student(config, words(list(owner), config.dim)).eval()


@pytest.mark.parametrize(("stride", "size"), [(8, (8, 12)), (16, (4, 6)), (32, (2, 3))])
def test_logits_are_features_times_text(stride, size):
    net = student(output_stride=stride)
    features = net.features(IMAGES)
    assert features.shape == (2, 16, *size)
    torch.testing.assert_close(net(IMAGES), torch.einsum("bdhw,kd->bkhw", features, net.matrix))


def test_new_words_at_test_time():
    net = student()
    with torch.no_grad():
        before = net(IMAGES)
        state = {name: value.clone() for name, value in net.state_dict().items()}
        new = words([0, 1, 2, 3, 4], seed=3)
        net.set_classes(new)
        logits = net(IMAGES)
        assert net.classes == new.classes
        torch.testing.assert_close(logits, torch.einsum("bdhw,kd->bkhw", net.features(IMAGES), new.matrix))
        assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
        net.set_classes(words([0, 1, 2]))
        torch.testing.assert_close(net(IMAGES), before)


def test_best_prompt_of_a_class_counts():
    net = student((0, 0, 1, 2, 2))
    single = torch.einsum("bdhw,pd->bphw", net.features(IMAGES), net.matrix)
    best = torch.stack([single[:, :2].amax(1), single[:, 2], single[:, 3:].amax(1)], dim=1)
    torch.testing.assert_close(net(IMAGES), best)


def test_background_is_the_first_class_and_learns():
    net = student((0, 0, 1), background=True)
    assert net.classes == ("background", "class 0", "class 1")
    logits = net(IMAGES)
    row = F.normalize(net.bg_embeddings, dim=1)
    torch.testing.assert_close(logits[:, :1], torch.einsum("bdhw,kd->bkhw", net.features(IMAGES), row))
    logits.square().mean().backward()
    assert net.bg_embeddings.grad.abs().max() > 0
    rows = net.words()
    assert rows.class_of_prompt.tolist() == [0, 1, 1, 2] and not rows.matrix.requires_grad
    torch.testing.assert_close(rows.matrix.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(
        rows.max_over_prompts(torch.einsum("bdhw,pd->bphw", net.features(IMAGES), rows.matrix)), logits
    )


def test_normalized_features_and_temperature():
    net = student(normalize=True, temperature=20.0)
    assert (net.features(IMAGES).norm(dim=1) < 1 + 1e-5).all()
    cosines = torch.einsum("bdhw,kd->bkhw", net.features(IMAGES), net.matrix)
    torch.testing.assert_close(net(IMAGES), 20 * cosines)


def test_the_text_itself_is_not_trained():
    net = student()
    net(IMAGES).sum().backward()
    assert net.matrix.grad is None and "matrix" not in dict(net.named_parameters())


def test_mapped_classifier_learns_a_function_of_the_text():
    net = student(classifier="mapped")
    rows = net.mapper(net.matrix)
    torch.testing.assert_close(net(IMAGES), torch.einsum("bdhw,kd->bkhw", net.features(IMAGES), rows))
    torch.testing.assert_close(net.words().matrix, rows.detach())
    net(IMAGES).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in net.mapper.parameters())


@pytest.mark.parametrize("head", ["aspp_v2", "deeplabv3plus", "psp"])
@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "timm:convnext_atto"])
def test_on_any_timm_backbone(name, head):
    net = student(backbone=name, shape=None, head=head)
    with torch.no_grad():
        logits = net(IMAGES)
    assert logits.shape == (2, 3, *((16, 24) if head == "deeplabv3plus" else (8, 12)))
    assert logits.std() > 0


def test_clip_tower_as_the_start():
    clip = load_openai_checkpoint(ARCHITECTURES["rn"], 3)
    net = build_student(StudentConfig(16, "clip", classifier="mapped"), words([0, 1]), tower=clip.visual)
    assert net(IMAGES).shape == (2, 2, 8, 12)
    torch.testing.assert_close(net.backbone.conv1.weight.data, clip.visual.conv1.weight)
    again = build_student(StudentConfig.from_dict(net.config.to_dict()), words([0, 1]))
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.eval()(IMAGES), net.eval()(IMAGES))


def test_rebuilt_from_its_configuration():
    net = student(background=True, head="deeplabv3plus", normalize=True)
    again = build_student(StudentConfig.from_dict(net.config.to_dict()), net.embeddings)
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.eval()(IMAGES), net(IMAGES))


@pytest.mark.parametrize("head", ["deeplabv3plus", "psp"])  # the ones that pool
@pytest.mark.skipif(not free_sizes(), reason="torch.export of this torch fixes sizes")
def test_exported_for_any_size(head):
    net = student((0, 0, 1), head=head, background=True)
    height, width = torch.export.Dim("height", min=32, max=2048), torch.export.Dim("width", min=32, max=2048)
    program = torch.export.export(net, (IMAGES,), dynamic_shapes=({2: height, 3: width},))
    other = torch.randn(2, 3, 75, 113)
    torch.testing.assert_close(program.module()(other), net(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifier": "linear"}, "classifier 'linear' is unknown; choose text or mapped"),
        ({"temperature": 0.0}, "temperature 0 is not possible"),
        ({"backbone": "resnet50"}, "'resnet50' has its own shape"),
        ({"shape": None}, "backbone 'resnet' needs a shape"),
        ({"head": "fcn"}, "head 'fcn' is unknown"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        student(**options)


def test_words_that_do_not_fit():
    with pytest.raises(UserError, match="text vectors of length 8 do not fit the student's 16"):
        student().set_classes(words([0, 1], dim=8))
    named = ClassEmbeddings(words([0]).matrix, words([0]).class_of_prompt, ("Background",))
    with pytest.raises(UserError, match="learned background"):
        student(background=True).set_classes(named)


def test_configuration_with_strange_keys():
    with pytest.raises(UserError, match="unknown setting 'stride'"):
        StudentConfig.from_dict({"dim": 4, "stride": 8})
    with pytest.raises(UserError, match="'dim' is missing"):
        StudentConfig.from_dict({})
