import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.augment import shifted_and_mirrored

IMAGES = np.random.default_rng(0).integers(1, 255, (400, 6, 5, 2)).astype(np.uint8)


def moved(image, down, right):
    """In NumPy: what was at (r, c) is at (r + down, c + right)."""
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    return padded[2 - down : 8 - down, 2 - right : 7 - right]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_every_image_is_one_of_the_possible_ones_and_all_of_them_come(shift, mirror):
    got = jax.jit(shifted_and_mirrored, static_argnums=(2, 3))(
        jnp.asarray(IMAGES), jax.random.key(0), shift, mirror
    )
    assert got.dtype == jnp.uint8
    seen = set()
    for image, ours in zip(IMAGES, np.asarray(got), strict=True):
        found = [
            (down, right, flip)
            for down in range(-shift, shift + 1)
            for right in range(-shift, shift + 1)
            for flip in ((False, True) if mirror else (False,))
            if (moved(image, down, right)[:, :: -1 if flip else 1] == ours).all()
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == (2 * shift + 1) ** 2 * (1 + mirror)


def test_a_negative_shift_is_named():
    with pytest.raises(ValueError, match="shift must be an integer >= 0; got -1"):
        shifted_and_mirrored(jnp.asarray(IMAGES), jax.random.key(0), -1)
