"""Compilation of networks to programs that skip zeros."""

from sparsejax.deploy.sparse_programs._compile_sparse import Compiled, compile_sparse

__all__ = ["Compiled", "compile_sparse"]
