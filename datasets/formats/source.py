"""What conversion asks of a foreign dataset."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray


class EpisodeSource(Protocol):
    """Episodes of a foreign dataset in our columns.

    Attributes:
        description: the format and where it came from.
        lengths: rows of each episode.
    """

    description: str
    lengths: list[int]

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """Columns of one episode: ``pixels`` (N, H, W, 3) uint8, ``action`` (N, A) float32, others numeric.

        Conversion checks that, and that N is what ``lengths`` says; it may raise anything.
        """


def imported(module: str, purpose: str, advice: str) -> Any:
    """Import an optional library. Raises ``ImportError`` with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {module.split('.')[0]} ({error}): {advice}") from error


def chosen_frames(candidates: Sequence[str], wanted: str | None, place: str, others: str = "") -> str:
    """Which of the columns with pictures to take; ``others`` says what there is beside them.

    Raises ``ValueError`` if that is not clear.
    """
    if wanted is None and "pixels" in candidates:
        return "pixels"
    if wanted is None and len(candidates) == 1:
        return candidates[0]
    if wanted in candidates:
        return str(wanted)
    if not candidates:
        raise ValueError(f"{place} has no column of frames of uint8{others and f'; it has {others}'}")
    asked = "say which with frames=... (--frames)" if wanted is None else f"it has no frames {wanted!r}"
    raise ValueError(f"{place} has frames {', '.join(candidates)}: {asked}")


def described(columns: Mapping[str, NDArray[Any]]) -> str:
    """Names, types and shapes of columns, for a sentence."""
    return ", ".join(f"{name} {values.dtype} {values.shape[1:]}" for name, values in columns.items())
