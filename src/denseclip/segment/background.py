"""What becomes of pixels that no word fits."""

from dataclasses import dataclass

from denseclip.errors import UserError
from denseclip.text import BACKGROUND, ClassPrompts

USUAL_BACKGROUND = (  # things that pictures show behind other things
    "background", "sky", "wall", "floor", "ground", "grass", "road", "tree", "building", "water", "mountain",
    "ceiling", "sand", "snow",
)  # fmt: skip


@dataclass(frozen=True)
class Background:
    """Words that describe the background, a probability below which a pixel is background, or both.

    With either, class 0 of every mask is "background". `threshold` is in 0..1: the soft-max over all words, with
    CLIP's own temperature, of the winning word.
    """

    words: tuple[str, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UserError(
                f"background threshold {self.threshold:g} is no probability; give one between 0 and 1"
            )

    def __bool__(self) -> bool:
        return bool(self.words) or self.threshold is not None

    def prompts(self, ontology: ClassPrompts) -> ClassPrompts:
        """What is embedded: the user's classes, behind class 0 if there are background words.

        The word "usual" stands for a list of usual backgrounds, without the user's own words.
        """
        if not self.words:
            return ontology
        if self.words == ("usual",):
            taken = {word.strip().lower() for word in ontology.words}
            return ontology.with_background([word for word in USUAL_BACKGROUND if word not in taken])
        return ontology.with_background(list(self.words))

    def names(self, ontology: ClassPrompts) -> tuple[str, ...]:
        """Class names by mask id."""
        if self and BACKGROUND in (name.strip().lower() for name in ontology.classes):
            raise UserError("there is a class 'background' already; rename it or give no background rule")
        return (BACKGROUND, *ontology.classes) if self else ontology.classes
