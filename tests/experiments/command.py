"""Experiments as their users run them: a command in a process of its own."""

import os
import subprocess
import sys

ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
"""Without the simulated devices of the tests."""


def run_module(name, *flags, timeout=600):
    """``python -m name flags``, ended, with what it printed."""
    command = [sys.executable, "-m", name, *map(str, flags)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)
