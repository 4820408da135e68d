"""The processes that train one model together, one on each device: which am I, what do all have, do all agree.

Whether there are several is asked at every call. Without others, and within :func:`alone`, a process is rank 0 of 1,
and nothing here costs anything. Numbers and objects go through a group of their own on the processors, in which one may
wait for as long as another works; tensors of a gradient go from device to device (:func:`mean`).
"""

from __future__ import annotations

import contextlib
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

ValueT = TypeVar("ValueT")

PATIENCE = timedelta(days=1)
"""How long a rank waits while another reads, fits or writes; that one has died is seen at once."""


class _Company:
    """The group of all ranks, for every thread of this process: gradients on a GPU are computed in others."""

    group: Any = None


class EndedElsewhereError(SystemExit):
    """Another rank tells why all of them end; this one does so without a word."""

    def __init__(self) -> None:
        super().__init__(2)


class LostRankError(RuntimeError):
    """Another rank has ended in the middle of what all do together."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within the block, the processes of torch's process group, which has been set up, work together."""
    _Company.group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        _Company.group = None


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within the block, this process works as if there were no others."""
    others, _Company.group = _Company.group, None
    try:
        yield
    finally:
        _Company.group = others


def count() -> int:
    """How many ranks work together."""
    return 1 if _Company.group is None else torch.distributed.get_world_size()


def rank() -> int:
    """Number of this one, from 0."""
    return 0 if _Company.group is None else torch.distributed.get_rank()


def is_first() -> bool:
    """Whether this is the one that writes, and tells."""
    return rank() == 0


def share(size: int) -> slice:
    """Which of ``size`` rows are this rank's; ``size`` is a multiple of :func:`count`."""
    each = size // count()
    return slice(rank() * each, (rank() + 1) * each)


def mean(values: Tensor) -> Tensor:
    """Mean over the ranks of a tensor on their devices, without gradient; the same on all, to the bit."""
    if count() == 1:
        return values
    summed = values.detach().clone()
    with lost_told():
        torch.distributed.all_reduce(summed)
    return summed / count()


def totals(numbers: Sequence[float]) -> list[float]:
    """Sums over the ranks."""
    if count() == 1:
        return list(numbers)
    summed = torch.tensor(numbers, dtype=torch.float64)
    with lost_told():
        torch.distributed.all_reduce(summed, group=_Company.group)
    return summed.tolist()


def means(numbers: Sequence[float]) -> list[float]:
    """Means over the ranks."""
    return [number / count() for number in totals(numbers)]


def gathered(rows: Tensor) -> Tensor:
    """Rows of all ranks (n, ...), one rank's after the other's, on the processor: (count * n, ...)."""
    if count() == 1:
        return rows
    own = rows.detach().cpu().contiguous()
    every = [torch.empty_like(own) for _ in range(count())]
    with lost_told():
        torch.distributed.all_gather(every, own, group=_Company.group)
    return torch.cat(every)


def all_have(value: ValueT) -> list[ValueT]:
    """What each rank gives, in their order."""
    if count() == 1:
        return [value]
    every: list[Any] = [None] * count()
    with lost_told():
        torch.distributed.all_gather_object(every, value, group=_Company.group)
    return every


def from_first(compute: Callable[[], ValueT]) -> ValueT:
    """What rank 0 computes, alone, for all of them; where that fails, all end."""
    if count() == 1:
        return compute()
    box: list[Any] = [None]
    with agreed():
        if is_first():
            with alone():
                box = [compute()]
    with lost_told():
        torch.distributed.broadcast_object_list(box, 0, group=_Company.group)
    found: ValueT = box[0]
    return found


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Go on after the block only if it went well on every rank; nothing in it may wait for the others.

    Raises:
        EndedElsewhereError: it failed elsewhere; the lowest rank where it did raises its own error.
    """
    if count() == 1:
        yield
        return
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
    failed = [number for number, one in enumerate(all_have(error is not None)) if one]
    if not failed:
        return
    if error is not None and failed[0] == rank():
        raise error
    raise EndedElsewhereError


@contextlib.contextmanager
def first_warns() -> Iterator[None]:
    """Have warnings of all ranks but the first go unsaid."""
    with warnings.catch_warnings():
        if not is_first():
            warnings.simplefilter("ignore")
        yield


def raise_everywhere(error: BaseException) -> NoReturn:
    """Raise what all ranks come to alike, so that one tells it."""
    raise error if is_first() else EndedElsewhereError()


def host() -> str:
    """Name of this machine."""
    return socket.gethostname()


@contextlib.contextmanager
def lost_told() -> Iterator[None]:
    """Have what torch says of a lost connection be one sentence."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise LostRankError("another rank has ended, and this one with it") from error
        raise
