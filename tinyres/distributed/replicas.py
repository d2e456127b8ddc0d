"""One step of a network of which every process holds a replica: what keeps the replicas equal.

Gradients are averaged, and so are constants that the step has replaced, such as running means of batch
normalization. Random numbers, such as the masks of dropout, differ in each process, as if one process had
drawn them for the whole batch; the generators themselves stay equal, so that any process's can be saved.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..backend import Array, xp_of
from ..module import Module
from ..support.generators import state_of, stream_of_process, words
from ..tensor import Tensor
from .group import Group


@contextmanager
def replicas(model: Module, parameters: Sequence[Tensor], group: Group) -> Iterator[None]:
    """Within this context each process computes gradients of its shard; after it all hold the same ones.

    parameters: those to be moved. Where the loss of some processes has no gradient for a parameter, theirs
    counts as zero; a spent gradient (Tensor.is_spent) is none.
    """
    if group.size == 1:
        yield
        return
    constants = [tensor for _, tensor in model.named_tensors() if not tensor.requires_grad]
    versions = [constant.version for constant in constants]
    with stream_of_process(group.rank, [generator for _, generator in model.named_generators()]):
        yield
    counts = group.all_reduce_sum(
        *(float(not parameter.is_spent()) for parameter in parameters),
        *(float(constant.version != version) for constant, version in zip(constants, versions, strict=True)))
    arrays = []
    for parameter, count in zip(parameters, counts, strict=False):
        if count and parameter.is_spent():
            parameter.grad = xp_of(parameter.data).zeros_like(parameter.data)
        if count:
            arrays.append(parameter.grad)
    arrays += [constant.data for constant, count in zip(constants, counts[len(parameters):], strict=True)
               if count]
    group.all_reduce_mean(arrays)


def make_equal(model: Module, state: Sequence[Array], group: Group) -> None:
    """Give every process the tensors and generators of process 0's model, and its arrays of other state."""
    generators = [generator for _, generator in model.named_generators()]
    states = [words(generator) for generator in generators]
    group.broadcast([tensor.data for _, tensor in model.named_tensors()] + list(state) + states)
    for generator, saved in zip(generators, states, strict=True):
        generator.bit_generator.state = state_of(generator, "", saved)
