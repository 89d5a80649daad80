"""Patches -> model: the networks, their losses, their training, the file they travel in."""
