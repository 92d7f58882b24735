"""The papers' tables: made, compared with what was published, and held against their claims."""

from denseclip.reproduce.needs import MissingError
from denseclip.reproduce.runner import reproduce

__all__ = ["MissingError", "reproduce"]
