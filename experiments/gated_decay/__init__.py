"""Gated weight decay: LeNet5 pruned while it stays accurate."""
