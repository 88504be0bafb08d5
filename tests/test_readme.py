import pathlib
import re

import numpy as np
import pytest

from experiments.common.readme import filled

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_figures_are_those_of_the_results():
    assert filled(README, ROOT / "results") == README


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_its_examples_run_each_by_itself(example, tmp_path, monkeypatch):
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


@pytest.mark.parametrize("link", re.findall(r'(?:\]\(|src=")([^)#:"]+)[)"]', README))
def test_its_links_lead_somewhere(link):
    assert (ROOT / link).exists()
