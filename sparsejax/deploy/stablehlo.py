"""A network as StableHLO: one file that runs without its Python code, for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import export

from sparsejax._where import PyTree

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(
    function: Callable[..., PyTree],
    params: PyTree,
    *inputs: PyTree,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Serialise ``function(params, *inputs)`` with its parameters in it, by ``jax.export``.

    The first dimension of every input is the batch and stays open. As behind `shrink`::

        small = shrink(function, params, images)
        data = export_stablehlo(small.function, small.params, images)
        pathlib.Path("network.stablehlo").write_bytes(data)

    JAX reads such data for six months after the version that wrote it, at least.

    Args:
      function: pure, and its shapes must not depend on the batch's being a number (``x.shape[0]``
        where others write ``len(x)``).
      params: pytree of arrays; they become constants.
      *inputs: examples, arrays or ``jax.ShapeDtypeStruct``; shapes and dtypes count alone.
      platforms: for which it is lowered.

    Returns:
      Bytes for `load_stablehlo` (or ``jax.export.deserialize``).

    Raises:
      ImportError: the package ``flatbuffers`` is missing (``pip install 'sparsejax[deploy]'``).
      ValueError: ``platforms`` is empty; an input has no first dimension.
    """
    if not platforms:
        raise ValueError(f"platforms must name at least one, such as {PLATFORMS}; got none")
    (batch,) = export.symbolic_shape("batch")

    def abstract(example: Any) -> jax.ShapeDtypeStruct:
        if not example.shape:
            raise ValueError("inputs must have a first dimension, the batch; one is a scalar")
        return jax.ShapeDtypeStruct((batch, *example.shape[1:]), example.dtype)

    closed = jax.jit(lambda *inputs: function(params, *inputs))
    exported = export.export(closed, platforms=tuple(platforms))(*jax.tree.map(abstract, inputs))
    return bytes(exported.serialize())


def load_stablehlo(data: bytes) -> Callable[..., PyTree]:
    """The function that `export_stablehlo` has serialised, jitted.

    Args:
      data: from `export_stablehlo`.

    Returns:
      ``function(*inputs)``, for any batch size, on the platforms it was lowered for.

    Raises:
      ValueError: ``data`` are none.
    """
    try:
        exported = export.deserialize(bytearray(data))
    except ImportError:
        raise
    except Exception as error:  # flatbuffers raises what its parser stumbles over
        raise ValueError(
            f"data must be from export_stablehlo; it cannot be read: {error}"
        ) from error
    return jax.jit(exported.call)
