"""Constrained L0: hard-concrete gates trained to a density that the user names."""
