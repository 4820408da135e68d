"""What is asked while a model trains: where it stands is shown to callbacks, and what they answer is written down."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent.datasets import OfflineDataset
from lewm_agent.training.state import other_random_numbers

Told = Mapping[str, float | NDArray[np.uint8]]
"""Numbers and pictures (H, W, 3) by name."""


@dataclass(frozen=True)
class Moment:
    """Where a training stands.

    Attributes:
        step: optimisation steps taken.
        stop: steps there will be.
        agent: acts with the present weights, in evaluation state.
        dataset: that it learns from.
        held_out: indices (n,) of the episodes that it does not.
    """

    step: int
    stop: int
    agent: Any
    dataset: OfflineDataset
    held_out: NDArray[np.int64]


class Callback(Protocol):
    """Is asked before the first step, so that what cannot be done fails early, then every so often, and at the end.

    A function will do. With a number ``every`` it is asked after every so many steps, else whenever held-out episodes
    are looked at. The training goes on as if it had not been: weights, batches and random numbers are the same.
    """

    def __call__(self, moment: Moment) -> Told | None:
        """What is to be written down under the callback's name, if anything."""


def name_of(callback: Callback) -> str:
    """Its attribute ``name``, or the name of the function or class."""
    given = getattr(callback, "name", None) or getattr(callback, "__name__", type(callback).__name__)
    return str(given)


def check(callbacks: Sequence[Callback]) -> None:
    """Raise ``ValueError`` for a wrong ``every``, or for two callbacks of one name."""
    for callback in callbacks:
        every = getattr(callback, "every", None)
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"callback {name_of(callback)}: every must be a number of steps, got {every!r}")
    names = [*map(name_of, callbacks), "train", "held_out"]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two callbacks are called {twice[0]!r}: give them names of their own (name=...)")


def answer(callback: Callback, moment: Moment) -> Told:
    """What a callback tells. Raises ``TypeError`` unless that can be written down."""
    told: Any = callback(moment)
    if told is None:
        return {}
    if not isinstance(told, Mapping) or not all(isinstance(key, str) and _shown(told[key]) for key in told):
        raise TypeError(
            f"callback {name_of(callback)} must return numbers and pictures (H, W, 3) of uint8 by name, or nothing; "
            f"it returned {told!r}"
        )
    return told


def _shown(value: Any) -> bool:
    """Whether it is a number or a picture."""
    if isinstance(value, np.ndarray) and value.ndim:
        return value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3
    return hasattr(value, "__float__") and getattr(value, "ndim", 0) == 0


def due(callbacks: Sequence[Callback], step: int, look: bool, last: bool) -> list[Callback]:
    """Who is to be asked after a step; ``look``: held-out episodes are looked at."""

    def is_due(every: int | None) -> bool:
        return last or (look if every is None else step % every == 0)

    return [callback for callback in callbacks if is_due(getattr(callback, "every", None))]


@contextlib.contextmanager
def nothing_drawn(device: torch.device) -> Iterator[None]:
    """Global random numbers go on after the block as if it had not been; inside they are always the same."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        with other_random_numbers(0, device):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
