"""``python -m experiments.deploy RUN...``: shrink, export, measure, report."""

from experiments.common.runner import cli
from experiments.deploy.recipe import RECIPE

if __name__ == "__main__":
    cli(RECIPE)
