"""The papers' tables: run, compared with what was published, and held against their claims."""

from denseclip.evaluate.reproduce.needs import MissingError
from denseclip.evaluate.reproduce.report import Report
from denseclip.evaluate.reproduce.table import reproduce

__all__ = ["MissingError", "Report", "reproduce"]
