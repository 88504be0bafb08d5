"""The decoder in float64 NumPy, one sequence, one head and one position after the other."""

import numpy as np


def norm(x, scale, epsilon):
    return scale * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon)


def rotated(head, position, theta):
    """Complex numbers of units i and i + size/2 turn by position * theta^(-2i/size)."""
    half = len(head) // 2
    turns = position * theta ** (-2 * np.arange(half) / len(head))
    numbers = (head[:half] + 1j * head[half:]) * np.exp(1j * turns)
    return np.concatenate([numbers.real, numbers.imag])


def attention(inputs, params, config):
    size, group = config.head_size, config.heads // config.kv_heads
    query, key, value = (
        (inputs @ params[f"{name}/kernel"]).reshape(len(inputs), -1, size)
        for name in ("query", "key", "value")
    )
    mixed = np.zeros_like(query)
    for head in range(config.heads):
        shared = head // group
        keys = [rotated(key[m, shared], m, config.rope_theta) for m in range(len(inputs))]
        for position in range(len(inputs)):
            turned = rotated(query[position, head], position, config.rope_theta)
            scores = np.array([turned @ keys[m] for m in range(position + 1)]) / np.sqrt(size)
            weights = np.exp(scores - scores.max())
            mixed[position, head] = weights / weights.sum() @ value[: position + 1, shared]
    return mixed.reshape(len(inputs), -1) @ params["output/kernel"]


def feed_forward(inputs, params):
    gate = inputs @ params["gate/kernel"]
    return (gate / (1 + np.exp(-gate)) * (inputs @ params["up/kernel"])) @ params["down/kernel"]


def part(params, prefix):
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


def logits(params, config, tokens):
    """Logits [length, vocabulary] of one sequence; params are arrays by name, layers unstacked."""
    params = {name: np.asarray(array, np.float64) for name, array in params.items()}
    stream = params["embedding/embedding"][tokens]
    for number in range(config.layers):
        layer = part(params, f"layers/{number}/")
        normed = norm(stream, layer["attention_norm/scale"], config.norm_epsilon)
        stream = stream + attention(normed, part(layer, "attention/"), config)
        normed = norm(stream, layer["mlp_norm/scale"], config.norm_epsilon)
        stream = stream + feed_forward(normed, part(layer, "mlp/"))
    stream = norm(stream, params["norm/scale"], config.norm_epsilon)
    tied = params["embedding/embedding"].T
    return stream @ (tied if config.tie_embedding else params["head/kernel"])
