"""The command line: one verb, one module; parsing and printing only."""
