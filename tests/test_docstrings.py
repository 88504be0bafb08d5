"""The docstring of every public name has the sections that its signature and its body ask for."""

import ast
import doctest
import importlib
import inspect
import itertools
import re
import textwrap
import typing
from typing import NamedTuple

import pytest

import sparsejax

ROOMS = [
    "sparsejax",
    "compression",
    "constraints",
    "deploy",
    "gates",
    "graph",
    "inspection",
    "models",
    "oneshot",
    "projections",
    "tickets",
    "training",
    "transforms",
]
"""All rooms."""

EXAMPLES_FOR = {
    "Compression",
    "Gates",
    "Pruner",
    "optax.GradientTransformation",
    "optax.GradientTransformationExtraArgs",
}
"""Functions that return one of these are documented with an example that runs."""

SECTIONS = ("Args", "Attributes", "Example", "Raises", "References", "Returns", "Warns")
NO_SENTENCE = ("Of", "Among", "What", "Whatever", "Which", "How", "Whether", "Runs", "Collects")
NEVER_RAISE = {"known"}
"""Functions of `sparsejax._checks` that raise nothing."""


def sections(doc):
    """The lines of each section, dedented, by its title; those before the first under ``""``."""
    found, title = {"": []}, ""
    for line in inspect.cleandoc(doc).splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            title = line[:-1]
            found[title] = []
        elif title and line and not line.startswith(" "):
            title = ""  # prose after a section
            found[""].append(line)
        else:
            found[title].append(line)
    return {title: textwrap.dedent("\n".join(lines)).strip() for title, lines in found.items()}


def entries(section):
    """The names that a section documents: ``name: what it is``, each with its text."""
    parts = re.split(r"^(\*{0,2}\w+): ", section, flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def first_line_problems(doc):
    first = doc.strip().splitlines()[0] if doc else ""
    if not first.endswith("."):
        yield "its first line is no sentence that ends with a period"
    for word in re.findall(r"(?:^|\. )(\w+)", first):
        if word in NO_SENTENCE:
            yield f"a sentence of its first line begins with {word!r}"


def tree_of(thing):
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))


def raises(function):
    """Whether the body of a function raises, or calls a check of arguments that does."""
    for node in ast.walk(tree_of(function)):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        is_check = re.fullmatch(r"(sparsejax\.)?_checks\.(\w+)", called)
        if isinstance(node, ast.Raise) or (is_check and is_check[2] not in NEVER_RAISE):
            return True
    return False


def function_problems(function):
    doc = inspect.getdoc(function) or ""
    yield from first_line_problems(doc)
    found = sections(doc)
    signature = inspect.signature(function)
    prefix = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    wanted = [prefix.get(p.kind, "") + p.name for p in signature.parameters.values()]
    args = entries(found.get("Args", ""))
    yield from (f"Args has no {name}" for name in wanted if not args.get(name))
    yield from (f"Args has {name}, which is no parameter" for name in args.keys() - set(wanted))
    if signature.return_annotation not in (None, "None") and not found.get("Returns"):
        yield "Returns is missing"
    if raises(function) and not found.get("Raises"):
        yield "Raises is missing"
    if signature.return_annotation in EXAMPLES_FOR and ">>> " not in found.get("Example", ""):
        yield "Example is missing"


def class_problems(cls):
    """A class documents its own fields and public methods: below each, or under Attributes."""
    doc = cls.__doc__ or ""
    yield from first_line_problems(doc)
    found = sections(doc)
    attributes = entries(found.get("Attributes", "") or found.get("Args", ""))
    body = tree_of(cls).body[0].body
    for node, following in itertools.zip_longest(body, body[1:]):
        if isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_"):
            below = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if not below and not attributes.get(node.target.id):
                yield f"{node.target.id} has no docstring"
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            own = ast.get_docstring(node)
            if own is None:
                yield f"{node.name} has no docstring"
            else:
                yield from (f"{node.name}: {problem}" for problem in first_line_problems(own))


def problems(thing):
    return list(class_problems(thing) if inspect.isclass(thing) else function_problems(thing))


def public_things(room):
    """The public functions and classes of a room, without its subrooms, constants and aliases."""
    package = sparsejax if room == "sparsejax" else importlib.import_module(f"sparsejax.{room}")
    for name in package.__all__:
        thing = getattr(package, name)
        if callable(thing) and typing.get_origin(thing) is None:
            yield name, thing


@pytest.mark.parametrize(
    ("room", "name"), [(room, name) for room in ROOMS for name, _ in public_things(room)]
)
def test_the_docstring_of_a_public_name_is_complete(room, name):
    assert problems(dict(public_things(room))[name]) == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_examples_of_a_room_run(room):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for name, thing in public_things(room):
        for example in doctest.DocTestFinder().find(thing, name, globs={}):
            report = []
            runner.run(example, out=report.append, clear_globs=True)
            assert not report, "".join(report)


@pytest.mark.parametrize("room", ROOMS)
def test_the_docstring_of_a_room_is_a_sentence(room):
    package = sparsejax if room == "sparsejax" else importlib.import_module(f"sparsejax.{room}")
    assert list(first_line_problems(package.__doc__)) == []


def complete(tree, *rest: int) -> int:
    """Return a number.

    Args:
      tree: pytree: of arrays.
        And a second line.
      *rest: numbers.

    Returns:
      A number.

    Raises:
      ValueError: always.
    """
    raise ValueError(tree, rest)


def fragment(tree):
    """Of each leaf the size"""
    return sparsejax._checks.known(tree)


def incomplete(tree, other) -> "Pruner":  # noqa: F821
    """Return a pruner.

    Args:
      another: a number.
      tree:
    """

    def update(count):
        return _checks.scalar_count("count", count)  # noqa: F821

    return update


class Fields(NamedTuple):
    """Some fields."""

    first: int
    """The first."""
    second: int

    @property
    def third(self):
        """Whatever it is."""


def test_the_checks_of_docstrings_find_what_is_missing():
    assert problems(complete) == []
    assert problems(fragment) == [
        "its first line is no sentence that ends with a period",
        "a sentence of its first line begins with 'Of'",
        "Args has no tree",
        "Returns is missing",
    ]
    assert problems(incomplete) == [
        "Args has no tree",
        "Args has no other",
        "Args has another, which is no parameter",
        "Returns is missing",
        "Raises is missing",
        "Example is missing",
    ]
    assert problems(Fields) == [
        "second has no docstring",
        "third: a sentence of its first line begins with 'Whatever'",
    ]
