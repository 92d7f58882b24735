"""MaskCLIP+ students and DenseCLIP."""
