"""Data: the papers' tables, what was published, and recipes of trainings."""
