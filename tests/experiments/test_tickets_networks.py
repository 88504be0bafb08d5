"""The networks for CIFAR-10 inside a population, on a few images of its shape."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.common.networks import trainable
from experiments.data import Dataset, Split
from experiments.tickets.config import Config
from experiments.tickets.recipe import Population
from tests.experiments import smoke

RNG = np.random.default_rng(0)


def split(count):
    """Images whose class is their colour."""
    labels = RNG.integers(0, 3, count).astype(np.int32)
    images = RNG.integers(0, 100, (count, 32, 32, 3))
    images[np.arange(count), :, :, labels] += 100
    return Split(images.astype(np.uint8), labels)


DATASET = Dataset("cifar10", split(64), split(32), split(32))


@pytest.mark.parametrize("model", ["resnet20", "vgg16"])
def test_standardises_augments_and_keeps_statistics(model):
    net = trainable(model, DATASET, width=0.125)
    params, statistics = net.init(0)
    batch = {"image": jnp.asarray(DATASET.train.images), "label": jnp.asarray(DATASET.train.labels)}
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, statistics, opt_state, key):
        descend = jax.value_and_grad(net.loss, has_aux=True)
        (value, (metrics, statistics)), grads = descend(params, statistics, batch, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        state = optax.apply_updates(params, updates), statistics, opt_state
        return state, (value, metrics)

    start = params, statistics, optimizer.init(params)
    (_, after, _), (value, metrics) = step(*start, jax.random.key(0))
    _, (again, _) = step(*start, jax.random.key(0))
    _, (other, _) = step(*start, jax.random.key(1))
    assert float(value) == float(again) != float(other)
    assert 0 <= float(metrics["train_error"]) <= 100
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after, statistics)
    assert min(jax.tree.leaves(moved)) > 0
    wrong = jax.jit(net.mistakes)((params, after), batch["image"], batch["label"])
    assert 0 <= int(wrong) <= 64

    state = start
    for number in range(15):
        state, _ = step(*state, jax.random.key(number))
    assert float(step(*state, jax.random.key(99))[1][0]) < float(value) / 2


@pytest.mark.filterwarnings("ignore:the mask empties:RuntimeWarning")  # after two steps
def test_a_resnet_finds_and_trains_tickets(tmp_path):
    config = Config(
        model="resnet20", preset="smoke", seeds=(0,), initial=(-0.05,), width=0.125,
        batch_size=32, epochs=1, rounds=1, dtype="bfloat16",
    )  # fmt: skip
    settings = config.settings("cs")
    Population(tmp_path, DATASET, settings, devices=1).ensure()
    again = Population(tmp_path, DATASET, settings, resume=True)
    assert again.done()
    (row,) = again.result()["rows"]
    assert row["round"] == 1
    assert np.isfinite(row["test_error"])
    found = smoke.check_readable(tmp_path, DATASET)
    assert set(found.network.params) == {"params", "statistics"}
    assert found.name == "resnet20_cifar10_cs"
    assert Population(tmp_path / "unwritten", DATASET, settings).epoch_seconds() > 0
    assert not (tmp_path / "unwritten").exists()
    with pytest.raises(ValueError, match="--devices must divide 1 members .* got 3"):
        Population(tmp_path / "no", DATASET, settings, devices=3)
