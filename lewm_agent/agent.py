"""LeWMAgent: collect episodes, learn a world model from them, act towards goal images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lewm_agent import environment
from lewm_agent.acting_agent import prepared
from lewm_agent.adapting.adapter import Adapter
from lewm_agent.adapting.teaching import AdaptConfig
from lewm_agent.checkpoints import hub, released, wrappings
from lewm_agent.checkpoints.checkpoint import Description
from lewm_agent.checkpoints.hub import HubOptions
from lewm_agent.checkpoints.model_card import About, search_summary
from lewm_agent.config import AgentConfig, configured
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.mixed import Given, opened
from lewm_agent.environment import Environment
from lewm_agent.models.far_goals import FITTED, FarGoals, FarGoalsConfig
from lewm_agent.models.goal_states import GoalStates
from lewm_agent.models.objectives import registry
from lewm_agent.models.objectives.lewm import ObjectiveConfig
from lewm_agent.models.objectives.slow import SlowPrediction
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.planning_agent import PlanningAgent
from lewm_agent.presets import preset
from lewm_agent.tools.checks import require, whole_number
from lewm_agent.training import far_goals, goal_states, slow_metric
from lewm_agent.training.batches import FinishData
from lewm_agent.training.encoding import Latents, encode_all
from lewm_agent.training.hindsight import HindsightPairs, fit, successful
from lewm_agent.training.run_folder import RunFolder


class LeWMAgent(PlanningAgent[AgentConfig, WorldModel]):
    """A goal-reaching agent around LeWorldModel (arXiv 2603.19312), or around the same model with another objective.

    Args:
        env: short name (``two_room``), Gymnasium id, or any environment with ``render_mode="rgb_array"``, whose actions
            are bounded vectors or discrete choices; frames of another size than the model's are resized. None with a
            description: the one that it names.
        config: name of a preset (``small``, ``paper``), a configuration, whose ``action_dim`` is taken from ``env``, or
            the description of a saved agent, whose weights are then to be loaded.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of the initial weights, of training and of the planner's noise.
        settings: that differ from ``config``'s, by their names where one part has them (``latent_dim=64``), else with
            the part: ``**{"training.batch_size": 32}`` (:func:`lewm_agent.config.configured`).

    Raises:
        ValueError: unknown names, another action space, or no RGB frames.
    """

    config_type = AgentConfig

    def __init__(
        self,
        env: str | Environment | None,
        config: str | AgentConfig | Description = "small",
        *,
        device: str = "auto",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        config = preset(config) if isinstance(config, str) else config
        if settings:
            if isinstance(config, Description):
                raise ValueError("a saved agent has its settings; set_planner changes how it plans")
            config = configured(config, settings)
        super().__init__(env, config, device=device, seed=seed)

    @staticmethod
    def make_model(config: AgentConfig) -> WorldModel:
        """World model and heads."""
        return WorldModel(config.model, config.objective, config.inverse_dynamics)

    @staticmethod
    def kind_of(config: AgentConfig) -> str:
        """Name of the objective."""
        return config.objective.kind

    @classmethod
    def accepts(cls, kind: str) -> bool:
        """Whether there is an objective of that name."""
        return kind in registry.entries()

    @property
    def world_model(self) -> WorldModel:
        """What has been learned."""
        return self.model

    def about(self) -> About:
        """What sets this agent apart, for its model card and for ``lewm info``."""
        model = self.config.model
        sizes = f"patch {model.patch_size}, width {model.encoder_width}"
        traits = {
            "encoder": f"{model.encoder}, {f'{model.masks} masks' if model.of_moments else sizes}",
            "latent": f"{model.latent_dim} numbers per frame",
            "planner": search_summary(self.config.planner),
        }
        if self.model.goal_states is not None:
            traits["goals in numbers"] = _told(self.model.goal_states)
        if self.model.far_goals is not None:
            traits["far goals"] = _far(self.model.far_goals)
        if self.kind == "lewm":
            sentence = "A latent world model (LeWorldModel, arXiv 2603.19312) that reaches goal images by planning."
        else:
            sentence = f"LeWorldModel's encoder and predictor, trained with the objective `{self.kind}`; it plans."
        load = 'from lewm_agent import LeWMAgent\n\nagent = LeWMAgent.from_pretrained("PATH_OR_HUB_ID")'
        return About(sentence, load, traits)

    def _check_ready(self) -> None:
        training = self.description.training
        if self.config.planner.proposals == "none" or training is None or self._head_learns_with_the_rest:
            return
        if not training.finished:
            raise ValueError(
                "the inverse-dynamics head is trained when the rest has been, and this model's training has not ended; "
                "until then, choose a planner that searches from nothing: small"
            )
        if training.inverse_dynamics_error is None:
            raise ValueError(
                "the inverse-dynamics head has not been trained, as the planner at the time used none; with this "
                "planner, learn(dataset, output, resume=True) trains it, and takes no step anew"
            )

    @property
    def _head_learns_with_the_rest(self) -> bool:
        objective = self.config.objective
        return isinstance(objective, ObjectiveConfig) and objective.inverse_weight > 0

    # --- learn -------------------------------------------------------------------------------------------------------

    def _goal_blocks(self) -> int | None:
        return self.config.objective.goal_blocks(self.config.model, self.config.inverse_dynamics)

    def stand_ins(
        self, dataset: OfflineDataset, episodes: NDArray[np.int64], progress: bool
    ) -> NDArray[np.float32] | None:
        """Latents, if the encoder is frozen; an objective that measures errors by them gets their metric."""
        if not self.config.training.frozen_encoder:
            return None
        latents, objective = encode_all(self.world_model, dataset, progress), self.world_model.objective
        if isinstance(objective, SlowPrediction):
            starts, lengths, skip = dataset.episode_starts, dataset.episode_lengths, self.config.model.frame_skip
            paths = [latents[starts[i] : starts[i] + lengths[i] : skip].astype(np.float64) for i in episodes]
            metric = torch.as_tensor(slow_metric.of_latents(paths, objective.power), dtype=torch.float32)
            changes = torch.as_tensor(np.concatenate([np.diff(path, axis=0) for path in paths]), dtype=torch.float32)
            objective.take(metric, changes)
        return latents

    def finish(self, model: WorldModel, data: FinishData, seed: int, *, brief: bool, progress: bool) -> float | None:
        """Fit slow metric and heads to the latents as they now are.

        Those for goals in numbers where the data record such, those for far goals where the configuration says so, and
        that for inverse dynamics where a planner uses what it proposes.
        """
        latents = Latents(model, data.dataset, data.stand_ins)
        if goal_states.recorded_columns(data.dataset):
            model.goal_states = goal_states.fit(latents, data, seed, brief=brief, progress=progress)
        model.metric = slow_metric.fit(latents, data.train, self.config.training.metric_power)
        if self.config.far_goals.fit_steps:
            far = self.config.far_goals
            model.far_goals = far_goals.fit(latents, data, far, seed, brief=brief, progress=progress)
        config, head = self.config.inverse_dynamics, model.inverse_dynamics
        used = self.config.planner.proposals != "none" or self._head_learns_with_the_rest
        if config is None or head is None or not used:
            return None
        if config.successful_only:
            data = successful(data)
        training = HindsightPairs(latents, data.train, progress)
        held_out = HindsightPairs(latents, data.held_out)
        settings = dataclasses.replace(config, steps=1) if brief else config
        return round(fit(head, training, held_out, settings, seed, progress), 4)

    def learn_goal_states(
        self, dataset: OfflineDataset | str | Path, *, seed: int | None = None, progress: bool = True
    ) -> Self:
        """Fit only what takes goals in numbers, to a model that is trained: then ``act(obs, goal_state=...)`` works.

        Args:
            dataset: with numbers of the situation (``state``) and the model's frames; the held-out share of its
                episodes tells the error.
            seed: of the split and of the fit; the agent's by default.
            progress: show progress.

        Raises:
            ValueError: the data record no such numbers, or have other frames.
        """
        seed = self.seed if seed is None else whole_number("seed", seed)
        parts = self._parts(dataset, seed)
        self.model.goal_states = goal_states.fit(Latents(self.model, parts.dataset), parts, seed, progress=progress)
        self._forget_controller()
        return self

    def learn_far_goals(
        self,
        dataset: OfflineDataset | str | Path,
        *,
        settings: FarGoalsConfig = FITTED,
        seed: int | None = None,
        progress: bool = True,
    ) -> Self:
        """Fit only what helps with far goals, to a model that is trained: for metric ``steps`` and waypoints.

        Args:
            dataset: with the model's frames; the held-out share of its episodes tells the error.
            settings: of the fit; they become the configuration's.
            seed: of the split and of the fit; the agent's by default.
            progress: show progress.

        Raises:
            ValueError: the data have other frames or actions, or no episode longer than a block.
        """
        require(settings.fit_steps > 0, "far_goals.fit_steps must be at least 1 to fit anything, got 0")
        seed = self.seed if seed is None else whole_number("seed", seed)
        parts = self._parts(dataset, seed)
        actions = self.config.model.action_dim
        if parts.dataset.action_dim != actions:
            raise ValueError(f"the dataset's actions have {parts.dataset.action_dim} components, the model's {actions}")
        latents = Latents(self.model, parts.dataset)
        self.model.far_goals = far_goals.fit(latents, parts, settings, seed, progress=progress)
        self._change(far_goals=settings)
        return self

    def _parts(self, dataset: OfflineDataset | str | Path, seed: int) -> FinishData:
        """A dataset, split for a fit. Raises ``ValueError`` if its frames or its environment are not the model's."""
        data = dataset if isinstance(dataset, OfflineDataset) else OfflineDataset(dataset)
        known, recorded_in = self.description.environment, data.metadata and data.metadata.environment_id
        if known and recorded_in and known.rpartition(":")[2] != recorded_in:
            raise ValueError(f"{data.path} was recorded in {recorded_in}, and the model was trained in {known}")
        side = self.config.model.image_size
        if data.frame_shape != (side, side, 3):
            raise ValueError(f"the dataset's frames are {data.frame_shape}, the model needs {(side, side, 3)}")
        return FinishData(data, *data.split(self.config.training.held_out_fraction, seed))

    def adapt(
        self,
        dataset: Given | Sequence[Given],
        output: str | Path,
        *,
        augmentations: str = "look",
        resume: bool = False,
        seed: int | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> Self:
        """Teach the encoder of a trained model other looks: a changed frame is to have the latent of the clean one.

        All else stays as it is. An encoder of moments gets a network for the frames that its colors do not explain.

        Args:
            dataset: with frames of the model's size, such as the one it was trained on; or several.
            output: folder for ``checkpoints/`` and ``metrics.jsonl``, which tells the held-out errors of clean and
                changed frames, and those of changed ones without adapting.
            augmentations: ``look``, or parts with their strengths: ``colors=0.2,noise=0.01``.
            resume: continue the run in ``output``.
            seed: of weights, order and looks, and of which episodes are held out; the training's by default.
            progress: show progress.
            settings: further ones of :class:`lewm_agent.adapting.teaching.AdaptConfig` (``steps``).

        Raises:
            ValueError: nothing has been learned, the data do not fit, or the run in ``output`` is another one.
            FileExistsError: ``output`` holds a run and ``resume`` is false.
            KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint has been written; this agent is as it was.
        """
        if seed is None:
            seed = self.seed if self.description.training is None else self.description.training.seed

        def make(description: Description) -> LeWMAgent:
            return type(self)(self._env, description, device=str(self.device), seed=self.seed)

        config = AdaptConfig(augmentations, **settings)
        adapter = Adapter(self, make, config, whole_number("seed", seed))
        adapter.run(opened(dataset), RunFolder(output), resume=resume, progress=progress)
        self.model, self.description = adapter.adapted.model, adapter.adapted.description
        self._forget_controller()
        return self

    # --- save and load -----------------------------------------------------------------------------------------------

    def set_action_statistics(self, mean: ArrayLike, std: ArrayLike) -> Self:
        """Give a released checkpoint what its files lack: mean and standard deviation of the training actions.

        Args:
            mean: (action_dim,), in the environment's units.
            std: (action_dim,), as :meth:`OfflineDataset.action_statistics` returns them.
        """
        for buffer, given in ((self.world_model.action_mean, mean), (self.world_model.action_std, std)):
            values = torch.as_tensor(np.asarray(given, np.float32))
            if values.shape != buffer.shape or not values.isfinite().all():
                raise ValueError(f"action statistics must be {len(buffer)} finite numbers each, got {given!r}")
            buffer.copy_(values)
        self.world_model.action_std.clamp_(min=1e-6)
        self._forget_controller()
        return self

    def save_released(self, path: str | Path) -> Path:
        """Write ``weights.pt`` and ``config.json`` in the layout of the released models, for stable-worldmodel.

        Raises:
            ValueError: the encoder is none that the layout knows.
        """
        released.write(Path(path), self.config.model, self.world_model.state_dict())
        return Path(path)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        planner: str | PlannerConfig | None = None,
        env: str | Environment | None = None,
        dataset: OfflineDataset | str | Path | None = None,
        device: str = "auto",
        seed: int = 0,
        **options: Unpack[HubOptions],
    ) -> Self:
        """A trained agent, ready to act.

        Args:
            name: a bundled model (``two_room``), a folder, or a Hub id (``user/model``); also released models
                (``quentinll/lewm-pusht``) and others in their layout. Which of them, if it may be several, says
                :func:`lewm_agent.checkpoints.hub.find_here`.
            planner: other planner settings than the saved ones.
            env: only for a released model, whose files name none: environment to act in, as for :class:`LeWMAgent`.
            dataset: likewise; its actions' statistics are those the model is to be used with.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            seed: of the planner's noise.
            options: how a Hub id is fetched: ``revision``, ``cache_dir``, ``token``, ``local_files_only``
                (:func:`lewm_agent.checkpoints.hub.locate`).

        Raises:
            CheckpointError: nothing by that name, or it is incomplete, damaged or foreign.
        """
        folder = hub.locate(name, **options)
        weights_file = wrappings.find(folder)
        if weights_file is not None:
            agent = cls._from_released(weights_file, env, dataset, device, seed)
        elif env is not None or dataset is not None:
            raise ValueError(f"{folder} knows its environment and statistics; leave out `env` and `dataset`")
        else:
            agent = cls._from_folder(folder, device, seed)
        return agent if planner is None else agent.set_planner(planner)

    @classmethod
    def _from_released(
        cls,
        weights_file: Path,
        env: str | Environment | None,
        dataset: OfflineDataset | str | Path | None,
        device: str,
        seed: int,
    ) -> Self:
        dataset = OfflineDataset(dataset) if isinstance(dataset, str | Path) else dataset
        model, weights = released.read(weights_file)
        env = None if env is None else prepared(env, model.image_size)
        gymnasium_id, kwargs = (None, {}) if env is None else environment.identity(env)
        if env is not None:
            low, high = environment.action_bounds(env.action_space)
            model = released.split_blocks(model, len(low))
        else:
            model = released.split_blocks(model, dataset.action_dim if dataset else None)
            low, high = ([bound] * model.action_dim for bound in released.ACTION_BOUNDS)
        config = dataclasses.replace(preset("paper"), model=model)
        description = Description(gymnasium_id, kwargs, low, high, config, released_weights=weights_file.name)
        agent = cls(env, description, device=device, seed=seed)
        agent.world_model.load_state_dict(weights, strict=False)
        agent.world_model.forget_actions()
        return agent if dataset is None else agent.set_action_statistics(*dataset.action_statistics())


def _told(head: GoalStates) -> str:
    columns = ", ".join(f"{name} ({size})" for name, size in head.sizes.items())
    return f"{columns}; held-out error {float(head.error):.3f} of the latents' variance"


def _far(far: FarGoals) -> str:
    kept = "" if far.bank is None else f"; {len(far.bank.latents):,} latents of recorded ways"
    return f"blocks to go up to {far.steps.reach}, held-out error {float(far.steps.error):.1f}{kept}"
