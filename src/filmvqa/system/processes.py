"""The processes that torchrun started for one command: who this one is, and what they tell each
other.

A process is alone until it joins the others: nothing here then communicates, or imports torch. The
processes of a command call what communicates in the same order.
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

#: For which a process waits for another: preparing data, or saving, may take one of them long. One
#: that has ended is noticed at once, since its connections close.
PATIENCE = timedelta(hours=2)
#: In the messages of gloo and NCCL when a process that they wait for has ended.
_LOST = re.compile(r"gloo/|Connection (closed|reset)|Broken pipe|NCCL|ncclRemoteError|TCPStore")


@dataclass
class _Place:
    """A process among those of its command: its number and theirs, on all nodes and on its own."""

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
    """Connect the processes that torchrun started, with gloo for tensors on the host and NCCL for
    those on GPUs; nothing for a process that is alone, or has joined already."""
    if not are_several() or count() > 1:
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, world_size = next(rendezvous("env://", timeout=PATIENCE))
    # torchrun's store outlives the processes, and has the addresses of those that it replaced.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.distributed_c10d.PrefixStore(f"filmvqa/{attempt}", store)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=PATIENCE
    )
    _PLACE.rank, _PLACE.count = rank, world_size
    _PLACE.rank_on_node = int(os.environ["LOCAL_RANK"])
    _PLACE.store = store
    here = os.environ.get("LOCAL_WORLD_SIZE")  # of torchrun, not of other launchers
    _PLACE.count_on_node = int(here or gathered(platform.node()).count(platform.node()))


def end_together() -> None:
    """End this process with status 0 once all have come here; nothing for a process that is
    alone."""
    if count() > 1:
        gathered(None)
        end(0)


def end(status: int) -> NoReturn:
    """End this process, which has joined others, and leave out the interpreter's own end.

    That would wait for what is sent to the others, and destroy gloo's threads while they run: in 6
    of 50 short runs of two processes it aborted one of them, and torchrun then said that a finished
    run had failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def count() -> int:
    """Number of the command's processes, on all nodes."""
    return _PLACE.count


def rank() -> int:
    """Number of this process among them, from 0."""
    return _PLACE.rank


def is_first() -> bool:
    """Whether this is the process that writes, prints and decides."""
    return _PLACE.rank == 0


def count_on_node() -> int:
    """Number of the command's processes on this machine."""
    return _PLACE.count_on_node


def rank_on_node() -> int:
    """Number of this process among those of this machine, from 0."""
    return _PLACE.rank_on_node


def part_of(length: int) -> slice:
    """This process' part of a sequence; the parts differ by one element at most."""
    return slice(length * rank() // count(), length * (rank() + 1) // count())


def from_first(value: Any) -> Any:
    """The first process' value, which can be pickled, in all of them."""
    if count() == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gathered(value: Any) -> list[Any]:
    """The values of all processes, which can be pickled, by rank."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def gathered_on_node(value: Any) -> list[Any]:
    """The values of the processes of this machine, by rank; all processes call it."""
    first = rank() - rank_on_node()
    return gathered(value)[first : first + count_on_node()]


class Vote:
    """Flags that any process sets and all follow, without waiting for each other: what is asked in
    one call is answered in the next, and at once in a process that is alone."""

    def __init__(self) -> None:
        self._values: Tensor | None = None
        self._work: Any = None

    def exchange(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether any process had set it in its last call."""
        if count() == 1:
            return flags
        import torch
        import torch.distributed as dist

        answer = self.close() or (False,) * len(flags)
        self._values = torch.tensor(flags, dtype=torch.uint8)
        self._work = dist.all_reduce(self._values, dist.ReduceOp.MAX, async_op=True)
        return answer

    def close(self) -> tuple[bool, ...] | None:
        """Wait for what is under way, which is forgotten; returns it, None if nothing is."""
        if self._work is None or self._values is None:
            return None
        self._work.wait()
        self._work = None
        return tuple(map(bool, self._values.tolist()))


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Replace a tensor by the sum of those of all processes; returns it."""
    if count() > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)
    return tensor


def tensors_of_all(tensor: Tensor) -> Tensor:
    """The tensors of all processes, which have the same shape, stacked by rank."""
    if count() == 1:
        return tensor[None]
    import torch.distributed as dist

    stacked = tensor.new_empty((count(), *tensor.shape))
    dist.all_gather(list(stacked.unbind()), tensor.contiguous())
    return stacked


def send_to_first(tensor: Tensor) -> Any:
    """Begin to send a tensor on the host to the first process; returns what to ``wait`` for."""
    import torch.distributed as dist

    return dist.isend(tensor, 0)


def receive(tensor: Tensor, sender: int) -> Tensor:
    """Fill a tensor on the host with what a process sends; returns it."""
    import torch.distributed as dist

    dist.recv(tensor, sender)
    return tensor


def is_lost_process(error: BaseException) -> bool:
    """Whether an error, or one in whose handling it was raised, says that another process of the
    command has ended; torchrun interrupts those that are left at the same time."""
    if count() == 1:
        return False
    context = error.__context__
    is_lost = isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
    return is_lost or (context is not None and is_lost_process(context))


def is_first_to_fail() -> bool:
    """Whether no other process has asked this before, so that one of them reports why all end."""
    if _PLACE.store is None:
        return True
    try:
        return bool(_PLACE.store.add("failed", 1) == 1)
    except RuntimeError:  # the store has ended with another process
        return True
