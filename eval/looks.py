"""Changed looks of the worlds, for protocol ``varied``: what is drawn in other colors moves and counts as before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.envs import CubeFactors, PushTFactors, ReacherFactors, TwoRoomFactors
from lewm_agent.envs.factors import Factors

MOST_CHANGE = 60
"""Largest change of a color's channel, of 255; chosen by eye."""
LEAST_CONTRAST = 0.5
"""Two colors of a picture stay at least this share of their distance apart, so that all is still told apart."""


@dataclass(frozen=True)
class Look:
    """What of a world's picture can change without a change of its physics or goals.

    Attributes:
        factors: of the world; all its colors change.
        sizes: lowest and highest value of sizes that are only drawn.
    """

    factors: type[Factors]
    sizes: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def draw(self, rng: np.random.Generator, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Draw factors for ``reset(options={"factors": ...})``, as JSON has them.

        Every channel of every color changes by a whole number, uniform in [-60, 60], and turns back at 0 and 255 (white
        always gets darker); all are drawn again until every two colors are at least half as far apart as before. Sizes
        are uniform.

        Args:
            rng: what they are drawn with.
            given: factors that the environment is made with.
        """
        usual = self.factors.from_given(given)
        names = [field.name for field in fields(usual) if field.name.endswith("_color")]
        colors = _changed(np.array([getattr(usual, name) for name in names]), rng)
        sizes = {name: float(rng.uniform(*bounds)) for name, bounds in self.sizes.items()}
        return {**dict(zip(names, colors.tolist(), strict=True)), **sizes}


LOOKS: dict[str, Look] = {
    "lewm/Cube-v0": Look(CubeFactors),
    "lewm/PushT-v0": Look(PushTFactors),
    "lewm/Reacher-v0": Look(ReacherFactors, {"arm_radius": (0.015, 0.025)}),
    "lewm/TwoRoom-v0": Look(TwoRoomFactors),
}
"""By Gymnasium id. In Two-Room the agent's radius is left alone: it decides what the agent collides with."""


def _changed(colors: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Other colors (N, 3) that keep their contrasts."""
    while True:
        change = rng.integers(-MOST_CHANGE, MOST_CHANGE, size=colors.shape, endpoint=True)
        changed: NDArray[np.int64] = 255 - np.abs(255 - np.abs(colors + change))
        if (_contrasts(changed) >= LEAST_CONTRAST * _contrasts(colors)).all():
            return changed


def _contrasts(colors: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distances (N, N) between colors (N, 3)."""
    distances: NDArray[np.float64] = np.linalg.norm(colors[:, None] - colors, axis=-1)
    return distances
