"""Networks with stacked layers as networks with separate ones."""

from __future__ import annotations

import jax

from sparsejax._where import PyTree
from sparsejax.deploy._decode_network import decode_network
from sparsejax.deploy._network import Network, check_network
from sparsejax.deploy._rewritten_function import RewrittenFunction
from sparsejax.graph import Layers, abstract, concrete_leaves, evaluate_unrolled, find_layers, trace


def unroll_layers(network: Network, *inputs: PyTree) -> Network:
    """Return a network whose stacked layers, which ran under ``scan``, are written out.

    `shrink` removes from stacked layers only the units that are dead in all of them, since a stack
    has one shape. Written out, each layer loses its own units::

        small = shrink(unroll_layers(network, images), images)

    A stack of n layers in ``params`` is replaced by a list of n arrays: ``layers/kernel`` becomes
    ``layers/kernel/0``, ``layers/kernel/1``, ... The program grows with the number of layers, and
    so does the time to compile it. `expand` returns lists again; this stacks them::

        def stacked(whole, layers):
            return jnp.stack(layers) if isinstance(layers, list) else layers

        params = jax.tree.map(stacked, network.params, expand(small).params)

    Written out are the loops (``scan``, ``nn.scan``, ``nnx.scan``, which is not within another
    loop) that read a parameter layer by layer along its first dimension. A parameter that is also
    read in another way stays a stack, and loops over time steps, which read whole parameters in
    each step, stay loops. Where loops over layers hold others, call the function again to write out
    the inner ones, too. Custom derivatives are lost, as in `shrink`.

    Args:
      network: a network, as for `shrink`.
      *inputs: examples, arrays or ``jax.ShapeDtypeStruct``; only shapes and dtypes are used. The
        result takes inputs of other shapes, too.

    Returns:
      A network that computes the same up to rounding; the same object if no loop reads a parameter
      layer by layer.

    Raises:
      TypeError: ``network`` is not a `Network`, or its parameters are no concrete arrays.
      ValueError: ``network`` is from `compile_sparse`.
    """
    check_network(network, "unroll_layers")
    network = decode_network(network, *inputs)
    shapes = abstract(network.params)
    graph = trace(network.function, shapes, inputs)
    chosen = frozenset(find_layers(graph))
    if not chosen:
        return network
    leaves, structure = concrete_leaves(network.params), jax.tree.structure(network.params)
    unrolled = tuple(value in chosen for value in graph.leaves)
    params = [
        [leaf[step] for step in range(len(leaf))] if alone else leaf
        for leaf, alone in zip(leaves, unrolled, strict=True)
    ]
    function = RewrittenFunction(network.function, shapes, unrolled, _read, evaluate_unrolled)
    return Network(function, jax.tree.unflatten(structure, params))


def _read(layers: list[jax.Array]) -> Layers:
    return Layers(tuple(layers))
