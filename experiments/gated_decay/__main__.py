"""``python -m experiments.gated_decay``: train, prune while accurate, fine-tune, report."""

from experiments.common.runner import cli
from experiments.gated_decay.recipe import RECIPE

if __name__ == "__main__":
    cli(RECIPE)
