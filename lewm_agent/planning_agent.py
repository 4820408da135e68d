"""What agents that plan in a latent space share."""

from __future__ import annotations

import functools
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets import Clips, OfflineDataset
from lewm_agent.improving_agent import ImprovingAgent
from lewm_agent.models.learner import LatentModel
from lewm_agent.planning.controller import Controller
from lewm_agent.planning.fast_rollout import Rollout
from lewm_agent.planning.goal_cost import LatentCost
from lewm_agent.planning.presets import planner_of
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.tools.settings import settings_to_dict
from lewm_agent.training.settings import AgentSettings


class PlanningSettings(AgentSettings, Protocol):
    """A configuration with a planner."""

    @property
    def planner(self) -> PlannerConfig:
        """Search and execution."""


PlanningConfigT = TypeVar("PlanningConfigT", bound=PlanningSettings)
LatentModelT = TypeVar("LatentModelT", bound=LatentModel)


class PlanningAgent(ImprovingAgent[PlanningConfigT, LatentModelT]):
    """An agent that searches for actions whose imagined latents come close to the goal's."""

    _cost: LatentCost | None = None
    _rollout: Rollout | None = None

    @functools.cached_property
    def controller(self) -> Controller:
        """Plans with the present weights and settings. Raises ``ValueError`` if the model is not ready for them."""
        self._check_ready()
        return Controller(self.model, self.config.planner, *self._bounds, self._cost, self._rollout)

    def _check_ready(self) -> None:
        """Raise ``ValueError`` if the planner uses what training has not come to yet."""

    @property
    def planner_settings(self) -> dict[str, Any]:
        """How it plans, ready for JSON."""
        return settings_to_dict(self.config.planner)

    def set_planner(
        self, planner: str | PlannerConfig, cost: LatentCost | None = None, rollout: Rollout | None = None
    ) -> Self:
        """Change how the agent plans.

        Args:
            planner: a preset's name (``small``, ``paper``), with additions (``wide+slow+drawn``, ``+drawn`` for the
                planner that it has), or settings.
            cost: function of imagined latents (N, S, P, latent_dim), one after each action block, and goal latents
                (N, latent_dim) to costs (N, S), instead of the settings' ``cost``; not saved with the agent.
            rollout: finds what candidates lead to, instead of the model (:meth:`LatentModel.rollout`); not saved
                either.
        """
        self._cost, self._rollout = cost, rollout
        own, model = self.config.planner, self.config.model
        self._change(planner=planner_of(planner, own, model) if isinstance(planner, str) else planner)
        self.reset()
        return self

    def make_clips(self, dataset: OfflineDataset, episodes: NDArray[np.int64]) -> Clips:
        """Clips, with goals if the objective wants them."""
        model = self.config.model
        return Clips(dataset, episodes, model.clip_frames, model.frame_skip, self._goal_blocks())

    def _goal_blocks(self) -> int | None:
        """Furthest goal that clips come with, in action blocks after the clip; None for clips without a goal."""
        return None
