"""What conversion asks of a foreign dataset."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
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
        """Columns of one episode: ``pixels`` (N, H, W, 3) uint8, ``action`` (N, A) float32, others numeric."""


def imported(module: str, purpose: str, advice: str) -> Any:
    """Import an optional library. Raises ``ImportError`` with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {module.split('.')[0]} ({error}): {advice}") from error


def chosen_frames(candidates: Sequence[str], wanted: str | None, place: str) -> str:
    """Which of the columns with pictures to take. Raises ``ValueError`` if that is not clear."""
    if wanted is None and "pixels" in candidates:
        return "pixels"
    if wanted is None and len(candidates) == 1:
        return candidates[0]
    if wanted in candidates:
        return str(wanted)
    if not candidates:
        raise ValueError(f"{place} has no column of RGB frames")
    asked = "say which" if wanted is None else f"it has no frames {wanted!r}"
    raise ValueError(f"{place} has frames {', '.join(candidates)}: {asked}")


def with_last_row(actions: NDArray[Any], rows: int) -> NDArray[np.float32]:
    """Actions (n, A) or (n,) as (rows, A) float32, NaN where no action follows the last frame."""
    flat = np.asarray(actions, np.float32).reshape(len(actions), -1)
    missing = np.full((rows - len(flat), flat.shape[1]), np.nan, np.float32)
    return np.concatenate([flat, missing])
