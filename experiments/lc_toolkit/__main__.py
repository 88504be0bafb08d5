"""``python -m experiments.lc_toolkit``: train, compress, report."""

from experiments.common.runner import cli
from experiments.lc_toolkit.recipe import RECIPE

if __name__ == "__main__":
    cli(RECIPE)
