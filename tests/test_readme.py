import pathlib
import re

import pytest

from experiments.common.readme import filled

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_figures_are_those_of_the_results():
    assert filled(README, ROOT / "results") == README


def test_its_examples_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them writes a file
    names = {}  # the second goes on from the first
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    assert "500" in capsys.readouterr().out


@pytest.mark.parametrize("link", re.findall(r'(?:\]\(|src=")([^)#:"]+)[)"]', README))
def test_its_links_lead_somewhere(link):
    assert (ROOT / link).exists()
