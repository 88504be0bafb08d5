"""The command for a GPU, on a machine without one."""

import jax
import pytest

from experiments.gpu.__main__ import Config, commands, main
from experiments.tickets.config import METHODS
from tests.experiments.command import run_module


def test_says_what_is_missing_and_what_to_do():
    if jax.default_backend() != "cpu":
        pytest.skip("there is an accelerator")
    with pytest.raises(ValueError, match="no accelerator: JAX found a CPU alone"):
        main(Config(), "")
    with pytest.raises(ValueError, match="--minutes must be positive; got 0"):
        main(Config(minutes=0), "")


def test_its_commands_are_ones_that_the_experiment_takes(tmp_path):
    for command in commands(Config(data_dir=tmp_path, seeds=(0, 1))):
        assert set(command[command.index("--method") + 1 : command.index("--seeds")]) <= set(
            METHODS
        )
        process = run_module(*command[2:], "--epochs", "-1")  # parsed, then refused
        assert "--epochs must be positive; got -1" in process.stderr
