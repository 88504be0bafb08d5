"""A sparse network leaves: smaller, with the outputs it had."""

from sparsejax.deploy.shrink import Shrunk, shrink

__all__ = ["Shrunk", "shrink"]
