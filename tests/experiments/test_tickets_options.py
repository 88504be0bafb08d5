"""What options of continuous sparsification do to a population, on images like MNIST's."""

import numpy as np
import pytest

from experiments.data import Dataset, Split
from experiments.tickets.config import Config
from experiments.tickets.recipe import Population
from sparsejax.deploy import load_sparse

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
        ("outside", {"ticket_scale": "outside"}),
        ("folded", {}),
        ("published", {"variant": "published"}),
    ):
        population = Population(
            tmp_path_factory.mktemp(name), DATASET, settings(**flags), devices=1
        )
        population.ensure()
        found[name] = population, population.result()["rows"]
    return found


def scales(population, number):
    return load_sparse(population.folder / f"round_{number}" / "masks.safetensors")["scale"]


def test_the_scale_changes_the_training_of_a_ticket_and_not_the_search(populations):
    (outside, one), (folded, other) = populations["outside"], populations["folded"]
    assert [row["nonzeros"] for row in one] == [row["nonzeros"] for row in other]
    assert [row["validation_error"] for row in one] != [row["validation_error"] for row in other]
    for number in (1, 2):
        expected = 1 + np.exp(-np.array(STARTS))
        np.testing.assert_allclose(scales(outside, number), expected, rtol=1e-6)
        np.testing.assert_array_equal(scales(folded, number), [1, 1])
        masks = outside.masks(number)
        assert len(masks) == 3
        for mask, same in zip(masks, folded.masks(number), strict=True):
            np.testing.assert_array_equal(mask, same)


def test_the_published_way_searches_otherwise(populations):
    (_, one), (population, other) = populations["outside"], populations["published"]
    assert np.isfinite([row["test_error"] for row in other]).all()
    assert [row["nonzeros"] for row in one] != [row["nonzeros"] for row in other]
    np.testing.assert_allclose(scales(population, 2), 1 + np.exp(-np.array(STARTS)), rtol=1e-6)


def test_a_folder_belongs_to_its_options(populations):
    population, _ = populations["folded"]
    outside = settings(ticket_scale="outside")
    other = Population(population.folder, DATASET, outside, True, devices=1)
    with pytest.raises(ValueError, match="ticket_scale: 'folded' there, 'outside' here"):
        other.reportable()
    with pytest.raises(ValueError, match="belongs to another configuration"):
        other.ensure()
