"""The forms in which a finished network can be deployed, each a function and perhaps a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from experiments.common import networks
from experiments.common.saved_runs import Finished
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
    """The kind of product of each layer of the sparse form."""


def forms(
    finished: Finished, batch: int, folder: Path, kinds: Sequence[str] | None = None
) -> tuple[dict[str, Form], list[str]]:
    """All forms for a batch size, and what is missing and why.

    Args:
      finished: what is deployed.
      batch: the batch size that `sparsejax.deploy.compile_sparse` chooses for.
      folder: where files are written.
      kinds: the kinds that it tries.
    """
    images = finished.prepare(finished.dataset.test.images[:batch])
    example = jax.ShapeDtypeStruct(images.shape, images.dtype)
    small = deploy.shrink(finished.network, example, keep_unsupported=True)
    fast = deploy.compile_sparse(finished.network, example, kinds=kinds)
    exported = deploy.export_stablehlo(small, example)
    file = folder / "shrunk.stablehlo"
    file.write_bytes(exported)
    found = {
        DENSE: _jax(jax.jit(finished.network)),
        "shrunk": _jax(jax.jit(small)),
        "sparse": _jax(fast)._replace(kinds=dict(fast.kinds)),
        "StableHLO, shrunk": _jax(deploy.load_stablehlo(exported))._replace(file=file),
    }
    missing = []
    for name, package, make in (("ONNX", "onnxruntime", _onnx), ("PyTorch", "torch", _torch)):
        if importlib.util.find_spec(package) is None:
            missing.append(f"{name}: the package {package} is not installed")
        else:
            found |= make(finished, small, example, folder)
    return found, missing


def files(finished: Finished, folder: Path) -> dict[str, tuple[Path, Any]]:
    """The weights as files, and the parameters that are read back from each."""
    params = finished.network.params
    path = folder / "dense.safetensors"
    state = deploy.torch_state(params, finished.flattened, kinds="conv")
    safetensors.numpy.save_file(state, path)
    found = {"dense, PyTorch's names": (path, params)}
    for dtype in (None, "float16", "bfloat16"):
        path = folder / f"sparse{f'_{dtype}' if dtype else ''}.safetensors"
        deploy.save_sparse(path, params, dtype)
        loaded = jax.tree.map(jnp.asarray, deploy.load_sparse(path, like=params))
        found[f"sparse, {dtype or 'exact float32'}"] = path, loaded
    return found


def _jax(function: Callable[..., Any]) -> Form:
    return Form(lambda x: jax.block_until_ready(function(x)), jax.device_put)


def _onnx(finished: Finished, small: deploy.Network, example: Any, folder: Path) -> dict[str, Form]:
    import onnxruntime

    def form(name: str, network: deploy.Network) -> Form:
        path = folder / f"{name}.onnx"
        path.write_bytes(deploy.export_onnx(network, example))
        options = onnxruntime.SessionOptions()
        # Its threads would wait for the next call at full speed, while others are timed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return Form(lambda x: session.run(None, {given.name: x})[0], np.ascontiguousarray, path)

    return {
        "onnxruntime, dense": form("dense", finished.network),
        "onnxruntime, shrunk": form("shrunk", small),
    }


def _torch(finished: Finished, small: Any, example: Any, folder: Path) -> dict[str, Form]:
    """PyTorch's own layers with our weights: the dense LeNets."""
    del small, example, folder
    import torch
    from torch import nn

    model_name = finished.result["model"]
    if model_name not in networks.MNIST_MODELS:
        return {}
    arrays = deploy.torch_state(finished.network.params, finished.flattened, "conv")
    state = {name: torch.tensor(array) for name, array in arrays.items()}

    def layer(name: str) -> Any:
        out, inputs, *sides = state[f"{name}.weight"].shape
        made = nn.Conv2d(inputs, out, sides) if sides else nn.Linear(inputs, out)
        made.load_state_dict({part: state[f"{name}.{part}"] for part in ("weight", "bias")})
        return made

    if model_name == "lenet5":
        model = nn.Sequential(
            layer("conv1"), nn.MaxPool2d(2), nn.ReLU(), layer("conv2"), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), layer("dense1"), nn.ReLU(), layer("dense2"),
        )  # fmt: skip
    else:
        phi = nn.Tanh if finished.result["network"].get("activation") == "tanh" else nn.ReLU
        model = nn.Sequential(
            nn.Flatten(), layer("dense1"), phi(), layer("dense2"), phi(), layer("dense3")
        )
    model.eval()

    def run(x: Any) -> Any:
        with torch.inference_mode():
            return model(x)

    return {"PyTorch, dense": Form(run, lambda x: torch.tensor(x.reshape(len(x), 1, 28, 28)))}
