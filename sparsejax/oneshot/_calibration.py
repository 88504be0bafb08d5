"""The results of calibration: each kernel's matrices, and the Gram matrices of its inputs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float


class KernelLayout(NamedTuple):
    """A reading of a kernel as matrices [outputs, inputs], which is static and hashable.

    Every axis of the kernel is one of three kinds. Entries along the batch axes, such as stacked
    layers or experts, are kernels of their own. Experts are that only if each has inputs of its own
    (``"ebd,edh->ebh"``). Where all of them read the same tokens (``"bd,edh->ebh"``), their outputs
    are those of one matrix with e h outputs, and a budget of ``pattern="layer"`` is counted over
    all of them together.
    """

    shape: tuple[int, ...]
    """The shape of the kernel."""
    batch_axes: tuple[int, ...]
    """The axes along which each entry is a kernel of its own."""
    output_axes: tuple[int, ...]
    """The axes of the units that are written."""
    input_axes: tuple[int, ...]
    """The axes that are summed over, in the order of the rows of the Gram matrix."""

    @property
    def batch(self) -> int:
        """The number of matrices."""
        return math.prod(self.shape[axis] for axis in self.batch_axes)

    @property
    def outputs(self) -> int:
        """The number of rows of a matrix."""
        return math.prod(self.shape[axis] for axis in self.output_axes)

    @property
    def inputs(self) -> int:
        """The number of columns of a matrix."""
        return math.prod(self.shape[axis] for axis in self.input_axes)

    @property
    def _order(self) -> tuple[int, ...]:
        return (*self.batch_axes, *self.output_axes, *self.input_axes)

    def matrices(self, kernel: Any) -> Any:
        """Return the matrices of a kernel.

        Args:
          kernel: an array of the kernel's shape, of JAX or NumPy: weights, a mask or scores.

        Returns:
          The array as [batch, outputs, inputs].
        """
        return kernel.transpose(self._order).reshape(self.batch, self.outputs, self.inputs)

    def kernel(self, matrices: Any) -> Any:
        """Return the kernel whose matrices are given; the inverse of `matrices`.

        Args:
          matrices: [batch, outputs, inputs], of JAX or NumPy.

        Returns:
          An array of the kernel's shape.
        """
        order = self._order
        moved = matrices.reshape([self.shape[axis] for axis in order])
        return moved.transpose(sorted(range(len(order)), key=order.__getitem__))


class KernelInputs(NamedTuple):
    r"""The second moments of the inputs of a kernel, summed over all batches.

    .. math:: G = \sum_n x_n x_n^\top
    """

    gram: Float[Array, "batch inputs inputs"]
    """:math:`G` for each matrix of the kernel, in float32, or float64 if the inputs are."""
    rows: Float[Array, " batch"]
    """The number of summands, in the dtype of ``gram``."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Calibration:
    """The inputs of the kernels of a function; ``print`` shows a table.

    It is a pytree whose leaves are the arrays of ``inputs``. Kernels that read the same inputs
    share one Gram matrix.
    """

    inputs: dict[str, KernelInputs]
    """The inputs of each kernel, by its name: the parts of its path, joined by ``/``."""
    layouts: dict[str, KernelLayout] = dataclasses.field(metadata={"static": True})
    """The layout of each kernel, by its name."""
    skipped: dict[str, str] = dataclasses.field(metadata={"static": True}, default_factory=dict)
    """The chosen parameters without inputs, and why there are none."""

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("kernel", "matrices", "outputs", "inputs", "rows")]
        for name, layout in self.layouts.items():
            counts = {f"{float(n):.0f}" for n in self.inputs[name].rows}
            sizes = map(str, (layout.batch, layout.outputs, layout.inputs))
            rows.append((name, *sizes, ", ".join(sorted(counts, key=int))))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [name.ljust(widths[0])]
                + [one.rjust(width) for one, width in zip(sizes, widths[1:], strict=True)]
            )
            for name, *sizes in rows
        ]
        lines += [f"{name}: skipped, since {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)
