"""The network of Theorem 3.2 (section 3): a projection, residual blocks that move points, an output block.

`expressivity.fit` builds it. N points of d numbers in r classes, k the width; a point is a row.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import numpy

from .. import backend
from ..backend import Array
from ..module import Module
from ..ops import relu
from ..tensor import Tensor, no_grad

BATCH = 1024  # points at a time: in cache from block to block, and too few for BLAS to wait for threads


class MovingBlock(Module):
    """h + V relu(U h + s) for points in rows, (N, k) -> (N, k), computed as `h + relu(h @ U + s) @ V`.

    U: (k, k), one unit a column. s: (k,). V: (k, k), the move that each unit makes, one a row.
    """

    def __init__(self, U: Array, s: Array, V: Array) -> None:
        self.U, self.s, self.V = (Tensor(array, requires_grad=True) for array in (U, s, V))

    def __call__(self, h: Tensor) -> Tensor:
        return h + relu(h @ self.U + self.s) @ self.V


class OutputBlock(Module):
    """P h + B relu(A h + s) for points in rows, (N, k) -> (N, r).

    A: (k, r), one unit a column. s: (r,). B: (r, r), one unit a row. P has no parameters: it keeps the first
    r numbers of h, or adds zeros where there are fewer.
    """

    def __init__(self, A: Array, s: Array, B: Array) -> None:
        self.A, self.s, self.B = (Tensor(array, requires_grad=True) for array in (A, s, B))
        self.P = Tensor(backend.xp_of(A).eye(*A.shape, dtype=A.dtype))

    def __call__(self, h: Tensor) -> Tensor:
        return h @ self.P + relu(h @ self.A + self.s) @ self.B


class MemorizingNetwork(Module):
    """The network of Theorem 3.2, made by `fit`: the projection A_0, moving blocks, an output block.

    k d + blocks (2 k^2 + k) + k r + r^2 + r parameters, all of them trainable.
    """

    def __init__(self, projection: Array, blocks: Sequence[MovingBlock], output: OutputBlock) -> None:
        self.projection = Tensor(projection, requires_grad=True)
        self.blocks, self.output = list(blocks), output

    def __call__(self, points: Array | Tensor) -> Array | Tensor:
        """The scores of points (N, d), largest at the label: (N, r).

        An array gives an array of the network's dtype, computed in batches and without a graph. A Tensor,
        which must have the network's dtype, gives a Tensor with its graph. Raises ValueError for points of
        another shape.
        """
        return self._run(points, lambda x: self.output(self._moved(x, len(self.blocks))))

    def hidden(self, points: Array | Tensor, block: int) -> Array | Tensor:
        """Where points (N, d) are after the first `block` blocks: (N, k); 0 is right after the projection.

        Arrays and Tensors as in `__call__`. Raises ValueError for points of another shape, or unless block is
        an integer from 0 to len(blocks).
        """
        if not isinstance(block, Integral) or not 0 <= block <= len(self.blocks):
            raise ValueError(f"block {block!r}: expected an integer from 0 to {len(self.blocks)}")
        return self._run(points, lambda x: self._moved(x, block))

    def _moved(self, x: Tensor, block: int) -> Tensor:
        h = x @ self.projection
        for moving_block in self.blocks[:block]:
            h = moving_block(h)
        return h

    def _run(self, points: Array | Tensor, function: Callable[[Tensor], Tensor]) -> Array | Tensor:
        d = self.projection.shape[0]
        if len(points.shape) != 2 or points.shape[1] != d:
            raise ValueError(f"points of shape {points.shape}: this network expects (N, {d})")
        if isinstance(points, Tensor):
            return function(points)
        with no_grad():
            parts = [function(Tensor(x)).data for _, x in batches(points, self.projection.dtype)]
        return backend.xp_of(points).concatenate(parts)


def batches(points: Array, dtype: numpy.dtype) -> Iterator[tuple[int, Array]]:
    """The points (n, d) in batches of up to BATCH rows of this dtype, each with the row where it starts."""
    for start in range(0, len(points), BATCH):
        yield start, points[start:start + BATCH].astype(dtype, copy=False)
