"""``python -m experiments.lc_lenet300``: train, compress, report."""

from experiments.common.runner import cli
from experiments.lc_lenet300.recipe import RECIPE

if __name__ == "__main__":
    cli(RECIPE)
