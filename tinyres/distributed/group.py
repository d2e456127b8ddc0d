"""What the processes of one training run do together.

Every process holds the same weights, computes the gradient of its shard of each batch, and moves the weights
by the average of all gradients: the steps are those of one process with the whole batch, up to rounding.
Averaged as well are constants that a step has replaced, such as running means of batch normalization. Random
numbers, such as the masks of dropout, differ in each process, as if one process had drawn them for the whole
batch; the generators themselves stay equal, so that any process's can be saved.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..backend import Array, xp_of
from ..module import Module
from ..support.generators import state_of, stream_of_process, words
from ..tensor import Tensor


class Group:
    """The processes of one run. rank: the number of this process, from 0 to size - 1.

    This class is a group of one; forked.py and mpi.py have groups of several.
    """

    rank, size = 0, 1

    @property
    def shard(self) -> slice:
        """The part of a batch or split that this process takes: every size-th image, from its rank on."""
        return slice(self.rank, None, self.size)

    def broadcast(self, arrays: Sequence[Array]) -> None:
        """Give every process the values of process 0, in place."""

    def all_reduce_mean(self, arrays: Sequence[Array]) -> None:
        """Replace each array with its average over the processes, in place. Raises ValueError if they do not
        all give equally many numbers."""

    def all_reduce_sum(self, *numbers: float) -> Sequence[float]:
        """Each number, added up over the processes."""
        return numbers


SINGLE_PROCESS = Group()


def check_batch(batch_size: int, processes: int) -> None:
    """Raise ValueError unless the processes can have equal shards of every batch."""
    if batch_size % processes:
        raise ValueError(f"batch_size {batch_size} must be a multiple of {processes}, the number of "
                         "processes")


def count_numbers(group: Group, arrays: Sequence[Array]) -> int:
    """How many numbers there are in arrays that all processes give.

    Raises ValueError unless all give as many: numbers of different arrays would be added up.
    """
    numbers = sum(array.size for array in arrays)
    total = group.all_reduce_sum(numbers)[0]
    if total != group.size * numbers:
        raise ValueError(f"process {group.rank} averages {numbers:,} numbers, all {group.size} together "
                         f"{total:,.0f}: every process must give the same arrays (training_step takes zeros "
                         "for a parameter that has no gradient in some)")
    return numbers


def spread(flat: Array, arrays: Sequence[Array]) -> None:
    """Write the numbers of a flat array into arrays, in order: `concatenate` undone."""
    start = 0
    for array in arrays:
        array[...] = flat[start:start + array.size].reshape(array.shape)
        start += array.size


# One step of a network of which every process holds a replica


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
