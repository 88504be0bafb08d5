"""One script for each published table. Run them as ``python -m experiments.NAME``."""
