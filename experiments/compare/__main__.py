"""``python -m experiments.compare``: tune, train, report."""

from experiments.common.runner import cli
from experiments.compare.recipe import RECIPE

if __name__ == "__main__":
    cli(RECIPE)
