"""The traced computation of a network, and analyses of which units depend on which.

`graph.rules` holds one file for each primitive, with all that the analyses know about it.
"""

from sparsejax.graph._batch import batched_inputs, with_batch
from sparsejax.graph._batch_trace import BatchTrace
from sparsejax.graph._bias_folding import BiasFolding, find_bias_foldings, removable_units
from sparsejax.graph._constants import Constants, ConstantUnits
from sparsejax.graph._contraction import (
    Contraction,
    Weights,
    constant_contribution,
    narrow,
    widest,
)
from sparsejax.graph._edges import (
    ContractionEdge,
    ProductEdge,
    ReductionEdge,
    ReshapeEdge,
    SliceEdge,
)
from sparsejax.graph._factored import Factored
from sparsejax.graph._factored_pass import evaluate_factored, find_factored
from sparsejax.graph._graph import Equation, Graph, abstract, concrete_leaves, evaluate_equations
from sparsejax.graph._group_builder import DependencyGroups
from sparsejax.graph._indices import FixedIndices, Indices
from sparsejax.graph._live import find_live
from sparsejax.graph._moved_leaf import MovedLeaf, Piece
from sparsejax.graph._nearest import nearest_leaf
from sparsejax.graph._onnx_builder import OPSET, OnnxBuilder, OnnxNode
from sparsejax.graph._passes import (
    ELEMENTWISE,
    evaluate,
    find_constants,
    find_contractions,
    find_groups,
    fixed_values,
    write_onnx,
)
from sparsejax.graph._product import Factor, Product
from sparsejax.graph._rule import Rule
from sparsejax.graph._scan import Scan, scan_of
from sparsejax.graph._sliced_graph import take
from sparsejax.graph._trace import trace
from sparsejax.graph._trace_batch import trace_batch, trace_every_batch
from sparsejax.graph._unrolled import Layers, evaluate_unrolled, find_layers, unroll_scan
from sparsejax.graph.rules import RULES

__all__ = [
    "ELEMENTWISE",
    "OPSET",
    "RULES",
    "BatchTrace",
    "BiasFolding",
    "ConstantUnits",
    "Constants",
    "Contraction",
    "ContractionEdge",
    "DependencyGroups",
    "Equation",
    "Factor",
    "Factored",
    "FixedIndices",
    "Graph",
    "Indices",
    "Layers",
    "MovedLeaf",
    "OnnxBuilder",
    "OnnxNode",
    "Piece",
    "Product",
    "ProductEdge",
    "ReductionEdge",
    "ReshapeEdge",
    "Rule",
    "Scan",
    "SliceEdge",
    "Weights",
    "abstract",
    "batched_inputs",
    "concrete_leaves",
    "constant_contribution",
    "evaluate",
    "evaluate_equations",
    "evaluate_factored",
    "evaluate_unrolled",
    "find_bias_foldings",
    "find_constants",
    "find_contractions",
    "find_factored",
    "find_groups",
    "find_layers",
    "find_live",
    "fixed_values",
    "narrow",
    "nearest_leaf",
    "removable_units",
    "scan_of",
    "take",
    "trace",
    "trace_batch",
    "trace_every_batch",
    "unroll_scan",
    "widest",
    "with_batch",
    "write_onnx",
]
