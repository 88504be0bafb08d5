"""Experiments as their users run them: a command in a process of its own."""

import subprocess
import sys

from tests.compilation import environment_for_commands

ENVIRONMENT = environment_for_commands()
"""Without the simulated devices of the tests."""


def run_module(name, *flags, timeout=600):
    """``python -m name flags``, ended, with what it printed."""
    command = [sys.executable, "-m", name, *map(str, flags)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)
