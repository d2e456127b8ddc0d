"""One training run in several processes that mpirun started, each with a device of its own.

    mpirun -n 4 python run_cifar.py --distributed

MPI (through mpi4py) finds the processes and adds up numbers on CPUs; on GPUs NCCL (through
`cupyx.distributed`) adds up gradients.
"""
from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import numpy

from .. import backend
from ..backend import Array
from .group import Group, count_numbers, spread


class MPIGroup(Group):
    """Processes started by mpirun. Every process must make the same calls in the same order."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()

    def broadcast(self, arrays: Sequence[Array]) -> None:
        for array in arrays:
            values = numpy.ascontiguousarray(backend.to_numpy(array))
            self.comm.Bcast(values)
            array[...] = backend.xp_of(array).asarray(values)

    def all_reduce_mean(self, arrays: Sequence[Array]) -> None:
        """As one flat array: a message for each array would be a hundred, most of them small."""
        if count_numbers(self, arrays):
            flat = backend.xp_of(arrays[0]).concatenate([array.reshape(-1) for array in arrays])
            self.add_up(flat)
            flat /= self.size
            spread(flat, arrays)

    def add_up(self, array: Array) -> None:
        """Replace an array with its sum over the processes, in place."""
        from mpi4py import MPI
        self.comm.Allreduce(MPI.IN_PLACE, array)

    def all_reduce_sum(self, *numbers: float) -> Sequence[float]:
        total = numpy.array(numbers, float)
        MPIGroup.add_up(self, total)
        return total.tolist()


class NCCLGroup(MPIGroup):
    """The same where each process has a GPU: gradients travel between GPUs without passing through a CPU."""

    def __init__(self, comm: Any) -> None:
        super().__init__(comm)
        from cupyx.distributed import init_process_group
        self.nccl = init_process_group(self.size, self.rank, use_mpi=True)

    def add_up(self, array: Array) -> None:
        self.nccl.all_reduce(array, array)


def start(backend_name: str) -> Group:
    """Join the processes that mpirun started, one per device, and choose the array library.

    backend_name: as for `backend.use`. Call it once in each process, before CuPy is first used.
    On a machine with several GPUs each process takes one, in order. From here on only process 0 prints, and
    an error that ends one process ends all of them.
    Raises RuntimeError if mpi4py or NCCL is missing, if a machine has fewer GPUs than processes, or if the
    processes would not use the same library.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(f"several processes need MPI and its package mpi4py ({error}): install an MPI "
                           "library, then pip install -e '.[mpi]'") from error
    comm = MPI.COMM_WORLD
    local_rank = comm.Split_type(MPI.COMM_TYPE_SHARED).Get_rank()  # among those on this machine
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else None
    if devices and local_rank >= len(devices):
        raise RuntimeError(f"there is no GPU for process {local_rank} of this machine: CUDA_VISIBLE_DEVICES "
                           f"is {visible}; start {len(devices)} processes")
    if visible != "":  # which hides all of them on purpose
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[local_rank] if devices else str(local_rank)
    library = backend.use(backend_name).__name__
    if len(set(libraries := comm.allgather(library))) > 1:
        raise RuntimeError(f"the processes use {libraries}: give --backend numpy, or one GPU to each process")
    sys.excepthook = lambda *error: abort("".join(traceback.format_exception(*error)))
    if comm.Get_rank() > 0:
        sys.stdout = open(os.devnull, "w", errors="replace")
    return MPIGroup(comm) if library == "numpy" else NCCLGroup(comm)


def abort(message: str) -> None:
    """In a run of several processes, print the message and end all of them: they would wait for this one."""
    if MPI := sys.modules.get("mpi4py.MPI"):
        print(message, file=sys.stderr, flush=True)
        MPI.COMM_WORLD.Abort(1)
