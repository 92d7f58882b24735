"""The words of a data set for a segmenter, and which class each of its answers means."""

from collections.abc import Sequence

from denseclip.data.specs import DatasetSpec
from denseclip.errors import UserError
from denseclip.segment.segmenter import Segmenter
from denseclip.text import BACKGROUND, ClassPrompts


def set_dataset_classes(segmenter: Segmenter, spec: DatasetSpec) -> None:
    """Ask a segmenter for the classes of a data set.

    If its settings have a background rule, that rule takes the place of the data set's background class;
    otherwise the background is looked for with its own word, like any class.
    Raises UserError if there is a rule but no such class.
    """
    scored = _scored(segmenter, spec)
    classes, prompts = tuple(spec.classes[k] for k in scored), tuple(spec.prompts[k] for k in scored)
    segmenter.set_classes(ClassPrompts(classes, prompts))


def class_ids(segmenter: Segmenter, spec: DatasetSpec) -> list[int]:
    """The data set's class index for each id in the segmenter's masks, after `set_dataset_classes`."""
    scored = _scored(segmenter, spec)
    names = tuple(spec.classes[k] for k in scored)
    if not segmenter.settings.background:
        assert segmenter.classes == names, f"classes of {spec.name} are not set"
        return list(scored)
    assert segmenter.classes == (BACKGROUND, *names), f"classes of {spec.name} are not set"
    assert spec.background is not None
    return [spec.background, *scored]


def _scored(segmenter: Segmenter, spec: DatasetSpec) -> Sequence[int]:
    """Indices of the classes that the segmenter has words for."""
    everything = range(len(spec.classes))
    if not segmenter.settings.background:
        return everything
    if spec.background is None:
        raise UserError(f"{spec.name} has no background class: leave out the background words and threshold")
    return [k for k in everything if k != spec.background]
