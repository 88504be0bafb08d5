"""Files of the repository outside of docs/ become pages, and links to them lead to these pages.

A page of docs/ links to files as the repository has them (``../../results/deploy/report.md``), so
that it can be read there, too. Here the reports of results/ and the documents beside the README
are copied to where the site has them, and every such link is turned into a link to the copy.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
DOCUMENTS = ("BUILD_NOTES.md", "CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r'(\]\(|src=")([^)"#:\s]+)(?=[)"#])')
PYTHON = re.compile(r"```python\n.*?```", re.DOTALL)


def copies() -> Iterator[tuple[str, str]]:
    """Each file that is copied, and its place below docs/."""
    for name in DOCUMENTS:
        yield name, f"project/{name}"
    for path in sorted((ROOT / "results").rglob("*")):
        if path.suffix in (".md", ".png", ".json"):
            name = path.relative_to(ROOT).as_posix()
            yield name, name


COPIES = dict(copies())
PLACES = COPIES | {"README.md": "index.md"}
"""Where the site has each file of the repository outside of docs/."""


def copy_files(app: Any) -> None:
    """Copy what has changed, and remove copies of what is gone."""
    for folder in ("project", "results"):
        for path in (DOCS / folder).rglob("*"):
            if path.is_file() and path.relative_to(DOCS).as_posix() not in COPIES.values():
                path.unlink()
    for source, target in COPIES.items():
        (DOCS / target).parent.mkdir(parents=True, exist_ok=True)
        content = (ROOT / source).read_bytes()
        if not (DOCS / target).exists() or (DOCS / target).read_bytes() != content:
            (DOCS / target).write_bytes(content)


def source_of(docname: str) -> str:
    """The file of the repository that a page is, or is a copy of."""
    name = f"{docname}.md"
    return next((file for file, place in COPIES.items() if place == name), f"docs/{name}")


def link_to_pages(app: Any, docname: str, source: list[str]) -> None:
    """Turn a page's links to files of the repository into links to pages and pictures."""
    folder = posixpath.dirname(source_of(docname))

    def replaced(match: re.Match[str]) -> str:
        file = posixpath.normpath(posixpath.join(folder, match[2]))
        place = PLACES.get(file) or file.removeprefix("docs/")
        known = file in PLACES or file.startswith("docs/")
        return f"{match[1]}/{place}" if known else match[0]

    code = PYTHON.findall(source[0])
    prose = [LINK.sub(replaced, part) for part in PYTHON.split(source[0])]
    source[0] = "".join(part + block for part, block in zip(prose, [*code, ""], strict=True))


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("builder-inited", copy_files)
    app.connect("source-read", link_to_pages)
    return {"parallel_read_safe": True}
