"""``vmap`` over kernels, against the same convolutions of each member by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.models import _convolution, _member_convolution
from tests.models.test_convolution import OTHERS, with_options

MEMBERS = 3
USUAL = ((2, 6, 6, 3), (3, 3, 3, 4), {"padding": "SAME"})


def draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def value_and_gradients(convolve, x, kernel):
    return jax.value_and_grad(lambda *o: jnp.sin(convolve(*o)).sum(), (0, 1))(x, kernel)


@functools.cache
def programs(case, module):
    """Jitted: the members together, by which operand they have; and one by itself."""
    x_shape, _, options = (USUAL, *OTHERS)[case]
    x = jax.ShapeDtypeStruct(x_shape, jnp.float32)
    ours = with_options(module.conv_general_dilated, x, options)
    theirs = with_options(lax.conv_general_dilated, x, options)
    both = functools.partial(value_and_gradients, ours)
    axes = {"both": (0, 0), "kernel": (None, 0), "x": (0, None)}
    mapped = {name: jax.jit(jax.vmap(both, in_axes=place)) for name, place in axes.items()}
    return mapped, axes, jax.jit(functools.partial(value_and_gradients, theirs))


@pytest.mark.parametrize("module", [_member_convolution, _convolution], ids=["lax", "im2col"])
@pytest.mark.parametrize("case", range(1 + len(OTHERS)))
def test_members_together_are_members_by_themselves(case, module):
    x_shape, kernel_shape, _ = (USUAL, *OTHERS)[case]
    mapped, axes, single = programs(case, module)
    xs, kernels = draw((MEMBERS, *x_shape), 0), draw((MEMBERS, *kernel_shape), 1)
    for name, place in axes.items():
        given = [a if axis == 0 else a[0] for a, axis in zip((xs, kernels), place, strict=True)]
        found = mapped[name](*given)
        for n in range(MEMBERS):
            own = [a[n] if axis == 0 else a for a, axis in zip(given, place, strict=True)]
            for got, want in zip(
                jax.tree.leaves(found), jax.tree.leaves(single(*own)), strict=True
            ):
                np.testing.assert_allclose(got[n], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_no_convolution_is_in_groups_and_shared_images_are_read_once(platform):
    x, kernels = draw(USUAL[0], 0), draw((MEMBERS, *USUAL[1]), 1)
    convolve = with_options(_member_convolution.conv_general_dilated, x, USUAL[2])

    def text(function, axes):
        traced = jax.jit(jax.vmap(function, in_axes=axes)).trace(x, kernels)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    of_kernel = jax.grad(lambda x, kernel: (convolve(x, kernel) ** 2).sum(), 1)
    for function, axes, count in ((convolve, (None, 0), 1), (of_kernel, (None, 0), 2)):
        program = text(function, axes)
        assert program.count("stablehlo.convolution") == count
        assert "feature_group_count = 1 " in program
        assert not any(f"group_count = {n} " in program for n in range(2, 20))


def test_nested_in_vmap_scan_grad_and_checkpoint():
    x = draw((2, 5, 5, 2), 0)
    kernels = draw((2, 3, 3, 3, 2, 2), 1)

    def run(module, kernel):
        convolve = with_options(module.conv_general_dilated, x, {"padding": "SAME"})

        def loss(kernel):
            layer = jax.checkpoint(lambda h, _: (jnp.tanh(convolve(h, kernel)), None))
            return (lax.scan(layer, x, None, length=2)[0] ** 2).sum()

        # A gradient of a gradient.
        return jax.grad(lambda kernel: (jax.grad(loss)(kernel) ** 2).sum())(kernel)

    got = jax.jit(jax.vmap(jax.vmap(functools.partial(run, _member_convolution))))(kernels)
    single = jax.jit(functools.partial(run, lax))
    for at in np.ndindex(2, 3):
        np.testing.assert_allclose(got[at], single(kernels[at]), rtol=1e-3, atol=1e-3)


def test_members_on_devices_of_their_own():
    """Inside ``shard_map``, as in the loop of a population, each device computes its members."""
    mesh = jax.make_mesh((2,), ("members",), axis_types=(jax.sharding.AxisType.Auto,))
    x, kernels = draw(USUAL[0], 0), draw((4, *USUAL[1]), 1)
    there = jax.sharding.PartitionSpec("members")

    def run(module, kernels, check):
        convolve = with_options(module.conv_general_dilated, x, USUAL[2])
        both = jax.vmap(functools.partial(value_and_gradients, convolve), in_axes=(None, 0))
        mapped = jax.shard_map(
            lambda kernels: both(x, kernels), mesh=mesh, in_specs=there, out_specs=there,
            check_vma=check,
        )  # fmt: skip
        return jax.jit(mapped)(kernels)

    for check in (False, True):
        found, wanted = run(_member_convolution, kernels, check), run(lax, kernels, check)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), found, wanted)
