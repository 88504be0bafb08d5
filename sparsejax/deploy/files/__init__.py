"""Files that store the non-zeros of a network, or its compressed weights in their forms."""

from sparsejax.deploy.files._sparse_file import load_sparse, save_sparse

__all__ = ["load_sparse", "save_sparse"]
