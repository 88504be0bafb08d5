"""The forms in which a network can leave, each as something to call and something to ship."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from experiments.common import runs
from experiments.deploy.finished import Finished
from sparsejax import deploy

DENSE = "dense"
"""The form that all others are compared with: the masked network, jitted, its weights constants."""


class Form(NamedTuple):
    """A way to run the network."""

    run: Callable[[Any], Any]
    """From an input on its device to logits, which are there when it returns."""
    place: Callable[[np.ndarray], Any]
    """Puts images where ``run`` takes them."""
    file: Path | None = None
    """What would be shipped; None where that is the weights' file and code."""
    kinds: dict[str, str] | None = None
    """Of the compiled sparse form: how each layer is computed."""


def forms(
    network: Finished, batch: int, folder: Path, kinds: Sequence[str] | None = None
) -> tuple[dict[str, Form], list[str]]:
    """All forms for a batch size, and what is missing and why.

    Args:
      network: what is deployed.
      batch: the batch size that `sparsejax.deploy.compile_sparse` chooses for.
      folder: where files are written.
      kinds: the ways that it tries.
    """
    function, params = network.function, network.params
    images = network.prepare(network.dataset.test.images[:batch])
    example = jax.ShapeDtypeStruct(images.shape, images.dtype)
    whole = deploy.Network(function, params)
    small = deploy.shrink(whole, example, keep_unsupported=True)
    fast = deploy.compile_sparse(whole, example, kinds=kinds)
    found = {
        DENSE: _jax(jax.jit(whole)),
        "shrunk": _jax(jax.jit(small)),
        "sparse": _jax(fast)._replace(kinds=dict(fast.kinds)),
    }
    exported = deploy.export_stablehlo(small, example)
    file = folder / "shrunk.stablehlo"
    file.write_bytes(exported)
    loaded = deploy.load_stablehlo(exported)
    found["StableHLO, shrunk"] = _jax(loaded)._replace(file=file)
    missing = []
    for name, package, make in (("ONNX", "onnxruntime", _onnx), ("PyTorch", "torch", _torch)):
        if importlib.util.find_spec(package) is None:
            missing.append(f"{name}: the package {package} is not installed")
            continue
        found |= make(network, small, example, folder)
    return found, missing


def files(network: Finished, folder: Path) -> dict[str, tuple[Path, Any]]:
    """The weights as files, and the parameters that are read back from each."""
    params = network.params
    path = folder / "dense.safetensors"
    state = deploy.torch_state(params, network.flattened, kinds="conv")
    safetensors.numpy.save_file(state, path)
    found = {"dense, PyTorch's names": (path, params)}
    for dtype in (None, "float16", "bfloat16"):
        path = folder / f"sparse{f'_{dtype}' if dtype else ''}.safetensors"
        deploy.save_sparse(path, params, dtype)
        read = jax.tree.map(jnp.asarray, deploy.load_sparse(path, like=params))
        found[f"sparse, {dtype or 'exact float32'}"] = path, read
    return found


def error(network: Finished, logits: Callable[[np.ndarray], Any]) -> float:
    """Misclassified test images in per cent."""

    def mistakes(params: None, images: np.ndarray, labels: np.ndarray) -> int:
        del params  # in ``logits``
        found = np.asarray(logits(network.prepare(images)))
        return int((found.argmax(-1) != labels).sum())

    return runs.error(mistakes, None, network.dataset.test)


def _jax(function: Callable[..., Any]) -> Form:
    return Form(lambda x: jax.block_until_ready(function(x)), jax.device_put)


def _onnx(network: Finished, small: deploy.Shrunk, example: Any, folder: Path) -> dict[str, Form]:
    import onnxruntime

    def form(name: str, function: Any, params: Any) -> Form:
        path = folder / f"{name}.onnx"
        path.write_bytes(deploy.export_onnx(deploy.Network(function, params), example))
        options = onnxruntime.SessionOptions()
        # Its threads would wait for the next call at full speed, while others are timed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return Form(lambda x: session.run(None, {given.name: x})[0], np.ascontiguousarray, path)

    return {
        "onnxruntime, dense": form("dense", network.function, network.params),
        "onnxruntime, shrunk": form("shrunk", small.function, small.params),
    }


def _torch(network: Finished, small: deploy.Shrunk, example: Any, folder: Path) -> dict[str, Form]:
    """PyTorch's own layers, on our weights: the dense LeNets."""
    del small, example, folder
    import torch
    from torch import nn

    if network.model not in ("lenet300", "lenet5"):
        return {}
    state = {
        name: torch.tensor(array)
        for name, array in deploy.torch_state(network.params, network.flattened, "conv").items()
    }

    def linear(name: str) -> Any:
        layer = nn.Linear(*reversed(state[f"{name}.weight"].shape))
        layer.load_state_dict({part: state[f"{name}.{part}"] for part in ("weight", "bias")})
        return layer

    def conv(name: str) -> Any:
        out, inputs, *sides = state[f"{name}.weight"].shape
        layer = nn.Conv2d(inputs, out, sides)
        layer.load_state_dict({part: state[f"{name}.{part}"] for part in ("weight", "bias")})
        return layer

    if network.model == "lenet5":
        model = nn.Sequential(
            conv("conv1"), nn.MaxPool2d(2), nn.ReLU(), conv("conv2"), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), linear("dense1"), nn.ReLU(), linear("dense2"),
        )  # fmt: skip
    else:
        phi = nn.Tanh if network.activation == "tanh" else nn.ReLU
        model = nn.Sequential(
            nn.Flatten(), linear("dense1"), phi(), linear("dense2"), phi(), linear("dense3")
        )
    model.eval()

    def run(x: Any) -> Any:
        with torch.inference_mode():
            return model(x)

    def place(images: np.ndarray) -> Any:
        return torch.tensor(images.reshape(len(images), 1, 28, 28))

    return {"PyTorch, dense": Form(run, place)}
