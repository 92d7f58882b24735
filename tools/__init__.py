"""What makes the package's assets: the sprite atlas and the tiny CLIPs. Run from a checkout; not in the wheel."""
