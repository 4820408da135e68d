"""Ctrl-C and SIGTERM, for operations that have something to save first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether somebody asked the operation to stop.

    Outside of :meth:`between_steps` a signal raises ``KeyboardInterrupt`` where it comes; inside, the first one only
    sets ``requested``, and a second raises.
    """

    def __init__(self) -> None:
        self.requested = False
        self._steps = False

    @contextlib.contextmanager
    def between_steps(self) -> Iterator[None]:
        """A stretch that looks at ``requested`` after every step."""
        self._steps = True
        try:
            yield
        finally:
            self._steps = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.requested or not self._steps:
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handle both signals within the block.

    Signals that are ignored stay so. Outside of the main thread, where it cannot be done, nothing is handled.
    """
    interruption = Interruption()
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, interruption.handle)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
