"""Training of the embedded tiny CLIPs, from sticker pictures and their captions alone."""
