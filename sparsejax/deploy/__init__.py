"""A sparse network leaves: smaller or faster, with the outputs it had, or as a file."""

from sparsejax.deploy.compile_sparse import Compiled, compile_sparse
from sparsejax.deploy.expand import expand
from sparsejax.deploy.onnx_file import export_onnx
from sparsejax.deploy.shrink import Shrunk, shrink
from sparsejax.deploy.sparse_file import load_sparse, save_sparse
from sparsejax.deploy.stablehlo import export_stablehlo, load_stablehlo
from sparsejax.deploy.torch_names import torch_state

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
