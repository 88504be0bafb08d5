"""``python -m experiments.constrained_l0``: train under constraints, purge, report."""

from experiments.common.runner import cli
from experiments.constrained_l0.recipe import RECIPE

if __name__ == "__main__":
    cli(RECIPE)
