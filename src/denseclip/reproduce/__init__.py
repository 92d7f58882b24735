"""The papers' tables: made, compared with what was published, and held against their claims."""

from denseclip.reproduce.runner import reproduce
from denseclip.reproduce.runs import MissingError

__all__ = ["MissingError", "reproduce"]
