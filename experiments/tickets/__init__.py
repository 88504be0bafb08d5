"""Lottery tickets: continuous sparsification against its rivals, whole families at once."""
