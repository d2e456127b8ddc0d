"""One training run in several processes: forked on one machine (forked.py), or started by MPI (mpi.py). Read
group.py first: it says what the processes do together."""
from .group import SINGLE_PROCESS, Group, check_batch, make_equal, replicas
from .mpi import MPIGroup, NCCLGroup, abort, start

__all__ = ["SINGLE_PROCESS", "Group", "MPIGroup", "NCCLGroup", "abort", "check_batch", "make_equal",
           "replicas", "start"]
