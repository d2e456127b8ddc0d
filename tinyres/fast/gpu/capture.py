"""A training step on a GPU, launched as a whole.

Why it is faster: a step is some hundreds of CUDA kernels, each of which takes Python longer to launch than
the GPU to run. A graph records them once and launches all of them with one call.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy

from ... import backend
from ...backend import Array
from ...nn import Module
from ...tensor import Tensor

cupy = backend.cupy

WARM_UP_CALLS = 3  # before recording, so that kernels are compiled and memory is allocated

Compute = Callable[[Module, Array, Array], tuple[Array, Array]]


def captured(compute: Compute) -> Compute:
    """compute(model, images, labels) for one model and batches of one shape, recorded and launched whole.

    Images and labels are copied to where the first ones were; the gradients that it leaves are the same
    arrays each time, and replace those that were there.
    Raises ValueError if the backend in use is NumPy, or if the model draws random numbers: each launch would
    repeat those that were recorded.
    """
    if backend.current() is numpy:
        raise ValueError("capture is for a GPU: leave it out")
    inputs: list[Array] = []
    graphs: list[CUDAGraph] = []

    def step(model: Module, images: Array, labels: Array) -> tuple[Array, Array]:
        def compute_anew() -> tuple[tuple[Array, Array], list[Array | None], list[Tensor]]:
            for parameter in model.parameters():
                parameter.grad = None
            versions = {tensor: tensor.version for _, tensor in model.named_tensors()}
            state = [str(generator.bit_generator.state) for _, generator in model.named_generators()]
            results = compute(model, *inputs)
            if state != [str(generator.bit_generator.state) for _, generator in model.named_generators()]:
                raise ValueError("capture would repeat the random numbers that the model draws: leave it out")
            return (results, [parameter.grad for parameter in model.parameters()],
                    [tensor for tensor, version in versions.items() if tensor.version != version])

        if not graphs:
            inputs.extend((images.copy(), labels.copy()))
            graphs.append(CUDAGraph(compute_anew))
        for recorded, new in zip(inputs, (images, labels), strict=True):
            recorded[...] = new
        results, gradients, replaced = graphs[0]()
        for tensor in replaced:
            tensor.version += 1  # as the recorded Python did
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient  # of the present values
        # copied, since the next call writes its results to the same place
        return tuple(result.copy() for result in results)

    return step


class CUDAGraph:
    """A function without arguments whose work on the GPU is launched as a whole from its fourth call on.

    The first calls run as usual, on a stream with memory of its own; then one is recorded. The function must
    do the same work on the same arrays each time, and copy nothing off the GPU; it returns the same arrays
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
        """Within this context work goes to our stream: after the work that `outside` has, before its next."""
        self.stream.wait_event(outside.record())
        try:
            with self.stream, cupy.cuda.using_allocator(self.pool.malloc):
                yield
        finally:  # after an error, too, `outside` may touch the same arrays
            outside.wait_event(self.stream.record())
