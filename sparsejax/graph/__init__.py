"""What depends on what? The traced computation of a network and the analyses of it.

For the rooms that ask: inspection, deploy.
"""

from sparsejax.graph._axes import Axes, Read, find_axes
from sparsejax.graph._batch import Traced, batched_inputs, same, structure, trace_batch, with_batch
from sparsejax.graph._constants import (
    Constants,
    Indices,
    Weights,
    find_constants,
    fold,
    narrowed,
    wide,
)
from sparsejax.graph._graph import Equation, Graph, abstract, concrete_leaves, trace
from sparsejax.graph._live import Fold, find_folds, find_live, removable
from sparsejax.graph._nearest import nearest_leaf
from sparsejax.graph._primitives import (
    ELEMENTWISE,
    PRODUCTS,
    UNDERSTOOD,
    WINDOWS,
    Contraction,
    Window,
    contraction_of,
    fixed_values,
    taken_axis,
    through_windows,
    window_of,
    written_axes,
)

__all__ = [
    "ELEMENTWISE",
    "PRODUCTS",
    "UNDERSTOOD",
    "WINDOWS",
    "Axes",
    "Constants",
    "Contraction",
    "Equation",
    "Fold",
    "Graph",
    "Indices",
    "Read",
    "Traced",
    "Weights",
    "Window",
    "abstract",
    "batched_inputs",
    "concrete_leaves",
    "contraction_of",
    "find_axes",
    "find_constants",
    "find_folds",
    "find_live",
    "fixed_values",
    "fold",
    "narrowed",
    "nearest_leaf",
    "removable",
    "same",
    "structure",
    "taken_axis",
    "through_windows",
    "trace",
    "trace_batch",
    "wide",
    "window_of",
    "with_batch",
    "written_axes",
]
