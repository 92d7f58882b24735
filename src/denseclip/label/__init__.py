"""Labelling jobs: a mountain of pictures becomes a data set."""
