"""The processes that share a run: started by torchrun, or by submitit on a cluster, or a single one."""

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Generic, TypeVar

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from percep.errors import UnavailableError
from percep.runs.engine.launch import ElsewhereError, several

T = TypeVar("T")

# A process waits at the end for the slowest; torchrun ends it if another has died.
_PATIENCE = timedelta(days=30)
_WAITING, _EVERY = "waits for the other processes", 0.1
_runs = count()


@dataclass(frozen=True)
class _Value(Generic[T]):
    """What the first process tells the others, None included; they are told None where it has failed."""

    value: T


@dataclass(frozen=True)
class Processes:
    """Which of the processes this is.

    Attributes:
        rank, world: this one's number, and how many there are.
        store: of the counters that all of them see.
    """

    rank: int
    world: int
    store: dist.Store

    def device(self, device: str) -> str:
        """`cuda` is one GPU for each process of a machine."""
        return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and self.world > 1 else device

    def count(self, name: str, more: int = 0) -> int:
        """A counter that all processes share, after something was added to it."""
        with _together():
            return int(self.store.add(name, more))

    def first(self, action: Callable[[], T]) -> T:
        """What an action gives in the first process, which alone does it.

        Raises:
            ElsewhereError: it raised something there; there it is raised itself.
        """
        if self.world == 1:
            return action()
        if self.rank:
            received: list[_Value[T] | None] = [None]
            with _together():
                _await(lambda: dist.broadcast_object_list(received, src=0))
            if received[0] is None:
                raise ElsewhereError("the first process has failed")
            return received[0].value
        try:
            value = action()
        except BaseException:
            dist.broadcast_object_list([None], src=0)
            raise
        dist.broadcast_object_list([_Value(value)], src=0)
        return value

    def in_turn(self, action: Callable[[], T]) -> T:
        """What an action gives in each process, after it has succeeded in the first: what it downloads is there then.

        Raises:
            ElsewhereError: it raised something in the first; there it is raised itself.
        """
        found: list[T] = []
        self.first(lambda: found.append(action()))
        return found[0] if found else action()

    def gather(self, value: T) -> list[T]:
        """The values of all processes, once each has got here."""
        if self.world == 1:
            return [value]
        found = [value] * self.world
        with _together():
            _await(lambda: dist.all_gather_object(found, value))
        return found


def join(device: str) -> Processes:
    """Joins the other processes of the run, if there are any; `device` is the configuration's.

    The little that they tell each other goes through gloo, whose group has NCCL beside it on GPUs.
    """
    if not several() or "RANK" not in os.environ:
        return Processes(0, 1, dist.HashStore())
    store, rank, world = _await(lambda: _group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"))
    return Processes(rank, world, dist.PrefixStore(f"run{next(_runs)}", store))


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo, when the other side of a connection is gone
        raise UnavailableError("another process has died: run the same command again, which continues") from error


def _await(meeting: Callable[[], T]) -> T:
    """Meets the other processes, however late they come, in a thread: a signal ends this one while it waits.

    Python handles signals between two steps of its own, and gloo waits outside of Python.
    """
    returned: list[T] = []
    raised: list[Exception] = []

    def meet() -> None:
        try:
            returned.append(meeting())
        except Exception as error:
            raised.append(error)

    waiting = threading.Thread(target=meet, name=_WAITING, daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(_EVERY)
    if raised:
        raise raised[0]
    return returned[0]


@cache
def _group(backend: str) -> tuple[dist.Store, int, int]:
    store, rank, world = next(rendezvous("env://"))
    # After a restart torchrun's store is that of before, with its counters.
    store = dist.PrefixStore(f"start{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    group = dist.PrefixStore("group", store)
    dist.init_process_group(backend, store=group, rank=rank, world_size=world, timeout=_PATIENCE)
    atexit.register(_leave)
    return store, rank, world


def _leave() -> None:
    if any(thread.name == _WAITING for thread in threading.enumerate()):  # it would be waited for
        return
    with suppress(Exception):  # the process ends either way
        dist.destroy_process_group()
