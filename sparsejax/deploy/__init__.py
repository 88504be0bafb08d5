"""Deployment of sparse networks: smaller or faster networks with the same outputs, and files."""

from sparsejax.deploy._decode_network import decode_network
from sparsejax.deploy._network import Network
from sparsejax.deploy._unroll_layers import unroll_layers
from sparsejax.deploy.exports import export_onnx, export_stablehlo, load_stablehlo, torch_state
from sparsejax.deploy.files import load_sparse, save_sparse
from sparsejax.deploy.shrinking import Shrunk, expand, shrink
from sparsejax.deploy.sparse_programs import Compiled, compile_sparse

__all__ = [
    "Compiled",
    "Network",
    "Shrunk",
    "compile_sparse",
    "decode_network",
    "expand",
    "export_onnx",
    "export_stablehlo",
    "load_sparse",
    "load_stablehlo",
    "save_sparse",
    "shrink",
    "torch_state",
    "unroll_layers",
]
