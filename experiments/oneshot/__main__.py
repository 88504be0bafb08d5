"""``python -m experiments.oneshot``: calibrate, prune, perhaps train, report."""

from experiments.common.runner import cli
from experiments.oneshot.recipe import RECIPE

if __name__ == "__main__":
    cli(RECIPE)
