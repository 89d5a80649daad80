"""File -> image -> registered pair -> patches.  NumPy only: no torch."""
