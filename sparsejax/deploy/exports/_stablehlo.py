"""Export to StableHLO: one file that runs without the Python code, for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax import export

from sparsejax._where import PyTree
from sparsejax.deploy._decode_network import decode_network
from sparsejax.deploy._network import Network, check_network
from sparsejax.graph import batched_inputs, with_batch

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(
    network: Network,
    *inputs: PyTree,
    platforms: Sequence[str] = PLATFORMS,
    batched: PyTree = None,
) -> bytes:
    """Serialize a network and its parameters as StableHLO, by ``jax.export``.

    The first dimension of the inputs is the batch and stays symbolic; an input without a batch
    keeps its shape. For a shrunk network::

        small = shrink(network, images)
        pathlib.Path("network.stablehlo").write_bytes(export_stablehlo(small, images))

    JAX reads such a file for at least six months after the version that wrote it.

    Args:
      network: a network, possibly from `shrink` or `compile_sparse`. Its function must be traceable
        with a symbolic batch size (``x.shape[0]`` instead of ``len(x)``). Its parameters become
        constants.
      *inputs: examples, arrays or ``jax.ShapeDtypeStruct``; only shapes and dtypes are used.
      platforms: the platforms for which the network is lowered.
      batched: which inputs have a batch as their first dimension, as for `export_onnx`. By default,
        it is inferred where that is certain.

    Returns:
      The bytes of the file, for `load_stablehlo` (or ``jax.export.deserialize``).

    Raises:
      ImportError: the package ``flatbuffers`` is missing (``pip install 'sparsejax[deploy]'``).
      TypeError: ``network`` is not a `Network`.
      ValueError: ``platforms`` is empty; no input has a first dimension; it is not clear which
        inputs have a batch.
    """
    check_network(network, "export_stablehlo", needs_params=False)
    network = decode_network(network, *inputs)
    if not platforms:
        raise ValueError(f"platforms must name at least one, such as {PLATFORMS}; got none")
    (batch,) = export.symbolic_shape("batch")
    chosen = batched_inputs(network.function, network.params, inputs, batched)
    lowered = export.export(jax.jit(network), platforms=tuple(platforms))
    exported = lowered(*with_batch(inputs, chosen, batch))
    return bytes(exported.serialize())


def load_stablehlo(data: bytes) -> Callable[..., PyTree]:
    """Return the function that `export_stablehlo` serialized, jitted.

    Args:
      data: the bytes that `export_stablehlo` returned.

    Returns:
      ``function(*inputs)`` for any batch size, on the platforms for which it was lowered.

    Raises:
      ImportError: the package ``flatbuffers`` is missing (``pip install 'sparsejax[deploy]'``).
      ValueError: ``data`` are not from `export_stablehlo`.
    """
    try:
        exported = export.deserialize(bytearray(data))
    except ImportError:
        raise
    except Exception as error:  # flatbuffers raises many types
        raise ValueError(
            f"data must be from export_stablehlo; it cannot be read: {error}"
        ) from error
    return jax.jit(exported.call)
