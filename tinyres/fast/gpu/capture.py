"""A training step on a GPU, launched as a whole.

Why it is faster: a step is some hundreds of CUDA kernels, each of which takes Python longer to launch than
the GPU to run. A graph records them once and launches all of them with one call.
"""
from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy

from ... import backend
from ...backend import Array
from ...nn import Module
from ...tensor import Tensor
from . import cublas

cupy = backend.cupy

WARM_UP_CALLS = 3  # before recording, so that kernels are compiled and memory is allocated

Compute = Callable[..., tuple[Array, ...]]


def captured(compute: Compute) -> Compute:
    """compute(model, *arrays), forward and backward pass of a step, launched whole on a GPU.

    compute leaves gradients in the model's parameters and returns a tuple of arrays. It must do the same work
    each time. On NumPy it is called as it is.

        @tr.fast.captured
        def compute(net, images, labels):
            loss = tr.softmax_cross_entropy(net(tr.Tensor(images)), labels)
            loss.backward()
            return (loss.data,)

    Arrays are copied to where the first ones were; the gradients that it leaves are the same arrays each
    time, and replace those that were there. If an array of the model is replaced, the step is recorded anew.
    What a graph cannot repeat is computed as usual, and stderr says so once: a model that draws random
    numbers or fetches some from the GPU, arrays of other shapes than the first ones, another model.
    """
    recorded: list[_Recorded] = []

    @functools.wraps(compute)
    def step(model: Module, *arrays: Array) -> tuple[Array, ...]:
        if backend.current() is numpy or any(backend.xp_of(array) is numpy for array in arrays):
            return compute(model, *arrays)
        if not recorded:
            recorded.append(_Recorded(compute, model, arrays))
        return recorded[0](model, arrays)

    return step


class _Recorded:
    """A step of one model, for arrays of the shapes of the first ones."""

    def __init__(self, compute: Compute, model: Module, arrays: tuple[Array, ...]) -> None:
        self.compute, self.model, self.inputs = compute, model, [array.copy() for array in arrays]
        self.graph: CUDAGraph  # made when there is none for the state
        self.state: list[tuple[int, bool]] | None = None  # of the model's tensors: addresses, requires_grad
        self.draws_random_numbers, self.failure, self.said = False, "", ""

    def __call__(self, model: Module, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        if why := self._obstacle(model, arrays):
            if why != self.said:
                print(f"A step is launched kernel by kernel, not whole: {why}", file=sys.stderr)
            self.said = why
            return self.compute(model, *arrays)
        state = [(tensor.data.data.ptr, tensor.requires_grad) for _, tensor in model.named_tensors()]
        if state != self.state:
            self.graph, self.state = CUDAGraph(self._compute_anew), state
        for recorded, new in zip(self.inputs, arrays, strict=True):
            recorded[...] = new
        try:
            results, gradients, replaced = self.graph()
        except MemoryError:
            del self.graph  # and its memory
            self.state = None
            raise
        except RuntimeError as error:
            if self.graph.graph or self.graph.calls <= WARM_UP_CALLS:  # it was not being recorded
                raise
            self.failure = f"it could not be recorded. Does it fetch numbers from the GPU? ({error})"
            del self.graph
            for parameter in model.parameters():
                parameter.grad = None  # of work that was not done
        if self.failure:  # by now the error has let go of what was computed
            return self(model, arrays)
        for tensor in replaced:
            tensor.version += 1  # as the recorded Python did
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient  # of the present values
        # copied, since the next call writes its results to the same place
        return tuple(result.copy() for result in results)

    def _obstacle(self, model: Module, arrays: tuple[Array, ...]) -> str:
        """Why a step cannot be launched whole; empty if it can."""
        if self.draws_random_numbers:
            return "the model draws random numbers, and a recorded step would repeat its own"
        if self.failure or model is not self.model:
            return self.failure or "another model was recorded"
        shapes, expected = ([(array.shape, str(array.dtype)) for array in some]
                            for some in (arrays, self.inputs))
        return "" if shapes == expected else f"arrays of {shapes}, and {expected} were recorded"

    def _compute_anew(self) -> tuple[tuple[Array, ...], list[Array | None], list[Tensor]]:
        """Results, gradients, and the tensors that have other values afterwards."""
        model = self.model
        for parameter in model.parameters():
            parameter.grad = None
        versions = {tensor: tensor.version for _, tensor in model.named_tensors()}
        drawn = _generator_states(model)
        results = self.compute(model, *self.inputs)
        self.draws_random_numbers = drawn != _generator_states(model)
        return (results, [parameter.grad for parameter in model.parameters()],
                [tensor for tensor, version in versions.items() if tensor.version != version])


def _generator_states(model: Module) -> list[str]:
    return [str(generator.bit_generator.state) for _, generator in model.named_generators()]


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
        weakref.finalize(self, cublas.release, self.stream.ptr)

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
