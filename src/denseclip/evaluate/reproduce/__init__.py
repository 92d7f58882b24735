"""The papers' training-free tables: run, compared with what was published, and held against its claims."""

from denseclip.evaluate.reproduce.needs import MissingError
from denseclip.evaluate.reproduce.report import Report
from denseclip.evaluate.reproduce.table import RowKind, reproduce

__all__ = ["MissingError", "Report", "RowKind", "reproduce"]
