"""A network as StableHLO: one file that runs without its Python code, for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax import export

from sparsejax._where import PyTree
from sparsejax.graph import batched_inputs, with_batch

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(
    function: Callable[..., PyTree],
    params: PyTree,
    *inputs: PyTree,
    platforms: Sequence[str] = PLATFORMS,
    batched: PyTree = None,
) -> bytes:
    """Serialise ``function(params, *inputs)`` with its parameters in it, by ``jax.export``.

    The first dimension of the inputs is the batch and stays open; an input without a batch keeps
    its shape. As behind `shrink`::

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
      batched: as for `export_onnx`: a bool for each input, which says whether its first dimension
        is the batch. Default: what can be said for certain.

    Returns:
      Bytes for `load_stablehlo` (or ``jax.export.deserialize``).

    Raises:
      ImportError: the package ``flatbuffers`` is missing (``pip install 'sparsejax[deploy]'``).
      ValueError: ``platforms`` is empty; no input has a first dimension; it is not clear which have
        a batch.
    """
    if not platforms:
        raise ValueError(f"platforms must name at least one, such as {PLATFORMS}; got none")
    (batch,) = export.symbolic_shape("batch")
    chosen = batched_inputs(function, params, inputs, batched)
    closed = jax.jit(lambda *inputs: function(params, *inputs))
    exported = export.export(closed, platforms=tuple(platforms))(*with_batch(inputs, chosen, batch))
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
