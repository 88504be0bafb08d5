"""Networks of the same size that compute with their zeros left out."""

from sparsejax.deploy.sparse_programs._compile_sparse import Compiled, compile_sparse

__all__ = ["Compiled", "compile_sparse"]
