"""Published ImageNet weights for `VGG16`, from a safetensors file."""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from safetensors import SafetensorError, safe_open

from sparsejax._names import leaves_by_name
from sparsejax.models._vgg16 import VGG16_LAYERS

_FEATURES = tuple(f"features.{n}" for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
_TIMM = (*_FEATURES, "pre_logits.fc1", "pre_logits.fc2", "head.fc")
_TORCHVISION = (*_FEATURES, "classifier.0", "classifier.3", "classifier.6")
_FLOATS = ("F64", "F32", "F16", "BF16")
_CHUNK = 2**20  # entries read at once


def load_vgg16_weights(params: PyTree[Array], path: str | os.PathLike[str]) -> PyTree[Array]:
    """Load the parameters of a `VGG16` from a safetensors file of published weights.

    Two naming schemes are known: that of timm (``vgg16.tv_in1k``: ``features.0.weight`` to
    ``features.28.bias``, ``pre_logits.fc1``, ``pre_logits.fc2``, ``head.fc``) and that of
    torchvision (``classifier.0``, ``classifier.3`` and ``classifier.6`` instead of the last three).
    Kernels [out, in, height, width] or [out, in] of the file become [height, width, in, out] or
    [in, out], and the inputs of the first dense layer are permuted from channels first to channels
    last.

    The file is memory-mapped and read in pieces of about 4 MiB (in float32), so the peak memory is
    little more than that of the new parameters. All names and shapes are checked before reading::

        model = nnx.eval_shape(lambda: VGG16(rngs=nnx.Rngs(0)))  # allocates nothing
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        params = load_vgg16_weights(params, "model.safetensors")

    Args:
      params: parameters of a `VGG16` with the width and classes of the file, as ``nnx.split``
        returns them; only shapes and dtypes are read, so they may be abstract.
      path: path of the file; its tensors may be float64, float32, float16 or bfloat16.

    Returns:
      A tree like ``params`` with its dtypes.

    Raises:
      ValueError: ``params`` are not those of a VGG16; the file is not a safetensors file; or
        tensors are missing, unknown, of the wrong shape, or not floating point (the message names
        all of them).
      FileNotFoundError: the file does not exist.
    """
    leaves = leaves_by_name(params)
    expected = {f"{layer}/{part}" for layer in VGG16_LAYERS for part in ("kernel", "bias")}
    if leaves.keys() != expected:
        raise ValueError(
            "params must be those of a VGG16; these differ from it in "
            f"{', '.join(sorted(leaves.keys() ^ expected))}"
        )
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            names = set(file.keys())
            sources = _sources(leaves, any(name.startswith("classifier.") for name in names))
            _check(file, names, sources, path)
            loaded = {name: _load(file, source) for name, source in sources.items()}
    except SafetensorError as error:
        raise ValueError(f"path must be a safetensors file; {path} is not: {error}") from error
    return jax.tree.unflatten(jax.tree.structure(params), [loaded[name] for name in leaves])


class _Source(NamedTuple):
    """The tensor of the file from which a leaf is read.

    Attributes:
      tensor: name of the tensor.
      shape: shape of the tensor.
      leaf: leaf of the model, for its shape and dtype.
      window: height and width of the window that each output reads.
    """

    tensor: str
    shape: tuple[int, ...]
    leaf: Any
    window: tuple[int, int]


def _sources(leaves: dict[str, Any], torchvision: bool) -> dict[str, _Source]:
    """The source of each leaf, by the name of the leaf in the model."""
    found = {}
    for layer, tensor in zip(VGG16_LAYERS, _TORCHVISION if torchvision else _TIMM, strict=True):
        kernel, bias = leaves[f"{layer}/kernel"], leaves[f"{layer}/bias"]
        window = {"fc6": (7, 7), "fc7": (1, 1), "fc8": (1, 1)}.get(layer, (3, 3))
        outputs = kernel.shape[-1]
        inputs = kernel.size // outputs // (window[0] * window[1])
        # timm stores the two hidden dense layers as convolutions, torchvision all as matrices.
        matrix = layer == "fc8" or (torchvision and layer in ("fc6", "fc7"))
        shape = (outputs, kernel.size // outputs) if matrix else (outputs, inputs, *window)
        found[f"{layer}/kernel"] = _Source(f"{tensor}.weight", shape, kernel, window)
        found[f"{layer}/bias"] = _Source(f"{tensor}.bias", bias.shape, bias, (1, 1))
    return found


def _check(
    file: Any, names: set[str], sources: dict[str, _Source], path: str | os.PathLike[str]
) -> None:
    """Raise ValueError with all tensors that are missing, unknown or of a wrong shape or dtype."""
    wanted = {source.tensor for source in sources.values()}
    wrong = [f"{name} is missing" for name in sorted(wanted - names)]
    wrong += [f"{name} is unknown" for name in sorted(names - wanted)]
    for source in sources.values():
        if source.tensor not in names:
            continue
        header = file.get_slice(source.tensor)
        if tuple(header.get_shape()) != source.shape:
            found, right = header.get_shape(), list(source.shape)
            wrong.append(f"{source.tensor} has shape {found}, not {right}")
        if (dtype := header.get_dtype()) not in _FLOATS:
            wrong.append(f"{source.tensor} is {dtype}, not one of {', '.join(_FLOATS)}")
    if wrong:
        raise ValueError(f"{path} does not hold this VGG16's weights: {'; '.join(wrong)}")


def _load(file: Any, source: _Source) -> jax.Array:
    """Read a leaf; a large one is filled in place, some outputs at a time."""
    tensor = file.get_slice(source.tensor)
    shape, dtype = source.leaf.shape, source.leaf.dtype

    def piece(start: int, stop: int) -> jax.Array:
        rows = np.asarray(tensor[start:stop]).astype(dtype, copy=False)
        if len(source.shape) > 1:
            # [out, in, height, width] -> [height, width, in, out]; then axes are merged
            rows = rows.reshape(len(rows), -1, *source.window).transpose(2, 3, 1, 0)
        return jnp.asarray(rows.reshape(*shape[:-1], -1))

    outputs = shape[-1]
    most = max(1, _CHUNK * outputs // source.leaf.size)
    if outputs <= most:
        return piece(0, outputs)
    leaf = jnp.zeros(shape, dtype)
    for start in range(0, outputs, most):
        # Without waiting, pieces would queue up in memory.
        leaf = _fill(leaf, piece(start, min(start + most, outputs)), start).block_until_ready()
    return leaf


@functools.partial(jax.jit, donate_argnums=0)
def _fill(leaf: jax.Array, part: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(leaf, part, start, axis=-1)
