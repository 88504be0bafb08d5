"""The README and the pages of docs/: their figures, examples and links."""

import os
import pathlib
import re
import tomllib

import numpy as np
import pytest

import sparsejax
from experiments.common.readme import documents, filled

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in documents(ROOT)}
README = PAGES["README.md"]
EXAMPLES = {  # an example that stands on two pages is one, and runs once
    example: pytest.param(example, id=f"{name}-{number}")
    for name, text in reversed(PAGES.items())
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}
LINKS = [
    (name, link)
    for name, text in PAGES.items()
    for link in re.findall(r'(?:\]\(|src=")([^)#:"]+)[)"]', text)
]


@pytest.mark.parametrize("name", PAGES)
def test_figures_are_those_of_the_results(name):
    assert filled(PAGES[name], ROOT / "results") == PAGES[name]


@pytest.mark.parametrize("example", EXAMPLES.values())
def test_examples_run_each_by_itself(example, tmp_path, monkeypatch):
    if "import keras" in example:  # only where `make test` installed it
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        pytest.importorskip("keras")
    monkeypatch.chdir(tmp_path)  # one of them writes a file
    names = {}
    exec(example, names)
    if "sparse" in names:
        assert int((names["sparse"]["kernel"] != 0).sum()) <= 500
    if "pruning" in names:
        gone = ~np.asarray(names["pruning"].mask["kernel"])
        assert gone.any()
        assert not np.asarray(names["sparse"]["kernel"])[gone].any()
    if "smaller" in names:  # at most 30 % of the inputs were expected to stay
        assert names["smaller"].params["kernel"].shape[0] <= 0.35 * 784
    if example in README:  # the five inputs that count
        sparse = names["sparsejax"].compressed_params(names["opt_state"], names["params"])
        assert np.flatnonzero(sparse["kernel"]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("name", "link"), LINKS)
def test_links_lead_somewhere(name, link):
    assert (ROOT / os.path.dirname(name) / link).exists()


def test_the_readme_is_short():
    """The first page of the library: 120 lines and 900 words, generated tables included."""
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 900


def test_the_citation_and_the_package_name_the_version():
    assert f"\nversion: {sparsejax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == sparsejax.__version__
