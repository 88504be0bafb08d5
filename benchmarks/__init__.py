"""Benchmarks: speed and memory relative to what a user would choose instead, in one run."""
