"""The forms in which a finished network can be deployed, each a function and perhaps a file."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from experiments.common import networks
from experiments.data import Dataset, load
from sparsejax import deploy
from sparsejax.compression import decode

DENSE = "dense"
"""The form that all others are compared with: the masked network, jitted, its weights constants."""


class Finished(NamedTuple):
    """A finished network."""

    result: dict[str, Any]
    dataset: Dataset
    network: deploy.Network
    """Logits of images in evaluation mode. The parameters are zero where pruned; statistics of
    batch normalisation are among them."""
    prepare: Callable[[np.ndarray], np.ndarray]
    """From uint8 images to the float32 ones that the function takes."""

    @property
    def name(self) -> str:
        """The name of its row."""
        return str(self.result["name"])

    @property
    def flattened(self) -> dict[str, tuple[int, int]]:
        """The dense layers that read a flattened map, with its sides."""
        return {"dense1": (4, 4)} if self.result["model"] == "lenet5" else {}


def read(folder: Path, data_dir: Path | None, round: int | None, member: int) -> Finished:
    """Read the folder of a run, or of a population of tickets.

    Raises:
      ValueError: it is no finished run, or the population has no such round or member.
    """
    if not (folder / "result.json").exists():
        raise ValueError(f"RUNS must be folders of finished runs; {folder} has no result.json")
    result = json.loads((folder / "result.json").read_text())
    if "rows" in result:  # a population
        number = result["rows"][-1]["round"] if round is None else round
        members = len(result["settings"]["members"])
        if not 0 <= member < members:
            raise ValueError(f"--member must be in 0 to {members - 1} for {folder}; got {member}")
        ticket = folder / f"round_{number}" / f"member_{member}"
        if not ticket.exists():
            raise ValueError(f"--round must be one of {folder}; it has none for {number}")
        return read(ticket, data_dir, None, 0)
    if not {"network", "dataset"} <= result.keys():
        raise ValueError(f"RUNS must be runs of experiments of this project; {folder} is of none")
    model = result["network"]["model"]
    if model not in {**networks.MNIST_MODELS, **networks.CIFAR_MODELS}:
        raise ValueError(f"RUNS must be of networks on small images; {folder} is of {model}")
    dataset = load(result["dataset"], data_dir)
    function, like, prepare = networks.evaluation(result["network"], dataset)
    loaded = decode(deploy.load_sparse(folder / "network.safetensors"))
    network = deploy.Network(function, jax.tree.map(_fitting, like, loaded))
    return Finished(result, dataset, network, prepare)


def _fitting(like: Any, leaf: np.ndarray) -> jax.Array:
    if like.shape != leaf.shape:
        raise ValueError(f"a leaf of the network has shape {leaf.shape}, not {like.shape}")
    return jnp.asarray(leaf)


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


def error(finished: Finished, logits: Callable[[np.ndarray], Any]) -> float:
    """Misclassified test images in per cent."""

    def mistakes(params: None, images: np.ndarray, labels: np.ndarray) -> int:
        del params  # in ``logits``
        found = np.asarray(logits(finished.prepare(images)))
        return int((found.argmax(-1) != labels).sum())

    return float(networks.error(mistakes, None, finished.dataset.test))


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
