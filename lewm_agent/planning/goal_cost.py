"""What a plan costs: the distance of its imagined latents from the goal's latent."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lewm_agent.planning.settings import GoalCost

LatentCost = Callable[[Tensor, Tensor], Tensor]
"""Imagined latents (N, S, P, D) and goals (N, D) to costs (N, S)."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""Latents (..., D) and goals (..., D), whose shapes are broadcast, to how far apart they are (...)."""

ARRIVAL_TIE_BREAK = 1e-3
"""Weight of the mean distance in cost ``best``: among plans that get equally close, the earlier one wins."""


def squared_distance(metric: Tensor | None) -> Distance:
    """Squared Euclidean distance, in the units of a metric (D, D); None for the latents' own."""

    def distance(latents: Tensor, goals: Tensor) -> Tensor:
        if metric is not None:
            latents, goals = latents @ metric, goals @ metric
        return (latents - goals).square().sum(-1)

    return distance


def goal_cost(latents: Tensor, goal: Tensor, kind: GoalCost, apart: Distance | None = None) -> Tensor:
    """Cost of S imagined futures for each of N goals.

    Args:
        latents: (N, S, P, D), the latent after each action block.
        goal: (N, D).
        kind: ``terminal`` is the paper's (arXiv 2603.19312, equation 4): the last latent only. ``best`` takes the
            closest of the P latents, which suits frequent replanning: with ``terminal`` each new plan may again put
            off its arrival to its last step. ``sum`` adds all P distances.
        apart: the distance; None for the squared Euclidean one.

    Returns:
        (N, S).
    """
    distance = (apart or squared_distance(None))(latents, goal[:, None, None])
    if kind == "terminal":
        return distance[..., -1]
    if kind == "best":
        return distance.amin(-1) + ARRIVAL_TIE_BREAK * distance.mean(-1)
    return distance.sum(-1)
