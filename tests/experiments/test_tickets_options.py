"""What options of continuous sparsification do to a population, on images like MNIST's."""

import json

import numpy as np
import pytest

from experiments.data import Dataset, Split
from experiments.tickets import options
from experiments.tickets.config import Config
from experiments.tickets.train import Population

RNG = np.random.default_rng(0)


def split(count):
    """Images whose class is where they are bright."""
    labels = RNG.integers(0, 3, count).astype(np.int32)
    images = RNG.integers(0, 100, (count, 28, 28, 1))
    for place, label in enumerate(labels):
        images[place, 8 * label : 8 * label + 8] += 100
    return Split(images.astype(np.uint8), labels)


DATASET = Dataset("mnist", split(128), split(64), split(64))
STARTS = (-0.002, 0.01)


def settings(**flags):
    config = Config(
        preset="smoke", seeds=(0,), initial=STARTS, batch_size=16, penalty=(1e-6,), **flags
    )
    return config.settings("cs")


@pytest.fixture(scope="module")
def populations(tmp_path_factory):
    """Each with its rows."""
    found = {}
    for name, flags in (
        ("outside", {}),
        ("folded", {"ticket_scale": "folded"}),
        ("published", {"published": True}),
    ):
        population = Population(
            tmp_path_factory.mktemp(name), DATASET, settings(**flags), devices=1
        )
        found[name] = population, population.ensure()
    return found


def test_the_scale_changes_the_training_of_a_ticket_and_not_the_search(populations):
    (outside, one), (folded, other) = populations["outside"], populations["folded"]
    assert [row["nonzeros"] for row in one] == [row["nonzeros"] for row in other]
    assert [row["validation_error"] for row in one] != [row["validation_error"] for row in other]
    for number in (1, 2):
        np.testing.assert_allclose(outside.scales(number), 1 + np.exp(-np.array(STARTS)), rtol=1e-6)
        np.testing.assert_array_equal(folded.scales(number), [1, 1])
        assert outside.masks(number).keys() == {"mask_0", "mask_1", "mask_2"}
        for name, mask in outside.masks(number).items():
            np.testing.assert_array_equal(mask, folded.masks(number)[name])
    path = folded.folder / "masks_1.npz"  # as files were that do not say
    np.savez_compressed(path, **folded.masks(1))
    np.testing.assert_array_equal(folded.scales(1), [1, 1])


def test_the_published_way_searches_otherwise(populations):
    (_, one), (population, other) = populations["outside"], populations["published"]
    assert np.isfinite([row["test_error"] for row in other]).all()
    assert [row["nonzeros"] for row in one] != [row["nonzeros"] for row in other]
    np.testing.assert_allclose(population.scales(2), 1 + np.exp(-np.array(STARTS)), rtol=1e-6)


def test_a_folder_that_does_not_say_goes_on_as_folded(populations):
    population, rows = populations["folded"]
    config = json.loads((population.folder / "round_0" / "config.json").read_text())
    assert not options.FORMER.keys() & config.keys()
    file = population.folder / "result.json"
    held = json.loads(file.read_text())
    held["settings"] = options.identity(held["settings"])
    file.write_text(json.dumps(held))
    again = Population(population.folder, DATASET, settings(ticket_scale="folded"), True, devices=1)
    assert again.ensure() == again.ended() == rows
    other = Population(population.folder, DATASET, settings(), True, devices=1)
    with pytest.raises(ValueError, match="ticket_scale: None there, 'outside' here"):
        other.ended()
    with pytest.raises(ValueError, match="belongs to another configuration"):
        other.ensure()
