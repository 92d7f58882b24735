"""The papers' tables whose rows are trained: made in parts, kept by recipe, held against their claims."""

from denseclip.evaluate.reproduce.trained.flow import reproduce_trained
from denseclip.evaluate.reproduce.trained.report import TrainedReport

__all__ = ["TrainedReport", "reproduce_trained"]
