"""One page of the reference for each room, with every public name of it."""

import ast
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.roles import XRefRole
from sphinx.util.inspect import stringify_signature
from sphinx.util.typing import stringify_annotation

REFERENCE = Path(__file__).parents[1] / "reference"
ROOMS = (
    "sparsejax",
    "sparsejax.projections",
    "sparsejax.compression",
    "sparsejax.transforms",
    "sparsejax.gates",
    "sparsejax.constraints",
    "sparsejax.tickets",
    "sparsejax.oneshot",
    "sparsejax.graph",
    "sparsejax.deploy",
    "sparsejax.inspection",
    "sparsejax.inspection.figures",
    "sparsejax.training",
    "sparsejax.models",
)


def public_names(room: str) -> list[str]:
    """The names that a room lists, functions first; no other room."""
    module = importlib.import_module(room)
    names = getattr(module, "__all__", None) or [
        name
        for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == room and name[0] != "_"
    ]
    found = {name: getattr(module, name) for name in names}
    kept = [name for name, thing in found.items() if not inspect.ismodule(thing)]
    return sorted(kept, key=lambda name: not inspect.isfunction(found[name]))


PUBLIC = {"sparsejax", *(name for room in ROOMS for name in public_names(room))}


def constant(room: str, name: str) -> Iterator[str]:
    """The entry of a constant or an alias, with the docstring below it in the file that defines it.

    Raises:
      ValueError: if it has none.
    """
    tree = ast.parse(inspect.getsource(importlib.import_module(room)))
    module = next(
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names)
    )
    assert module is not None
    doc = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
    if not doc:
        raise ValueError(f"the public constant {room}.{name} has no docstring below it")
    yield f".. py:data:: {name}\n"
    yield from (f"   {line}" for line in doc)


def entry(room: str, name: str) -> Iterator[str]:
    """The lines that document a name.

    Raises:
      ValueError: if a function or a class has no docstring.
    """
    thing = getattr(importlib.import_module(room), name)
    yield f"{name}\n{'-' * len(name)}\n"
    if not callable(thing) or typing.get_origin(thing) is not None:
        yield from constant(room, name)
        return
    if not inspect.getdoc(thing):
        raise ValueError(f"the public name {room}.{name} has no docstring")
    kind, options = (
        ("autoclass", "   :members:\n") if inspect.isclass(thing) else ("autofunction", "")
    )
    if room != "sparsejax" and name in public_names("sparsejax"):
        options += "   :no-index:\n"  # links lead to the shorter name
    yield f".. {kind}:: {name}\n{options}"


def page(room: str) -> Iterator[str]:
    """The lines of a room's page: its docstring, a table of its names, and each of them."""
    names = public_names(room)
    listed = [name for name in names if callable(getattr(importlib.import_module(room), name))]
    if room != "sparsejax":  # of a name that the package has, too, the entry there is linked
        top = public_names("sparsejax")
        listed = [f"~sparsejax.{name}" if name in top else name for name in listed]
    yield f"{room}\n{'=' * len(room)}\n"
    yield f".. automodule:: {room}\n   :no-members:\n"
    yield f".. currentmodule:: {room}\n"
    yield ".. autosummary::\n   :nosignatures:\n\n" + "".join(f"   {n}\n" for n in listed)
    for name in names:
        yield from entry(room, name)


def write_pages(app: Any) -> None:
    """Write all pages and the index; a page that is as before stays, so that Sphinx skips it."""
    REFERENCE.mkdir(exist_ok=True)
    rooms = "".join(f"   {room}\n" for room in ROOMS)
    pages = {room: "\n".join(page(room)) for room in ROOMS}
    pages["index"] = f"Reference\n=========\n\n.. toctree::\n   :maxdepth: 1\n\n{rooms}"
    for name, text in pages.items():
        path = REFERENCE / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def escape_stars(
    app: Any, what: str, name: str, thing: object, options: Any, lines: list[str]
) -> None:
    """Keep reST from reading the star in a shape, ``[*batch, in]``, as the start of emphasis.

    What the escape adds is taken from the spaces behind the shape, which keeps tables aligned.
    """

    def escaped(found: re.Match[str]) -> str:
        shape = re.sub(r"(?<!\\)\*", r"\*", found[1])
        return shape + found[2][len(shape) - len(found[1]) :]

    for number, line in enumerate(lines):
        lines[number] = re.sub(r"(\[[^\]`]*\])( {2,}|)", escaped, line)


def plain_attribute(
    app: Any, what: str, name: str, thing: object, options: Any, lines: list[str]
) -> None:
    """Undo that napoleon reads ``type:`` out of the first line of a field's docstring."""
    if what not in ("attribute", "property"):
        return
    types = [line for line in lines if line.startswith(":type: ")]
    for line in types:
        lines.remove(line)
        first = next(number for number, text in enumerate(lines) if text.strip())
        lines[first] = f"{line.removeprefix(':type: ')}: {lines[first]}"


def source_signature(
    app: Any, what: str, name: str, thing: Any, options: Any, args: str | None, result: str | None
) -> tuple[str, str] | None:
    """Show a function's annotations as its source has them, without writing aliases out."""
    if what != "function":
        return None
    signature = inspect.signature(thing)
    result = stringify_annotation(signature.return_annotation)
    return stringify_signature(signature, show_return_annotation=False), result


class NameRole(XRefRole):
    """What single backticks in docstrings mean: a public name, or else code."""

    def process_link(
        self, env: Any, refnode: Any, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        """Look a public name up in the page's module first, then anywhere; others are code."""
        refnode["refdomain"], refnode["reftype"] = "py", "obj"
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["refspecific"] = target.split(".")[0] in PUBLIC
        return title, target


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.add_role("any_name", NameRole(innernodeclass=nodes.literal))
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", source_signature)
    app.connect("autodoc-process-docstring", escape_stars)
    app.connect("autodoc-process-docstring", plain_attribute, priority=600)  # after napoleon
    return {"parallel_read_safe": True}
