"""``python -m experiments.tickets``: search for tickets, train them, report."""

from experiments.common.runner import cli
from experiments.tickets.recipe import RECIPE

if __name__ == "__main__":
    cli(RECIPE)
