import ast
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

import sparsejax

ROOMS = [
    "projections", "compression", "transforms", "gates", "constraints", "tickets", "inspection",
    "deploy", "training", "models",
]  # fmt: skip
OPTIONAL = [
    "flax", "orbax", "tensorflow_datasets", "matplotlib", "tqdm", "tyro", "tensorboardX",
    "safetensors", "onnx",
]  # fmt: skip


def test_the_bare_library_imports_none_of_the_extras():
    code = f"import sys, sparsejax; print([m for m in {OPTIONAL} if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "[]", process.stderr


ALLOWED = {
    "projections": set(),
    "compression": {"projections"},
    "transforms": {"compression", "projections"},
    "gates": set(),
    "constraints": set(),
    "tickets": {"gates", "projections"},
    "_units": set(),
    "inspection": {"_units"},
    "deploy": {"_units"},
    "training": set(),
    "models": {"flax", "deploy", "inspection"},
}


def imported(source):
    """Our rooms and the packages that a file imports."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            parts = name.split(".")
            yield parts[1] if parts[0] == "sparsejax" and len(parts) > 1 else parts[0]


@pytest.mark.parametrize("room", [*ROOMS, "_units"])
def test_methods_never_import_flax_and_arrows_point_one_way(room):
    """Each room imports only the rooms above it (see the design)."""
    forbidden = (ALLOWED.keys() | {"flax"}) - ALLOWED[room] - {room}
    files = list((pathlib.Path(sparsejax.__file__).parent / room).glob("*.py"))
    assert len(files) > 1
    for file in files:
        assert not forbidden & set(imported(file.read_text())), file


@pytest.mark.parametrize("room", [None, *ROOMS])
def test_every_public_name_is_documented(room):
    package = sparsejax if room is None else importlib.import_module(f"sparsejax.{room}")
    for name in package.__all__:
        thing = getattr(package, name)
        if not isinstance(thing, (tuple, str)):
            assert inspect.getdoc(thing), name
            if inspect.isfunction(thing):
                assert len(inspect.getdoc(thing)) > 60, name
