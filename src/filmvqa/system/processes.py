"""The processes that torchrun started for one command: this one's rank, and their communication.

A process is alone until it joins the others. Until then nothing here communicates, or imports
torch. All processes of a command must call communicating functions in the same order.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

#: How long a process waits for another, which may be preparing data or saving. A process that ended
#: is noticed at once, since its connections close.
PATIENCE = timedelta(hours=2)
#: Parts of gloo's and NCCL's messages when a process that they wait for has ended.
_LOST = re.compile(r"gloo/|Connection (closed|reset)|Broken pipe|NCCL|ncclRemoteError|TCPStore")


@dataclass
class _Place:
    """A process's rank and the number of processes, on all nodes and on its own node."""

    rank: int = 0
    count: int = 1
    rank_on_node: int = 0
    count_on_node: int = 1
    store: Any = None


_PLACE = _Place()


def are_several() -> bool:
    """Whether torchrun started several processes of this program."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names) and int(os.environ["WORLD_SIZE"]) > 1


def join() -> None:
    """Connect the processes that torchrun started, by gloo for tensors on the host and NCCL for
    those on GPUs. Does nothing in a process that is alone or has already joined."""
    if not are_several() or count() > 1:
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, world_size = next(rendezvous("env://", timeout=PATIENCE))
    # torchrun's store outlives the processes, and keeps the addresses of those that it replaced.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.distributed_c10d.PrefixStore(f"filmvqa/{attempt}", store)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=PATIENCE
    )
    _PLACE.rank, _PLACE.count = rank, world_size
    _PLACE.rank_on_node = int(os.environ["LOCAL_RANK"])
    _PLACE.store = store
    count_here = os.environ.get("LOCAL_WORLD_SIZE")  # torchrun sets it, other launchers do not
    _PLACE.count_on_node = int(count_here or gathered(platform.node()).count(platform.node()))


def end_together() -> None:
    """End this process with status 0 once all processes are here. Does nothing if it is alone."""
    if count() > 1:
        gathered(None)
        end(0)


def end(status: int) -> NoReturn:
    """End this process, which has joined others, without the interpreter's cleanup.

    The cleanup would wait for messages to the others, and destroy gloo's threads while they run: in
    6 of 50 short runs of two processes it aborted one of them, and torchrun then reported that a
    finished run had failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def count() -> int:
    """The number of the command's processes, on all nodes."""
    return _PLACE.count


def rank() -> int:
    """The number of this process among them, from 0."""
    return _PLACE.rank


def is_first() -> bool:
    """Whether this is the process that writes, prints and decides."""
    return _PLACE.rank == 0


def count_on_node() -> int:
    """The number of the command's processes on this machine."""
    return _PLACE.count_on_node


def rank_on_node() -> int:
    """The number of this process among those of this machine, from 0."""
    return _PLACE.rank_on_node


def part_of(length: int) -> slice:
    """This process's part of a sequence; the parts' lengths differ by at most one."""
    return slice(length * rank() // count(), length * (rank() + 1) // count())


def from_first(value: Any) -> Any:
    """The first process's value, which must be picklable, in every process."""
    if count() == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gathered(value: Any) -> list[Any]:
    """The values of all processes, which must be picklable, by rank."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def gathered_on_node(value: Any) -> list[Any]:
    """The values of this machine's processes, by rank. All processes must call it."""
    first = rank() - rank_on_node()
    return gathered(value)[first : first + count_on_node()]


class Vote:
    """Flags that any process may set for all, without waiting: each call returns the result of the
    previous one. A process that is alone gets its own flags at once."""

    def __init__(self) -> None:
        self._values: Tensor | None = None
        self._work: Any = None

    def exchange(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any process set it in the previous call."""
        if count() == 1:
            return flags
        import torch
        import torch.distributed as dist

        previous = self.close() or (False,) * len(flags)
        self._values = torch.tensor(flags, dtype=torch.uint8)
        self._work = dist.all_reduce(self._values, dist.ReduceOp.MAX, async_op=True)
        return previous

    def close(self) -> tuple[bool, ...] | None:
        """Wait for the exchange under way, and return its result; None if there is none."""
        if self._work is None or self._values is None:
            return None
        self._work.wait()
        self._work = None
        return tuple(map(bool, self._values.tolist()))


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over all processes, and return it."""
    if count() > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)
    return tensor


def tensors_of_all(tensor: Tensor) -> Tensor:
    """The tensors of all processes, of one shape, stacked by rank."""
    if count() == 1:
        return tensor[None]
    import torch.distributed as dist

    stacked = tensor.new_empty((count(), *tensor.shape))
    dist.all_gather(list(stacked.unbind()), tensor.contiguous())
    return stacked


def send_to_first(tensor: Tensor) -> Any:
    """Start sending a tensor on the host to the first process; returns a handle with ``wait``."""
    import torch.distributed as dist

    return dist.isend(tensor, 0)


def receive(tensor: Tensor, sender: int) -> Tensor:
    """Fill a tensor on the host with the one that a process sends, and return it."""
    import torch.distributed as dist

    dist.recv(tensor, sender)
    return tensor


def is_lost_process(error: BaseException) -> bool:
    """Whether an error, or its context, says that another process of the command has ended. At the
    same time torchrun interrupts the remaining processes."""
    if count() == 1:
        return False
    context = error.__context__
    is_lost = isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
    return is_lost or (context is not None and is_lost_process(context))


def is_first_to_fail() -> bool:
    """Whether no other process has called this before, so that only one reports the failure."""
    if _PLACE.store is None:
        return True
    try:
        return bool(_PLACE.store.add("failed", 1) == 1)
    except RuntimeError:  # the store ended with another process
        return True
