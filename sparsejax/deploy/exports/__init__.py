"""Export of networks to other runtimes: ONNX, StableHLO, PyTorch."""

from sparsejax.deploy.exports._onnx import export_onnx
from sparsejax.deploy.exports._stablehlo import export_stablehlo, load_stablehlo
from sparsejax.deploy.exports._torch_state import torch_state

__all__ = ["export_onnx", "export_stablehlo", "load_stablehlo", "torch_state"]
