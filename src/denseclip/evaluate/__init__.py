"""Protocols, metrics, robustness, tables."""
