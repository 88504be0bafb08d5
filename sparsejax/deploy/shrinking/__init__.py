"""Networks made smaller, with the outputs that they had."""

from sparsejax.deploy.shrinking._expand import expand
from sparsejax.deploy.shrinking._shrink import Shrunk, shrink

__all__ = ["Shrunk", "expand", "shrink"]
