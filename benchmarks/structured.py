"""Speed of networks without heads, hidden units and groups: ``python -m benchmarks.structured``.

Three networks are pruned by structure and shrunk; masked and shrunk networks, both jitted, take
turns in one process, and their outputs are compared.

- An encoder as BERT's with random weights (6 layers, 384 wide, 12 heads, 1,536 hidden units),
  without half of its heads and hidden units, on 8 sequences of 128 tokens.
- A GRU of 128 units, of which half are read by nothing, on 32 sequences of 100 steps.
- SmolLM2-135M without a quarter of the hidden units and one of three groups of keys, values and
  queries of each layer, chosen by Wanda's scores on windows of the Brown corpus: the prefill of 512
  tokens (the logits of the last one, from which a text is continued, and those of all), decoding
  token by token with `sparsejax.models.generate`, and the seconds and peak memory of `shrink`. With
  ``--decoder random`` the weights and the choice are random, and nothing is fetched.

What is left of the multiply-accumulates bounds what can be gained. The embedding, which makes the
logits, loses nothing, so it is less where the logits of all positions are computed. Run it on an
idle machine.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from benchmarks.memory import peak, reset_peak
from benchmarks.timing import interleaved, write
from sparsejax import oneshot
from sparsejax.deploy import Network, Shrunk, shrink
from sparsejax.inspection import macs
from sparsejax.models import Decoder, DecoderConfig, generate

_SEED = 0
_SMOLLM2 = DecoderConfig(
    vocabulary=49152, width=576, layers=30, heads=9, kv_heads=3, hidden=1536, rope_theta=100000.0
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Speed of networks without heads, hidden units and groups."""

    part: tuple[Literal["encoder", "gru", "decoder", "shrinking"], ...] = (
        "encoder", "gru", "decoder",
    )  # fmt: skip
    """The networks to measure; the decoder runs ``shrinking`` in a process of its own."""
    decoder: Literal["smollm2", "random"] = "smollm2"
    """The weights of the decoder: pretrained ones, or random ones of the same shapes."""
    layers: int | None = None
    """Layers of the decoder with random weights; default: 30."""
    vocabulary: int | None = None
    """Tokens of the decoder with random weights, to see what the logits cost; default: 49,152."""
    repeats: int = 9
    """Timed calls of each; the median counts."""
    clock: Literal["wall", "cpu"] = "wall"
    """``cpu`` counts the seconds of this process's threads: for a core that others use, too."""
    prompt: int = 32
    """Tokens of the prompt that is continued."""
    steps: int = 16
    """Tokens that are added to it."""
    context: int = 512
    """Tokens of the prefill."""
    calibration_windows: int = 4
    """Windows of 512 tokens for the scores."""
    data_dir: Path | None = None
    """The data folder of the decoder and the texts; default: that of the experiments."""
    output: Path | None = None
    """JSON file to write; default: none."""


def main(config: Config) -> None:
    """Measure, print, and write the JSON file if one is given."""
    parts = {"encoder": _encoder, "gru": _gru, "decoder": _decoder, "shrinking": _shrinking}
    found: dict[str, Any] = {name: parts[name](config) for name in config.part}
    settings = dataclasses.asdict(config)
    for name in ("data_dir", "output"):
        del settings[name]
    write(config.output, "structured", {"seed": _SEED, "config": settings, **found})


def _compared(title: str, calls: Mapping[str, Callable[[], Any]], config: Config) -> dict[str, Any]:
    """Time two calls in turn, masked and shrunk; print and return times, ratio and difference."""
    expected, found = (np.asarray(calls[name](), np.float64) for name in ("masked", "shrunk"))
    gap = float(np.abs(found - expected).max() / np.abs(expected).max())
    waiting = {name: functools.partial(_wait, call) for name, call in calls.items()}
    clock = time.perf_counter if config.clock == "wall" else time.process_time
    taken = interleaved(waiting, config.repeats, clock=clock)
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    ratio = seconds["masked"] / seconds["shrunk"]
    print(
        f"{title}: {ratio:.2f} times as fast, outputs within {gap:.0e} of the largest", flush=True
    )
    return {"seconds": seconds, "speedup": ratio, "difference": gap}


def _wait(call: Callable[[], Any]) -> None:
    jax.block_until_ready(call())


