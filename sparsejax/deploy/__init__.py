"""A sparse network leaves: smaller or faster, with the outputs it had, or as a file."""

from sparsejax.deploy.exports import export_onnx, export_stablehlo, load_stablehlo, torch_state
from sparsejax.deploy.files import load_sparse, save_sparse
from sparsejax.deploy.shrinking import Shrunk, expand, shrink
from sparsejax.deploy.sparse_programs import Compiled, compile_sparse

__all__ = [
    "Compiled",
    "Shrunk",
    "compile_sparse",
    "expand",
    "export_onnx",
    "export_stablehlo",
    "load_sparse",
    "load_stablehlo",
    "save_sparse",
    "shrink",
    "torch_state",
]
