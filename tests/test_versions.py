"""The constraints pin what pyproject.toml asks for: the newest versions, and the oldest."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The extras that the tests of the oldest versions need.
TESTED = ("deploy", "experiments", "language", "test")


def _environment(python):
    return {"python_version": python, "python_full_version": f"{python}.0"}


def pins(name, python):
    """The version that a file of constraints pins under a version of Python, by package."""
    pinned = {}
    for line in (ROOT / name).read_text().splitlines():
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(_environment(python)):
            assert pin.name.lower() not in pinned, line
            (specifier,) = pin.specifier
            assert specifier.operator == "==", line
            pinned[pin.name.lower().replace("_", "-")] = Version(specifier.version)
    return pinned


def requirements(extras):
    lines = PROJECT["dependencies"] + [
        line for extra in extras for line in PROJECT["optional-dependencies"][extra]
    ]
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.name != PROJECT["name"]]


@pytest.mark.parametrize("requirement", requirements(TESTED), ids=str)
def test_the_oldest_versions_are_the_lower_bounds(requirement):
    (bound,) = requirement.specifier
    assert bound.operator == ">="
    pinned = pins("constraints-oldest.txt", "3.11")
    assert pinned[requirement.name.lower().replace("_", "-")] == Version(bound.version)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("requirement", requirements([*TESTED, "docs", "lint"]), ids=str)
def test_the_newest_versions_are_pinned_for_each_python(requirement, python):
    version = pins("constraints.txt", python)[requirement.name.lower().replace("_", "-")]
    assert version in requirement.specifier


@pytest.mark.parametrize("python", ["3.12", "3.13", "3.14"])
@pytest.mark.parametrize("requirement", requirements(TESTED), ids=str)
def test_where_the_lower_bound_has_no_build_a_later_version_is_the_oldest(requirement, python):
    version = pins("constraints-oldest.txt", python)[requirement.name.lower().replace("_", "-")]
    assert version in requirement.specifier


@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_jax_and_jaxlib_go_together(name, python):
    pinned = pins(name, python)
    assert pinned["jax"] == pinned["jaxlib"]


def test_supported_pythons_are_those_that_make_looks_for():
    assert PROJECT["requires-python"] == ">=3.11"
    names = re.findall(r"python3\.\d+", (ROOT / "Makefile").read_text().split("VENV ?=")[0])
    assert names == sorted(set(names), key=lambda n: -int(n.split(".")[1]))
    assert names[-1] == "python3.11"
