"""Processes that work for another one, and end with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any


def end_with_parent(*lifelines: Connection) -> None:
    """Have this process leave Ctrl-C to its parent, and end when that dies, were it by kill -9.

    Args:
        lifelines: reading ends of pipes; this process also ends when the other end of one is closed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    watched = [*lifelines, *([] if parent is None else [parent.sentinel])]
    threading.Thread(target=_end_when_ready, args=(watched,), daemon=True).start()


@contextlib.contextmanager
def worker_pool(count: int, prepare: Callable[[], None]) -> Iterator[ProcessPoolExecutor]:
    """``count`` processes, in each of which ``prepare`` is called first; picklable.

    When the block fails, or this process dies, they end at once, in the middle of what they do.
    """
    context = multiprocessing.get_context("spawn")
    lifeline, end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, context, _begin, (lifeline, bytes(ForkingPickler.dumps(prepare))))
    try:
        yield pool
    except BaseException:
        end.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        end.close()
        lifeline.close()


def _begin(lifeline: Connection, prepare: bytes) -> None:
    """Watch the parent before ``prepare`` is unpickled: what that imports takes seconds."""
    end_with_parent(lifeline)
    call: Callable[[], Any] = pickle.loads(prepare)
    call()


def _end_when_ready(watched: list[Connection | int]) -> None:
    wait(watched)
    os._exit(1)
