"""Where an interrupted evaluation continues."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

from denseclip.errors import UserError
from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.evaluate.protocol import Protocol
from denseclip.io import atomic_path


@dataclass
class Tally:
    """What has been counted. done: images looked at, the skipped ones among them. seconds: of all runs."""

    matrix: ConfusionMatrix
    done: int = 0
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether every image is counted entirely or not at all; an interruption may fall between two lines."""
        images = self.matrix.per_image
        same_pixels = int(self.matrix.matrix.sum()) == int(images[..., 2].sum())
        return same_pixels and len(images) + len(self.skipped) == self.done

    def save(self, path: Path, protocol: Protocol) -> None:
        """Write everything, unless an image is half counted: then what was written before stays."""
        if not self.whole:
            return
        content = {
            "protocol": json.dumps(protocol.to_dict()),
            "counts": self.matrix.state_dict(),
            "done": self.done,
            "skipped": self.skipped,
            "seconds": self.seconds,
        }
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    def load(self, path: Path, protocol: Protocol) -> None:
        """Continue from a file; raises UserError if it cannot be read or belongs to another protocol."""
        remove = "remove it, or write the results elsewhere"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            other = Protocol.from_dict(json.loads(content["protocol"]))
            counts, self.done = content["counts"], int(content["done"])
            self.skipped, self.seconds = list(content["skipped"]), float(content["seconds"])
        except Exception as error:  # torch raises whatever the damaged bytes lead to
            raise UserError(
                f"cannot continue from {path} ({type(error).__name__}, it is damaged): {remove}"
            ) from None
        different = protocol.differences(other)
        if different:
            raise UserError(
                f"{path} belongs to another evaluation (other {', '.join(different)[:120]}): {remove}"
            )
        self.matrix.load_state_dict(counts)
