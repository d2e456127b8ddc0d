"""A training step on a GPU, launched whole.

Why it is faster: a step is some hundreds of kernels, each of which Python takes longer to launch than the GPU
to run. A graph records them once and launches all with one call.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy

from ... import backend
from ...backend import Array
from ...nn import Module

cupy = backend.cupy

WARM_UP_CALLS = 3  # before recording, so that kernels are compiled and memory is there

Compute = Callable[[Module, Array, Array], tuple[Array, Array]]


def captured(compute: Compute) -> Compute:
    """compute(model, images, labels) for one model, recorded and launched whole; batches of one shape.

    Images and labels are copied to where the first ones were; the gradients that it leaves are the same
    arrays each time. Raises ValueError if arrays are NumPy's.
    """
    if backend.current() is numpy:
        raise ValueError("capture is for a GPU: leave it out")
    inputs: list[Array] = []
    graphs: list[CUDAGraph] = []

    def step(model: Module, images: Array, labels: Array) -> tuple[Array, Array]:
        if not graphs:
            inputs.extend((images.copy(), labels.copy()))
            graphs.append(CUDAGraph(lambda: compute(model, *inputs)))
        for there, new in zip(inputs, (images, labels), strict=True):
            there[...] = new
        # the next call writes its own to the same place
        return tuple(result.copy() for result in graphs[0]())

    return step


class CUDAGraph:
    """A function without arguments whose GPU work is launched whole from its fourth call on.

    The first calls run as they are, on a stream with memory of its own; then one is recorded. The function
    must do the same work each time, on the same arrays, and fetch nothing; what it returns is the same arrays
    each time.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function, self.calls, self.graph = function, 0, None
        self.stream, self.pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
        self.result: Any = None

    def __call__(self) -> Any:
        self.calls += 1
        outside = cupy.cuda.get_current_stream()
        with self._after(outside):
            if self.graph is not None:
                self.graph.launch(self.stream)
            elif self.calls <= WARM_UP_CALLS:
                self.result = self.function()
            else:
                self.stream.begin_capture()
                try:
                    self.result = self.function()
                except BaseException:
                    with suppress(Exception):  # the first error says why
                        self.stream.end_capture()
                    raise
                self.graph = self.stream.end_capture()
                self.graph.launch(self.stream)
        return self.result

    @contextmanager
    def _after(self, outside: Any) -> Iterator[None]:
        """Within this context work goes to the own stream, after what `outside` has, before what it gets."""
        self.stream.wait_event(outside.record())
        with self.stream, cupy.cuda.using_allocator(self.pool.malloc):
            yield
        outside.wait_event(self.stream.record())