def _measured(
    title: str, network: Network, small: Shrunk, inputs: tuple[Any, ...], config: Config
) -> dict[str, Any]:
    """Compare a masked network with what `shrink` left of it, and count multiply-accumulates."""
    calls = {
        name: functools.partial(jax.jit(one.function), jax.device_put(one.params), *inputs)
        for name, one in (("masked", network), ("shrunk", small))
    }
    counts = {
        name: macs(one.function, one.params, *inputs)
        for name, one in (("masked", network), ("shrunk", small))
    }
    compared = _compared(title, calls, config)
    print(f"  {counts['shrunk'] / counts['masked']:.1%} of the multiply-accumulates", flush=True)
    return {**compared, "macs": counts}


# The encoder


class _EncoderLayer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.attention = nnx.MultiHeadAttention(12, 384, decode=False, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(384, rngs=rngs) for _ in range(2)])
        self.up, self.down = (nnx.Linear(*s, rngs=rngs) for s in ((384, 1536), (1536, 384)))

    def __call__(self, x: jax.Array) -> Any:
        x = self.norms[0](x + self.attention(x))
        return self.norms[1](x + self.down(jax.nn.gelu(self.up(x))))


class _Encoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.tokens, self.positions = (nnx.Embed(n, 384, rngs=rngs) for n in (2000, 128))
        self.layers = nnx.List([_EncoderLayer(rngs) for _ in range(6)])

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return x


def _encoder(config: Config) -> dict[str, Any]:
    rng = np.random.default_rng(_SEED)
    function, params = _pure(_Encoder(nnx.Rngs(_SEED)))

    def half(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path)
        if "['out']['kernel']" in name or "['down']['kernel']" in name:
            leaf = np.array(leaf)
            leaf[rng.permutation(len(leaf))[::2]] = 0
        return leaf

    network = Network(function, jax.tree_util.tree_map_with_path(half, params))
    tokens = rng.integers(0, 2000, (8, 128)).astype(np.int32)
    title = "encoder, half of the heads and hidden units"
    return _measured(title, network, shrink(network, tokens), (tokens,), config)


def _pure(model: nnx.Module) -> tuple[Callable[..., Any], Any]:
    """Return a function of a dict of parameters, and the dict."""
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    structure = jax.tree.structure(state)

    def function(params: Any, *inputs: Any) -> Any:
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        return nnx.merge(graph, state, rest)(*inputs)

    return function, nnx.to_pure_dict(state)


# The GRU


class _Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        states: Any = nn.RNN(nn.GRUCell(128))(x)
        return nn.Dense(10)(states[:, -1])


def _gru(config: Config) -> dict[str, Any]:
    rng = np.random.default_rng(_SEED)
    model, x = _Recurrent(), rng.standard_normal((32, 100, 32), np.float32)
    dead = rng.permutation(128)[::2]

    def unread(leaf: Any) -> np.ndarray:
        array = np.array(leaf)
        if array.ndim == 2 and len(array) == 128:  # recurrent kernels and the classifier
            array[dead] = 0
        return array

    params = jax.tree.map(unread, model.init(jax.random.key(_SEED), x))
    network = Network(model.apply, params)
    title = "GRU of 128 units, half of them dead"
    return _measured(title, network, shrink(network, x), (x,), config)


# The decoder


class _Callable(nnx.Module):
    """A network of tokens and a position as the module that `generate` takes."""

    def __init__(self, network: Network):
        leaves, self.structure = jax.tree.flatten(network.params)
        self.function = network.function
        self.leaves = nnx.List([nnx.Param(leaf) for leaf in leaves])

    def __call__(self, tokens: jax.Array, position: jax.Array) -> Any:
        params = jax.tree.unflatten(self.structure, [leaf[...] for leaf in self.leaves])
        return self.function(params, tokens, position)


def _decoder(config: Config) -> dict[str, Any]:
    rng = np.random.default_rng(_SEED)
    pruned = _smollm2 if config.decoder == "smollm2" else _random
    network, vocabulary = pruned(config)
    tokens = rng.integers(0, vocabulary, (1, config.context)).astype(np.int32)

    found: dict[str, Any] = {"shrinking": _shrinking_apart(config)}
    for name, logits, inputs in (
        ("prefill", "last", (tokens, np.int32(config.context - 1))),
        ("prefill_all", "all", (tokens,)),
    ):
        title = f"prefill of {config.context} tokens, {logits} logits"
        small = shrink(network, *inputs)
        found[name] = _measured(title, network, small, inputs, config)
    prompt = jnp.asarray(tokens[:, : config.prompt])
    # The function is made for all positions of the text, of which the last ones are empty at first.
    total = jax.ShapeDtypeStruct((1, config.prompt + config.steps), jnp.int32)
    small = shrink(network, total, jax.ShapeDtypeStruct((), jnp.int32))
    models = {"masked": _Callable(network), "shrunk": _Callable(small)}
    calls = {
        name: functools.partial(generate, model, prompt, config.steps)
        for name, model in models.items()
    }
    title = f"decoding {config.steps} tokens, one at a time"
    found["decoding"] = _compared(title, calls, config)
    found["decoding"]["tokens_per_second"] = {
        name: config.steps / value for name, value in found["decoding"]["seconds"].items()
    }
    return found


