"""The text side at inference: computed once, never stale; other words."""

import copy

import pytest
import torch
from small_denseclip import CLASSES, RESNET, VIT, images, small

from denseclip.errors import UserError


@pytest.fixture
def counted():
    """A model, and how often its text encoder ran."""
    model = small()
    calls = []
    model.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    return model, calls


def test_embeddings_are_made_once(counted):
    model, calls = counted
    with torch.inference_mode():
        first, second = model(images()), model(images())
    assert len(calls) == 1
    assert torch.equal(first, second)


@pytest.mark.parametrize("prompting", ["post", "none"])
def test_kept_embeddings_change_nothing(prompting):
    model = small(prompting=prompting)
    fresh = model(images())  # gradients are on: nothing is kept
    with torch.no_grad():
        model(images())
        torch.testing.assert_close(model(images()), fresh)


def changes():
    def step(model):
        torch.optim.SGD([model.contexts], lr=1.0).step()

    def in_place(model):
        with torch.no_grad():
            model.text_encoder.text_projection.mul_(-1)

    def state(model):
        model.load_state_dict({n: -t if n == "contexts" else t for n, t in model.state_dict().items()})

    def assigned(model):
        changed = {n: -t if n == "contexts" else t for n, t in copy.deepcopy(model.state_dict()).items()}
        model.load_state_dict(changed, assign=True)

    def data_in_training(model):
        model.train()
        model.contexts.data.neg_()
        model.eval()

    return [step, in_place, state, assigned, data_in_training]


@pytest.mark.parametrize("change", changes(), ids=lambda f: f.__name__)
def test_changed_weights_are_seen(change):
    model = small()
    with torch.no_grad():
        before = model(images())
    model.contexts.grad = torch.ones_like(model.contexts)
    change(model)
    with torch.no_grad():
        after = model(images())
    assert (after - before).abs().max() > 1e-6
    fresh = model(images()).detach()
    torch.testing.assert_close(after, fresh)


def test_another_precision_is_seen(counted):
    model, calls = counted
    with torch.no_grad():
        model(images())
        model.double()
        assert model(images().double()).dtype == torch.float64
    assert len(calls) == 2


def test_pre_model_prompting_runs_the_text_encoder_for_every_picture():
    model = small(prompting="pre")
    calls = []
    model.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(images()), model(images())
    assert len(calls) == 2


@pytest.mark.parametrize("shapes", [RESNET, VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("prompting", ["post", "pre", "none"])
def test_other_words(shapes, prompting):
    model = small(shapes, prompting=prompting)
    with torch.no_grad():
        own = model.with_words(CLASSES)(images())
        torch.testing.assert_close(own, model.forward_features(images()).scores / model.config.tau)
        other = model.with_words(["dog", "cat"])(images())
    assert other.shape[1] == 2
    assert other.shape[-2:] == own.shape[-2:]
    if prompting == "none":  # words do not see each other
        torch.testing.assert_close(other[:, 1], own[:, 0])


def test_other_words_leave_the_model_alone(counted):
    model, calls = counted
    names = set(model.state_dict())
    asked = model.with_words(["dog"])
    with torch.no_grad():
        model(images()), asked(images()), asked(images()), model(images())
    assert len(calls) == 2
    assert set(model.state_dict()) == names
    with pytest.raises(UserError, match="tokens"):
        model.with_words(["an extremely long name indeed"])
