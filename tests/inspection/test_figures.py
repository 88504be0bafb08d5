import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from sparsejax.inspection import figures
from sparsejax.models import LENET300_LAYERS, LeNet300
from sparsejax.projections import project_l0_ball


@pytest.fixture(scope="module")
def networks():
    params = nnx.split(LeNet300(rngs=nnx.Rngs(0)), nnx.Param, ...)[1]
    return {"dense": params, "sparse": jax.jit(project_l0_ball)(params, 2000)}


def ink(path):
    """Fraction of pixels that are not the background."""
    picture = np.asarray(Image.open(path).convert("L"))
    return (picture < 250).mean()


def test_every_figure_is_drawn(networks, tmp_path):
    curves = {"l0": [[{"error": 9.0 / n, "distance": 3.0 / n} for n in range(1, 6)]] * 2}
    for path in (
        figures.plot_pixel_maps(tmp_path / "pixels.png", networks, LENET300_LAYERS, (28, 28)),
        figures.plot_connectivity(tmp_path / "connectivity.png", networks, LENET300_LAYERS),
        figures.plot_learning_compression(tmp_path / "curves.png", curves),
    ):
        assert path.exists()
        assert ink(path) > 0.01


def test_the_same_input_gives_the_same_file(networks, tmp_path):
    draw = lambda name: figures.plot_connectivity(tmp_path / name, networks, LENET300_LAYERS)  # noqa: E731
    assert draw("a.png").read_bytes() == draw("b.png").read_bytes()
