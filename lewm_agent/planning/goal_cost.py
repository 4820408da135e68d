"""What a plan costs: the distance of its imagined latents from the goal's latent."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lewm_agent.planning.settings import GoalCost

LatentCost = Callable[[Tensor, Tensor], Tensor]
"""Imagined latents (N, S, P, D) and goals (N, D) to costs (N, S)."""

ARRIVAL_TIE_BREAK = 1e-3
"""Weight of the mean distance in cost ``best``: among plans that get equally close, the earlier one wins."""


def goal_cost(latents: Tensor, goal: Tensor, kind: GoalCost, metric: Tensor | None = None) -> Tensor:
    """Cost of S imagined futures for each of N goals.

    Args:
        latents: (N, S, P, D), the latent after each action block.
        goal: (N, D).
        kind: ``terminal`` is the paper's (arXiv 2603.19312, equation 4): the last latent only. ``best`` takes the
            closest of the P latents, which suits frequent replanning: with ``terminal`` each new plan may again put
            off its arrival to its last step. ``sum`` adds all P distances.
        metric: (D, D), in whose units latents are measured; None for their own.

    Returns:
        (N, S): squared Euclidean distances, summed over D.
    """
    if metric is not None:
        latents, goal = latents @ metric, goal @ metric
    distance = (latents - goal[:, None, None]).square().sum(-1)
    if kind == "terminal":
        return distance[..., -1]
    if kind == "best":
        return distance.amin(-1) + ARRIVAL_TIE_BREAK * distance.mean(-1)
    return distance.sum(-1)
