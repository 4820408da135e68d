"""An agent that gathers data: with a policy of others, or by attempts of its own."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lewm_agent.acting_agent import ActingAgent, ConfigT, ModelT
from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.attempts.playing import AttemptSettings
from lewm_agent.datasets import Clips, OfflineDataset
from lewm_agent.datasets.collection import collect
from lewm_agent.datasets.gathering import MakeEnv, MakePolicy
from lewm_agent.datasets.mixed import parts_of
from lewm_agent.evaluation.goals import TASK, Goals, RecordedGoals, goals_from
from lewm_agent.evaluation.success import Judge, Success, success_of
from lewm_agent.stored_agent import StoredAgent
from lewm_agent.tools.checks import require, whole_number
from lewm_agent.tools.cluster import Cluster
from lewm_agent.tools.precision import one_thread

SELF = "self"
"""Policy by which an agent acts itself."""


class CollectingAgent(StoredAgent[ConfigT, ModelT]):
    """An agent that gathers data, and knows which of them it has learned from; arguments as for ``ActingAgent``."""

    def collect(
        self,
        path: str | Path,
        policy: Any = "expert",
        episodes: int = 1000,
        *,
        goals: Any = None,
        success: str | Judge | Success | None = None,
        offset: int = 25,
        budget: int | None = None,
        noise: float = 0.0,
        num_envs: int = 1,
        frame_interval: int = 1,
        families: int | None = None,
        seed: int | None = None,
        overwrite: bool = False,
        progress: bool = True,
        cluster: Cluster | None = None,
    ) -> OfflineDataset:
        """Gather episodes of a behavior policy; an interrupted collection continues where it stopped.

        Attempts, those of policy ``self`` or of another agent, begin at a start and end at their goal or with the
        budget. ``metadata.json`` tells which model has made them, towards what and how many reached their goals; column
        ``goal_reached`` tells it of every row.

        Args:
            path: folder of the dataset.
            policy: ``expert``, ``random``, ``self`` for the agent's own attempts, another agent, a Stable-Baselines3
                model or a path to one, a callable ``(observation, info) -> action``, or a class of policies with
                ``reset(seed)``, which is made with the environment that is acted in.
            episodes: how many in all.
            goals: of attempts, as for :meth:`evaluate`: by default ``task``, the environment's own; of a dataset no
                episodes are drawn from that training holds out.
            success: of attempts, when a goal is reached, as for :meth:`evaluate`.
            offset: steps from start to goal of attempts, where a dataset has them.
            budget: steps of an attempt, as for :meth:`evaluate`.
            noise: of attempts, what is added to every action: its standard deviation, from 0 to 1 of half the range; of
                choices, how often another one is taken at random.
            num_envs: processes that gather at the same time; the data do not depend on it.
            frame_interval: record the frame of every so many steps only; the model's ``frame_skip`` must be a multiple.
            families: let episodes begin in so many ways only, of which training and held-out ones share none.
            seed: the agent's by default.
            overwrite: replace the dataset in the folder; it stays until its successor is whole.
            progress: show a progress bar.
            cluster: has jobs gather, with ``num_envs`` processes each; the data do not depend on it either.

        Raises:
            ValueError: arguments that do not fit, another request's dataset in the folder, an agent that has learned
                nothing or acts in other spaces, or an environment that cannot be brought to goals; the message says
                what, and what to do.
        """
        seed = whole_number("seed", self.seed if seed is None else seed)
        acting = self if isinstance(policy, str) and policy == SELF else policy
        settings = None
        if isinstance(acting, ActingAgent):
            self._check_can_attempt(acting)
            settings = AttemptSettings(
                self._goals_to_attempt(goals, offset), None if success is None else success_of(success), budget, noise
            )
        elif goals is not None or success is not None or budget is not None or noise:
            raise ValueError("goals, success, budget and noise are of attempts: give policy='self' (--policy self)")
        alone = num_envs == 1 and cluster is None
        with self._gathering(acting, settings, path, alone) as (make_env, make_policy):
            return collect(
                path,
                make_env,
                make_policy,
                episodes,
                seed=seed,
                num_envs=num_envs,
                frame_interval=frame_interval,
                families=families,
                environment_id=self.description.environment or "unregistered",
                environment_kwargs=self.description.environment_kwargs,
                policy=_name_of(acting),
                overwrite=overwrite,
                progress=progress,
                cluster=cluster,
                attempts=None if settings is None else settings.told(acting),
            )

    @contextlib.contextmanager
    def _gathering(
        self, acting: Any, settings: AttemptSettings | None, path: str | Path, alone: bool
    ) -> Iterator[tuple[MakeEnv, MakePolicy]]:
        """What makes environment and policy within the block; other processes load an agent from a folder."""
        make = self._environment_factory()
        if settings is None:
            yield make, functools.partial(behavior_policy, acting)
        elif alone:
            with one_thread():  # as the processes have: results of several differ in the last bits
                yield settings.environment(make), settings.policy(lambda: acting)
        else:
            beside = Path(path).absolute().parent  # jobs on other machines see it too
            beside.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f"{Path(path).name}.model-", dir=beside) as folder:
                yield settings.environment(make), settings.policy(acting.loader(folder))

    def _check_can_attempt(self, acting: ActingAgent[Any, Any]) -> None:
        """Raise ``ValueError`` unless an agent has learned to act in this one's environment."""
        require(
            acting.description.learned,
            "an agent that has learned nothing has no attempts worth recording: collect with policy random or expert, "
            "and learn, first",
        )
        ours, theirs = (
            (agent.description.action_low, agent.description.action_high, agent.config.model.discrete_actions)
            for agent in (self, acting)
        )
        require(
            ours == theirs,
            f"the agent that is to act has learned actions from {theirs[0]} to {theirs[1]}, and this environment's are "
            f"from {ours[0]} to {ours[1]}: give an agent of this environment",
        )

    def _goals_to_attempt(self, given: Any, offset: int) -> Goals:
        source = goals_from(TASK if given is None else given, offset)
        if isinstance(source, RecordedGoals) and source.episodes is None:
            return RecordedGoals(source.dataset, source.offset, self.to_train_on(source.dataset))
        return source

    def loader(self, folder: str) -> Callable[[], Self]:
        """What gives another process its own copy of this agent, saved in a folder; picklable."""
        return functools.partial(type(self).from_pretrained, self.save_pretrained(folder), device="cpu")

    # --- which data it has seen --------------------------------------------------------------------------------------

    @abstractmethod
    def make_clips(self, dataset: OfflineDataset, episodes: NDArray[np.int64]) -> Clips:
        """What the model is trained on."""

    def unseen_episodes(self, dataset: OfflineDataset) -> NDArray[np.int64]:
        """Indices (n,) of the episodes that training has not seen: all of a dataset that it was not made from."""
        parts = parts_of(dataset)
        before = np.cumsum([0, *(part.num_episodes for part in parts)])
        return np.concatenate([self._unseen(part) + first for part, first in zip(parts, before[:-1], strict=True)])

    def to_train_on(self, dataset: OfflineDataset) -> NDArray[np.int64]:
        """Indices (n,) of the episodes that training has seen or, of a dataset that it was not made from, would see."""
        unseen = self.unseen_episodes(dataset)
        if len(unseen) < dataset.num_episodes:
            return np.setdiff1d(np.arange(dataset.num_episodes), unseen)
        return dataset.split(self.config.training.held_out_fraction, self.seed)[0]

    def _unseen(self, dataset: OfflineDataset) -> NDArray[np.int64]:
        everything = unseen = np.arange(dataset.num_episodes)
        for record in self.description.training.chain() if self.description.training else ():
            seen = record.episodes_of(dataset)
            if seen:
                used = self.make_clips(dataset, everything[:seen]).episodes
                _, held_out = dataset.split(self.config.training.held_out_fraction, record.seed, used)
                unseen = np.intersect1d(unseen, np.concatenate([held_out, everything[seen:]]))
        return unseen


def _name_of(policy: Any) -> str:
    if isinstance(policy, ActingAgent):
        return f"{SELF} {policy.weights_sha256()[:12]}"
    return str(policy) if isinstance(policy, str | Path) else getattr(policy, "__qualname__", type(policy).__name__)
