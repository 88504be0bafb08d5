"""Lottery tickets: continuous sparsification against its rivals, whole populations at once."""
