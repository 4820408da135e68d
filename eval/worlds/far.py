"""How far apart start and goal are in protocol ``far``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FARTHER = (2.0, 4.0)
"""Least and greatest separation, in medians of the shipped ``moderate`` pairs of the same world."""


def is_far(separations: NDArray[np.float64], median: float) -> NDArray[np.bool_]:
    """Which separations of start and goal are 2 to 4 times the median of ``moderate``, both in the world's unit."""
    far: NDArray[np.bool_] = (separations >= FARTHER[0] * median) & (separations <= FARTHER[1] * median)
    return far