def _shrinking_apart(config: Config) -> dict[str, Any]:
    """Measure `shrink` in a process that holds random weights alone."""
    command = [sys.executable, "-m", "benchmarks.structured", "--part", "shrinking"]
    for name in ("layers", "vocabulary"):
        if (value := getattr(config, name)) is not None:
            command += [f"--{name}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    used = found["peak_memory_over_weights"]
    print(
        f"decoder, {found['parameters']:,} parameters to {found['left']:,}: shrunk in "
        f"{found['seconds']:.1f} s"
        + (f", at most {used:.2f} times the weights in memory" if used else "")
    )
    return found


def _shrinking(config: Config) -> dict[str, Any]:
    network, _ = _random(config)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(network.params))
    before = reset_peak()
    start = time.perf_counter()
    small = shrink(network, jax.ShapeDtypeStruct((1, config.context), jnp.int32))
    seconds = time.perf_counter() - start
    # Excludes the memory of Python and JAX, the only other resident memory before the call.
    used = None if before is None else (peak() - before) / weights + 1
    size, left = (
        sum(leaf.size for leaf in jax.tree.leaves(one.params)) for one in (network, small)
    )
    found = {
        "parameters": size, "left": left, "seconds": seconds, "peak_memory_over_weights": used,
    }  # fmt: skip
    print(json.dumps(found))
    return found


def _smollm2(config: Config) -> tuple[Network, int]:
    """The pretrained decoder without the hidden units and groups of the smallest scores."""
    from experiments.data.brown import load_brown, windows
    from experiments.data.smollm2 import load_smollm2

    sizes, model, tokenizer = load_smollm2(config.data_dir)
    texts = load_brown(config.data_dir, tokenizer)["calibration"]
    function, params = _pure(model)
    where = lambda path, leaf: _kernel(path) in ("down", "output")  # noqa: E731
    drawn = windows(texts, 512, config.calibration_windows, _SEED)
    calibration = oneshot.calibrate(
        function, params, (jnp.asarray(window[None]) for window in drawn), where
    )
    group = sizes.width // sizes.kv_heads
    for name, share, pattern in (("down", 1 / 4, "inputs"), ("output", 1 / 3, f"inputs/{group}")):
        chosen = lambda path, leaf, name=name: _kernel(path) == name  # noqa: E731
        params = oneshot.prune(params, calibration, share, "wanda", pattern, chosen)
    return Network(function, params), sizes.vocabulary


def _random(config: Config) -> tuple[Network, int]:
    """A decoder of random weights without random hidden units and groups."""
    sizes = dataclasses.replace(
        _SMOLLM2,
        layers=config.layers or _SMOLLM2.layers,
        vocabulary=config.vocabulary or _SMOLLM2.vocabulary,
    )
    model = nnx.eval_shape(lambda: Decoder(sizes, rngs=nnx.Rngs(_SEED)))
    function, shapes = _pure(model)
    rng = np.random.default_rng(_SEED)

    def draw(path: Any, leaf: Any) -> Any:
        name = _kernel(path)
        if leaf.ndim == 1:
            return np.ones(leaf.shape, np.float32)
        array = rng.standard_normal(leaf.shape, np.float32)
        array *= np.float32(leaf.shape[0] ** -0.5)
        if name in ("down", "output"):
            parts = array.reshape(sizes.kv_heads if name == "output" else len(array), -1)
            parts[rng.permutation(len(parts))[: len(parts) // (3 if name == "output" else 4)]] = 0
        return array

    return Network(function, jax.tree_util.tree_map_with_path(draw, shapes)), sizes.vocabulary


def _kernel(path: Any) -> str:
    """Return the name of the layer that a kernel belongs to."""
    keys = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    return next((key for key in keys if key in ("down", "output")), "")


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.structured"))
