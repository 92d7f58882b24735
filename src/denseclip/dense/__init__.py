"""Training-free dense prediction."""
