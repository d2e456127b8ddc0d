"""What the variants of convolution share, on a CPU and on a GPU: which kernels they ask for, how a kernel is
turned round, how many images are worked on at a time."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from ..backend import Array, xp_of
from ..conv import Pair


def is_3x3_same(w: Array, stride: Pair, padding: Pair) -> bool:
    """Whether a kernel is 3 x 3 with stride 1 and padding 1, which keeps the image's size."""
    return w.shape[:2] == (3, 3) and stride == (1, 1) and padding == (1, 1)


def rotate_180(w: Array) -> Array:
    """The kernel rotated by 180 degrees, for the way back from O to C channels: (3, 3, C, O) -> (3, 3, O,
    C)."""
    return xp_of(w).ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))


def of_gradients(applies: Callable[..., bool]) -> Callable[..., bool]:
    """The condition of a convolution as one of its gradients."""
    @functools.wraps(applies)
    def gradients_apply(g: object, x: object, w: object, stride: Pair, padding: Pair,
                        needs_grad: tuple[bool, bool]) -> bool:
        return applies(x, w, stride, padding)
    return gradients_apply


def image_slices(out: Array, w: Array, max_bytes: int) -> Iterator[slice]:
    """As many images of out (N, OH, OW, O) at a time as have at most so many bytes of columns, but at least
    one."""
    N, OH, OW, _ = out.shape
    images = max(1, max_bytes // max(1, OH * OW * w[..., 0].size * out.itemsize))
    return (slice(n, n + images) for n in range(0, N, images))
