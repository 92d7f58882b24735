"""CLIP towers and weights."""
