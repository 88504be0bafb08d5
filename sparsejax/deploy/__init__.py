"""A sparse network leaves: smaller, with the outputs it had, or as a compact file."""

from sparsejax.deploy.shrink import Shrunk, shrink
from sparsejax.deploy.sparse_file import load_sparse, save_sparse

__all__ = ["Shrunk", "load_sparse", "save_sparse", "shrink"]
