"""What the processes of one training run do together.

Every process holds the same weights, computes the gradient of its shard of each batch, and moves the weights
by the average of all gradients: the steps are those of one process with the whole batch, up to rounding.
"""
from __future__ import annotations

from collections.abc import Sequence

from ..backend import Array


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
    """How many numbers there are in arrays that all processes give. Raises ValueError unless all have as many:
    otherwise numbers of different arrays would be added up."""
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
