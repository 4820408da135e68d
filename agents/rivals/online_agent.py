"""Agents that learn in their environment, from what they do there."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent.acting_agent import ModelT
from lewm_agent.agents.rivals.frozen import SeeingSettings, with_encoder
from lewm_agent.agents.rivals.online_run import OnlineRun
from lewm_agent.checkpoints.checkpoint import Description
from lewm_agent.datasets import Clips, OfflineDataset
from lewm_agent.environment import Environment
from lewm_agent.improving_agent import ImprovingAgent
from lewm_agent.tools.checks import require, whole_number
from lewm_agent.training.run_folder import RunFolder

ConfigT = TypeVar("ConfigT", bound=SeeingSettings)


class OnlineAgent(ImprovingAgent[ConfigT, ModelT]):
    """An agent that learns by :meth:`learn_online` alone; its model's actions are in [-1, 1], the bounds.

    Args:
        env: as for ``LeWMAgent``.
        config: sizes and training; its model takes the size of its frames from a frozen encoder.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of the initial weights, of training and of whatever is random when it acts.

    Raises:
        CheckpointError: the world model whose encoder is to be taken over cannot be had.
        ValueError: actions that are choices, or no RGB frames.
    """

    def __init__(
        self, env: str | Environment | None, config: ConfigT | Description, *, device: str = "auto", seed: int = 0
    ) -> None:
        known = config if isinstance(config, Description) else with_encoder(config)
        super().__init__(env, known, device=device, seed=seed)
        low, high = (torch.as_tensor(bound, device=self.device) for bound in self._bounds)
        self.model.action_mean.copy_((low + high) / 2)
        self.model.action_std.copy_(((high - low) / 2).clamp(min=1e-6))

    def _described(self, config: ConfigT) -> Description:
        known = super()._described(config)
        require(
            not known.agent.model.discrete_actions,
            f"{known.agent_kind} acts in numbers, and this environment's actions are choices",
        )
        return known

    @abstractmethod
    def online_run(self, folder: RunFolder, *settings: Any) -> OnlineRun[Any]:
        """A training in its environment: steps, seed, environment steps between checkpoints, whether it is shown."""

    def learn_online(
        self,
        output: str | Path,
        steps: int,
        *,
        resume: bool = False,
        seed: int | None = None,
        checkpoint_every: int = 5000,
        progress: bool = True,
    ) -> Self:
        """Learn in the agent's environment, towards the goals that it draws.

        First come episodes of random actions, then one optimisation step for every decision. Checkpoints are written
        where an episode ends; what has been seen lies in ``replay`` in ``output``.

        Args:
            output: folder for ``metrics.jsonl``, ``replay`` and ``checkpoints``.
            steps: of the environment, in all, those before an interruption included; whole episodes are played.
            resume: continue from the newest checkpoint, as if it had never stopped.
            seed: of episodes, exploration and learning; the agent's by default.
            checkpoint_every: environment steps between checkpoints, at least.
            progress: show progress.

        Raises:
            ValueError: the environment lacks what the agent learns from (a reward, a picture of its goal, its state);
                ``output`` is of another run; or the steps ended before anything was learned, and the run can go on.
            FileExistsError: ``output`` holds a run and ``resume`` is false.
            KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint at the end of the episode.
        """
        run = self.online_run(
            RunFolder(output),
            whole_number("steps", steps, 1),
            self.seed if seed is None else whole_number("seed", seed),
            whole_number("checkpoint_every", checkpoint_every, 1),
            progress,
        )
        try:
            run.train(resume)
        finally:
            self._learned(run.record)
        return self

    def learn(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: it learns from what comes of its own actions, which recorded episodes do not show."""
        raise ValueError(
            f"{self.kind} learns in its environment, from rewards of what it does, not from recorded episodes: "
            "learn_online(output, steps) (lewm learn-online)"
        )

    def make_clips(self, dataset: OfflineDataset, episodes: NDArray[np.int64]) -> Clips:
        """Clips as others learn from, which this agent does not."""
        return Clips(dataset, episodes, 2, self.config.model.frame_skip)
