"""What one chooses about a DenseCLIP; what follows from the weights is in `shapes`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from denseclip.errors import UserError

Prompting = Literal["post", "pre", "none"]
Positions = Literal["interpolate", "crop"]


@dataclass(frozen=True)
class DenseClipConfig:
    """A DenseCLIP, or with `language=False` the plain fine-tuned CLIP that it is compared with.

    language: words guide the features; without them there is no score map, no text and no auxiliary loss.
    prompting: "post": t + gamma * decoder(t, [g; z]) (section 3.3, post-model prompting); "pre": the decoder
    makes the contexts of every picture from learned queries, and they go through the text encoder (pre-model
    prompting); "none": the learned contexts alone.
    backbone: "clip" for the CLIP's own image tower, "timm:NAME" for any timm backbone with a new attention pool.
    timm_pretrained: ImageNet weights for it. resolution: pixels whose grid the position table is resized to when
    CLIP's weights are loaded (the training crop in the paper: 512, for ViTs 640); None keeps CLIP's grid.
    positions: at run time the table is interpolated to the map, or its top left corner is used (the official
    detectors), which limits the picture's size.
    contexts: learned vectors in front of the name. decoder_*: the context decoder. gamma: its initial factor.
    score_level: the feature map (0..3) that the score map joins; None: the one of z's own stride.
    score_logits: join s / tau (the detectors) in place of the cosine s. tau: temperature of the auxiliary loss.
    aux_weight: weight of the auxiliary loss, 0 switches it off. drop_path: highest rate, of ViTs. out_indices: of
    ViTs, the blocks (from 0) whose outputs become the four maps; None: 3, 5, 7 and 11 of twelve.
    official: the quirks of the published code, for its numbers. Off, each of these mistakes is mended:

    - ViT: the class embedding is added a second time with the position of the class token;
    - ViT: a dropped path drops token positions of the whole batch, not pictures;
    - losses divide by all pixels, ignored ones too;
    - the text encoder is given learning rate 0 instead of being frozen, and drifts under a schedule with a floor;
    - contexts start with standard deviation 1, far above CLIP's token embeddings (ours: 0.02);
    - only names with "norm" escape weight decay, which 18 tensors have; ours: all vectors escape;
    - new layers inside the backbone (the ViT's pyramid) learn at a tenth of the rate, because of their names.

    Batch norms are plain ones and trained, in the backbone too; the training loop synchronizes them where there
    are several processes (the official code always does, and so fails with one).
    """

    language: bool = True
    prompting: Prompting = "post"
    backbone: str = "clip"
    timm_pretrained: bool = False
    resolution: int | None = None
    positions: Positions = "interpolate"
    contexts: int = 8
    decoder_width: int = 256
    decoder_heads: int = 4
    decoder_layers: int = 3
    decoder_dropout: float = 0.1
    gamma: float = 1e-4
    score_level: int | None = None
    score_logits: bool = False
    fpn_channels: int = 256
    head_dropout: float = 0.1
    tau: float = 0.07
    aux_weight: float = 0.4
    drop_path: float = 0.1
    out_indices: tuple[int, ...] | None = None
    official: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("prompting", Prompting), ("positions", Positions)):
            if getattr(self, name) not in get_args(kind):
                raise UserError(
                    f"{name} {getattr(self, name)!r} is not known; choose one of {', '.join(get_args(kind))}"
                )
        if self.backbone != "clip" and not self.backbone.startswith("timm:"):
            raise UserError(f'backbone {self.backbone!r} is not known; write "clip" or "timm:NAME"')
        if self.decoder_width % self.decoder_heads:
            raise UserError(
                f"decoder_heads {self.decoder_heads} do not divide decoder_width {self.decoder_width}; "
                "change one of them"
            )
        if self.score_level not in (None, 0, 1, 2, 3):
            raise UserError(f"score_level {self.score_level} is not a feature map; give 0 to 3")
        if self.out_indices is not None:
            object.__setattr__(self, "out_indices", tuple(self.out_indices))  # JSON and TOML have lists
            if len(self.out_indices) != 4 or sorted(self.out_indices) != list(self.out_indices):
                raise UserError(f"out_indices {list(self.out_indices)} are not four rising blocks; give four")
        if not self.tau > 0:
            raise UserError(f"tau {self.tau} is not possible; give a positive temperature such as 0.07")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and recipes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DenseClipConfig":
        """The inverse of `to_dict`; UserError for an unknown key."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise UserError(f"DenseCLIP has no setting {unknown[0]!r}; remove it or mend its spelling")
        return cls(**values)
