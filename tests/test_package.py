import ast
import importlib
import inspect
import pathlib
import subprocess
import sys
import typing

import pytest

import sparsejax
from sparsejax import training

ROOMS = [
    "projections", "compression", "transforms", "gates", "constraints", "tickets", "inspection",
    "oneshot", "deploy", "training", "models",
]  # fmt: skip
OPTIONAL = [
    "flax", "orbax", "tensorflow_datasets", "matplotlib", "tqdm", "tyro", "tensorboardX",
    "safetensors", "onnx", "gguf", "tokenizers",
]  # fmt: skip


def test_the_bare_library_imports_none_of_the_extras():
    code = (
        "import sys, sparsejax, sparsejax.training; "
        f"print([m for m in {OPTIONAL} if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "[]", process.stderr


def test_what_needs_an_extra_says_so(tmp_path, monkeypatch):
    for module in ("orbax.checkpoint", "tensorboardX", "tqdm"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"orbax-checkpoint: pip install .sparsejax\[experiments"):
        training.Checkpoints(tmp_path)
    with pytest.raises(ImportError, match="MetricLog needs the package tensorboardX: pip install"):
        training.MetricLog(tmp_path)
    with pytest.raises(ImportError, match="ProgressBar needs the package tqdm: pip install"):
        training.ProgressBar(3)


ALLOWED = {
    "projections": set(),
    "graph": set(),
    "compression": {"projections"},
    "transforms": {"compression", "projections"},
    "gates": set(),
    "constraints": set(),
    "tickets": {"gates", "projections"},
    "oneshot": {"graph", "projections"},
    "inspection": {"graph"},
    "deploy": {"graph"},
    "training": {"flax"},
    "models": {"flax", "deploy", "inspection"},
}
ROOT = pathlib.Path(sparsejax.__file__).parents[1]


def imported(source):
    """The modules that a file imports, with dots: of ``from a import b`` both a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(source):
    """Our rooms and the packages that a file imports."""
    for name in imported(source):
        parts = name.split(".")
        yield parts[1] if parts[0] == "sparsejax" and len(parts) > 1 else parts[0]


@pytest.mark.parametrize("room", [*ALLOWED])
def test_methods_never_import_flax_and_arrows_point_one_way(room):
    """Each room imports only the rooms above it (see the design)."""
    forbidden = (ALLOWED.keys() | {"flax"}) - ALLOWED[room] - {room}
    files = list((ROOT / "sparsejax" / room).rglob("*.py"))
    assert len(files) > 1
    for file in files:
        assert not forbidden & set(rooms_of(file.read_text())), file


def private_imports(folder, source):
    """The imports of a private file of a room that is not ``folder`` nor one that holds it.

    The private files beside ``sparsejax/__init__.py`` are for all of the library's rooms.
    """
    for name in imported(source):
        parts = name.split(".")
        if parts[0] != "sparsejax":
            continue
        private = next((i for i, part in enumerate(parts) if part.startswith("_")), None)
        if private is not None and tuple(parts[:private]) != folder[:private]:
            yield name


def test_private_files_are_imported_by_their_own_room_alone():
    sources = [
        file
        for top in ("sparsejax", "experiments", "benchmarks")
        for file in (ROOT / top).rglob("*.py")
    ]
    assert len(sources) > 100
    for file in sources:
        folder = file.relative_to(ROOT).parent.parts
        assert not list(private_imports(folder, file.read_text())), file


def test_the_rule_of_private_files_finds_what_it_forbids():
    source = "from sparsejax.graph import _trace\nimport sparsejax._where"
    assert list(private_imports(("sparsejax", "graph", "rules"), source)) == []
    assert list(private_imports(("sparsejax", "deploy"), source)) == ["sparsejax.graph._trace"]
    assert list(private_imports(("experiments",), source)) == [
        "sparsejax.graph._trace", "sparsejax._where"
    ]  # fmt: skip


def test_no_file_has_the_name_of_a_function_that_its_room_exports():
    for room in ROOMS:
        public = importlib.import_module(f"sparsejax.{room}").__all__
        names = {p.stem if p.is_file() else p.name for p in (ROOT / "sparsejax" / room).iterdir()}
        assert not names & set(public), room


@pytest.mark.parametrize("room", [None, *ROOMS])
def test_every_public_name_is_documented(room):
    package = sparsejax if room is None else importlib.import_module(f"sparsejax.{room}")
    for name in package.__all__:
        thing = getattr(package, name)
        is_alias = typing.get_origin(thing) is not None
        if not is_alias and not isinstance(thing, (tuple, str)):
            assert inspect.getdoc(thing), name
            if inspect.isfunction(thing):
                assert len(inspect.getdoc(thing)) > 60, name
