"""LeWMAgent: collect episodes, learn a world model from them, act towards goal images."""

from __future__ import annotations

import dataclasses
import functools
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lewm_agent import __version__, checkpoint, environment, official, slow_metric
from lewm_agent.agents.behavior import behavior_policy
from lewm_agent.checkpoint import Description
from lewm_agent.config import AgentConfig, PlannerConfig, planner_preset, preset
from lewm_agent.controller import Actions, Controller, EpisodeMemory, Frames
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.collection import collect
from lewm_agent.environment import Environment
from lewm_agent.frames import resized
from lewm_agent.goal_cost import LatentCost
from lewm_agent.hindsight import HindsightPairs, fit
from lewm_agent.model_card import model_card, read_results
from lewm_agent.trainer import Schedule, Trainer
from lewm_agent.training_clips import TrainingClips
from lewm_agent.world_model import WorldModel

Memories = list[EpisodeMemory]


def resolve_device(device: str) -> torch.device:
    """``auto`` is CUDA where present, else the CPU. Raises ``ValueError`` for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if device.split(":")[0] not in available:
        raise ValueError(f"device {device!r} is not available here; there are: auto, {', '.join(available)}")
    return torch.device(device)


class LeWMAgent:
    """A goal-reaching agent around LeWorldModel (arXiv 2603.19312).

    Args:
        env: short name (``two_room``), Gymnasium id, or any environment with ``render_mode="rgb_array"``, whose actions
            are bounded vectors or discrete choices; frames of another size than the model's are resized.
        config: name of a preset (``small``, ``paper``) or a configuration; ``action_dim`` is taken from ``env``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of the initial weights, of training and of the planner's noise.

    Raises:
        ValueError: unknown names, another action space, or no RGB frames.
    """

    def __init__(
        self, env: str | Environment, config: str | AgentConfig = "small", *, device: str = "auto", seed: int = 0
    ) -> None:
        config = preset(config) if isinstance(config, str) else config
        env = _prepared(env, config.model.image_size)
        low, high = environment.action_bounds(env.action_space)
        choices = environment.has_choices(env)
        model = dataclasses.replace(config.model, action_dim=len(low), discrete_actions=choices)
        gymnasium_id, kwargs = environment.identity(env)
        description = Description(
            environment=gymnasium_id,
            environment_kwargs=kwargs,
            action_low=low,
            action_high=high,
            agent=dataclasses.replace(config, model=model),
        )
        self._env: Environment | None = env
        self._build(description, device, seed)

    def _build(self, description: Description, device: str, seed: int) -> None:
        self.description = description
        self.device = resolve_device(device)
        self.seed = seed
        self._cost: LatentCost | None = None
        self.observation_space = _pixel_space(description.agent.model.image_size)
        low, high = (np.array(bound, np.float32) for bound in (description.action_low, description.action_high))
        box = gym.spaces.Box(low, high, dtype=np.float32)
        choices = self.config.model.discrete_actions
        self.action_space: gym.spaces.Space[Any] = gym.spaces.Discrete(len(low)) if choices else box
        torch.manual_seed(seed)
        model = WorldModel(self.config.model, self.config.objective, self.config.inverse_dynamics)
        self.world_model = model.to(self.device).eval()
        self.reset()

    @property
    def config(self) -> AgentConfig:
        """Model, objective, training and planner settings."""
        return self.description.agent

    @property
    def env(self) -> Environment:
        """The environment, made on first use for a loaded agent. Raises ``ValueError`` when it has no id."""
        if self._env is None:
            if self.description.environment is None:
                raise ValueError("this agent was trained on an unregistered environment, which cannot be made by name")
            self._env = self._environment_factory()()
        return self._env

    @functools.cached_property
    def controller(self) -> Controller:
        """Plans with the present weights and planner settings."""
        bounds = self.description.action_low, self.description.action_high
        low, high = (np.array(bound, np.float32) for bound in bounds)
        return Controller(self.world_model, self.config.planner, low, high, self._cost)

    def set_planner(self, planner: str | PlannerConfig, cost: LatentCost | None = None) -> Self:
        """Change how the agent plans.

        Args:
            planner: a preset's name (``small``, ``paper``) or settings.
            cost: function of imagined latents (N, S, P, latent_dim), one after each action block, and goal latents
                (N, latent_dim) to costs (N, S), instead of the settings' ``cost``; not saved with the agent.
        """
        self._cost = cost
        planner = planner_preset(planner, self.config.model) if isinstance(planner, str) else planner
        agent = dataclasses.replace(self.config, planner=planner)
        self.description = dataclasses.replace(self.description, agent=agent)
        self.__dict__.pop("controller", None)
        self.reset()
        return self

    # --- collect -----------------------------------------------------------------------------------------------------

    def collect(
        self,
        path: str | Path,
        policy: Any = "expert",
        episodes: int = 1000,
        *,
        num_envs: int = 1,
        frame_interval: int = 1,
        seed: int | None = None,
        overwrite: bool = False,
        progress: bool = True,
    ) -> OfflineDataset:
        """Gather episodes of a behavior policy; an interrupted collection continues where it stopped.

        Args:
            path: folder of the dataset.
            policy: ``expert``, ``random``, a Stable-Baselines3 model or a path to one, or a callable
                ``(observation, info) -> action``.
            episodes: how many in all.
            num_envs: processes that gather at the same time; the data do not depend on it.
            frame_interval: record the frame of every so many steps only; the model's ``frame_skip`` must be a multiple.
            seed: the agent's by default.
            overwrite: discard what the folder holds.
            progress: show a progress bar.
        """
        return collect(
            path,
            self._environment_factory(),
            functools.partial(behavior_policy, policy),
            episodes,
            seed=self.seed if seed is None else seed,
            num_envs=num_envs,
            frame_interval=frame_interval,
            environment_id=self.description.environment or "unregistered",
            environment_kwargs=self.description.environment_kwargs,
            policy=_name_of(policy),
            overwrite=overwrite,
            progress=progress,
        )

    def _environment_factory(self) -> Callable[[], Environment]:
        if self.description.environment is None:
            return environment.same(self.env)
        size = self.config.model.image_size
        return environment.factory(self.description.environment, self.description.environment_kwargs, size)

    # --- learn -------------------------------------------------------------------------------------------------------

    def learn(
        self,
        dataset: OfflineDataset | str | Path,
        output: str | Path,
        *,
        resume: bool = False,
        seed: int | None = None,
        checkpoint_every: int = 1000,
        workers: int | None = None,
        progress: bool = True,
    ) -> Self:
        """Train the world model on a dataset; the agent then acts with the final weights.

        Args:
            dataset: a dataset or its path.
            output: folder for ``metrics.jsonl``, TensorBoard files and ``checkpoints/``, whose ``last`` can be given to
                :meth:`from_pretrained`.
            resume: continue the run in ``output`` from its last checkpoint, with the same batches and losses as if it
                had never stopped; a finished run goes on when given more epochs (and, past the schedule, cycles).
            seed: of batch order, dropout and SIGReg; the agent's by default.
            checkpoint_every: steps between checkpoints.
            workers: processes that read clips; by default none on the CPU, where they only take time from training,
                else 4.
            progress: show a progress bar.

        Raises:
            ValueError: frames or actions do not fit the model, or the dataset has no clip long enough.
            FileExistsError: ``output`` holds a run and ``resume`` is false.
        """
        dataset = dataset if isinstance(dataset, OfflineDataset) else OfflineDataset(dataset)
        self._check_dataset(dataset)
        output, seed = Path(output), self.seed if seed is None else seed
        workers = (0 if self.device.type == "cpu" else 4) if workers is None else workers
        clips = TrainingClips(dataset, self.config, seed, workers)
        self._set_statistics(dataset, clips.train_episodes)
        schedule = Schedule.of(self.config.training, clips.steps_per_epoch)
        if resume and (output / "checkpoints" / "last").exists():
            self._load_run(output / "checkpoints" / "last", dataset, seed, schedule, clips.steps_per_epoch)
        trainer = Trainer(
            self.world_model,
            self.config.training,
            output,
            functools.partial(self._save_step, dataset, seed),
            device=str(self.device),
            seed=seed,
            checkpoint_every=checkpoint_every,
            progress=progress,
        )
        self.world_model.train()
        try:
            trainer.fit(clips, schedule, resume=resume)
        finally:
            self.world_model.to(self.device).eval()
        self._record_training(dataset, seed, schedule.stop)
        self.world_model.metric.copy_(slow_metric.fit(self.world_model, dataset, clips.train_episodes))
        self._fit_inverse_dynamics(dataset, clips, seed, progress)
        return self

    def _fit_inverse_dynamics(self, dataset: OfflineDataset, clips: TrainingClips, seed: int, progress: bool) -> None:
        """Train the head, if there is one, on the latents as they now are."""
        config, head = self.config.inverse_dynamics, self.world_model.inverse_dynamics
        if config is None or head is None:
            return
        training = HindsightPairs(self.world_model, dataset, clips.train_episodes, progress)
        held_out = HindsightPairs(self.world_model, dataset, clips.held_out_episodes)
        error = fit(head, training, held_out, config, seed, progress)
        record = {**self.description.training, "inverse_dynamics_error": round(error, 4)}
        self.description = dataclasses.replace(self.description, training=record)

    def _check_dataset(self, dataset: OfflineDataset) -> None:
        side, actions = self.config.model.image_size, self.config.model.action_dim
        if dataset.frame_shape != (side, side, 3):
            raise ValueError(f"the dataset's frames are {dataset.frame_shape}, the model needs {(side, side, 3)}")
        if dataset.action_dim != actions:
            raise ValueError(f"the dataset's actions have {dataset.action_dim} components, the model needs {actions}")

    def _set_statistics(self, dataset: OfflineDataset, episodes: NDArray[np.int64]) -> None:
        mean, std = dataset.action_statistics(episodes)
        self.world_model.action_mean.copy_(torch.as_tensor(mean))
        self.world_model.action_std.copy_(torch.as_tensor(np.maximum(std, 1e-6)))
        if self.config.model.pixel_normalization == "mean_frame":
            mean_frame, deviation = dataset.pixel_statistics(episodes)
            self.world_model.encoder.set_pixel_statistics(torch.as_tensor(mean_frame), torch.as_tensor(deviation))
        self.__dict__.pop("controller", None)

    def _load_run(
        self, folder: Path, dataset: OfflineDataset, seed: int, schedule: Schedule, steps_per_epoch: int
    ) -> None:
        description, weights = checkpoint.read(folder)
        trained = description.agent
        lengthened = dataclasses.replace(trained, training=trained.training.as_long_as(self.config.training))
        if lengthened != self.config or not schedule.continues(Schedule.of(trained.training, steps_per_epoch)):
            raise ValueError(f"{folder} was trained with another configuration; resume with that one")
        self._record_training(dataset, seed, step=0)
        for name, given in self.description.training.items():
            before = description.training.get(name)
            if name in ("data", "seed") and given != before:
                raise ValueError(f"{folder} was trained with {name} {before!r}, not {given!r}; resume with that")
        checkpoint.check_weights(self.world_model.state_dict(), weights, folder)
        self.world_model.load_state_dict(weights)

    def _record_training(self, dataset: OfflineDataset, seed: int, step: int) -> None:
        source = dataset.metadata
        origin = f"policy {source.policy}, seed {source.seed}" if source else dataset.path.name
        record = {
            "data": f"{dataset.num_episodes} episodes, {origin}",
            "steps": step,
            "batch_size": self.config.training.batch_size,
            "seed": seed,
            "versions": f"lewm-agent {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        }
        self.description = dataclasses.replace(self.description, training=record)

    def _save_step(self, dataset: OfflineDataset, seed: int, folder: Path, step: int) -> None:
        self._record_training(dataset, seed, step)
        self.save_pretrained(folder)

    # --- act ---------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget the episode that :meth:`act` is in."""
        self._episodes = getattr(self, "_episodes", -1) + 1
        self._memory: Memories = self.initial_memories([_episode_seed(self.seed, 0, self._episodes)])

    def act(self, obs: Any, goal_obs: Frames | None = None) -> Actions:
        """The next action towards a goal image; remembers the episode until :meth:`reset` or another goal.

        Args:
            obs: frame (H, W, 3) uint8 of any size, or a dict with ``pixels`` (and ``goal``).
            goal_obs: goal frame (H, W, 3) uint8; may be left out when ``obs`` has ``goal``.

        Returns:
            (action_dim,) float32, inside the action space; the number of the choice where actions are discrete.
        """
        pixels = obs["pixels"] if isinstance(obs, dict) else obs
        goal = obs.get("goal") if goal_obs is None and isinstance(obs, dict) else goal_obs
        if goal is None:
            raise ValueError("act needs a goal image: act(obs, goal_obs), or an observation dict with `goal`")
        action, self._memory = self.predict({"pixels": pixels, "goal": goal}, self._memory)
        return action

    def predict(
        self,
        observation: dict[str, Frames],
        state: Memories | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[Actions, Memories]:
        """Actions for one observation or a batch, the plan travelling in ``state`` (SB3's ``PolicyPredictor``).

        Args:
            observation: ``pixels`` and ``goal``, each (H, W, 3) or (N, H, W, 3) uint8, of any height and width.
            state: what the previous call returned; None begins new episodes.
            episode_start: (N,) true where an episode has just begun.
            deterministic: accepted for the protocol; planning is always a function of frames, seed and memory.

        Returns:
            Actions (action_dim,) or (N, action_dim) float32, or one choice or (N,), and the new state.
        """
        pixels, goals = (self._checked_frames(observation, key) for key in ("pixels", "goal"))
        memories = self._begin_episodes(state, episode_start, len(pixels))
        actions, memories = self.controller.decide(memories, pixels, np.broadcast_to(goals, pixels.shape))
        if self.config.model.discrete_actions:
            actions = actions.argmax(axis=1)
        single = np.ndim(observation["pixels"]) == 3
        return (actions[0] if single else actions), memories

    def initial_memories(self, seeds: Sequence[int]) -> Memories:
        """A ``state`` for :meth:`predict` in which episode i plans with the noise of ``seeds[i]``."""
        return [EpisodeMemory(seed=seed) for seed in seeds]

    def _begin_episodes(self, state: Memories | None, starts: NDArray[np.bool_] | None, count: int) -> Memories:
        if state is None:
            return self.initial_memories([_episode_seed(self.seed, row, 0) for row in range(count)])
        if len(state) != count:
            raise ValueError(f"got {count} observations for the state of {len(state)} environments")
        fresh = np.zeros(count, bool) if starts is None else np.atleast_1d(starts)
        return [
            EpisodeMemory(seed=_episode_seed(memory.seed, row, 1)) if new and memory.plans else memory
            for row, (memory, new) in enumerate(zip(state, fresh, strict=True))
        ]

    def _checked_frames(self, observation: dict[str, Frames], key: str) -> Frames:
        if not isinstance(observation, dict) or key not in observation:
            raise ValueError("an observation is a dict with `pixels` and `goal`")
        frames, side = np.asarray(observation[key]), self.config.model.image_size
        if frames.dtype != np.uint8:
            raise ValueError(f"`{key}` must be uint8 frames in [0, 255], got {frames.dtype}")
        if frames.ndim not in (3, 4) or frames.shape[-1] != 3:
            raise ValueError(f"`{key}` must be (H, W, 3) or (N, H, W, 3), got {frames.shape}")
        return resized(frames if frames.ndim == 4 else frames[None], side)

    # --- save and load -----------------------------------------------------------------------------------------------

    def set_action_statistics(self, mean: ArrayLike, std: ArrayLike) -> Self:
        """Give an official checkpoint what its files lack: mean and standard deviation of the training actions.

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
        self.__dict__.pop("controller", None)
        return self

    def save_pretrained(
        self, path: str | Path, *, half_precision: bool = False, results: Sequence[str | Path] = ()
    ) -> Path:
        """Write ``config.json``, ``model.safetensors`` and a model card into a folder.

        Args:
            path: the folder.
            half_precision: round trained weights to float16, for a file half as large; statistics stay as they are.
            results: JSON files of ``eval/success_rate.py`` that the card is to show.

        Raises:
            ValueError: a result that is none, or was measured with other weights.
        """
        folder = Path(path)
        card = model_card(self.description, read_results(results, self.weights_sha256()) if results else [])
        weights = self.world_model.state_dict()
        if half_precision:
            weights |= {name: value.detach().half() for name, value in self.world_model.named_parameters()}
        checkpoint.write(folder, self.description, weights, card)
        return folder

    def weights_sha256(self) -> str:
        """Hash of all weights, wherever they were loaded from; every result names it."""
        return checkpoint.weights_sha256(self.world_model.state_dict())

    def save_official(self, path: str | Path) -> Path:
        """Write ``weights.pt`` and ``config.json`` in the layout of the released models, for stable-worldmodel.

        Raises:
            ValueError: the encoder is none that the layout knows.
        """
        official.write(Path(path), self.config.model, self.world_model.state_dict())
        return Path(path)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        results: Sequence[str | Path] = (),
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Upload to the Hugging Face Hub; returns the commit's URL.

        Args:
            repo_id: ``user/model``; created if it does not exist.
            results: as for :meth:`save_pretrained`.
            private: whether a new repository is.
            token: by default the one that ``hf auth login`` has stored.
            revision: branch to commit to; the main one by default.
        """
        with tempfile.TemporaryDirectory() as folder:
            saved = self.save_pretrained(folder, results=results)
            return checkpoint.push(saved, repo_id, private=private, token=token, revision=revision)

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
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """A trained agent, ready to act.

        Args:
            name: a bundled model (``two_room``), a folder, or a Hub id (``user/model``); also released models
                (``quentinll/lewm-pusht``) and others in their layout.
            planner: other planner settings than the saved ones.
            env: only for a released model, whose files name none: environment to act in, as for :class:`LeWMAgent`.
            dataset: likewise; its actions' statistics are those the model is to be used with.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            seed: of the planner's noise.
            revision: branch, tag or commit on the Hub.
            cache_dir: where Hub downloads are kept.
            token: for private Hub repositories.
            local_files_only: never use the network.

        Raises:
            CheckpointError: nothing by that name, or it is incomplete, damaged or foreign.
        """
        folder = checkpoint.locate(
            name, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        weights_file = official.find(folder)
        if weights_file is not None:
            agent = cls._from_official(weights_file, env, dataset, device, seed)
        elif env is not None or dataset is not None:
            raise ValueError(f"{folder} knows its environment and statistics; leave out `env` and `dataset`")
        else:
            description, weights = checkpoint.read(folder)
            agent = cls.__new__(cls)
            agent._env = None
            agent._build(description, device, seed)
            checkpoint.check_weights(agent.world_model.state_dict(), weights, folder)
            agent.world_model.load_state_dict(weights)
        return agent if planner is None else agent.set_planner(planner)

    @classmethod
    def _from_official(
        cls,
        weights_file: Path,
        env: str | Environment | None,
        dataset: OfflineDataset | str | Path | None,
        device: str,
        seed: int,
    ) -> Self:
        dataset = OfflineDataset(dataset) if isinstance(dataset, str | Path) else dataset
        model, weights = official.read(weights_file)
        env = None if env is None else _prepared(env, model.image_size)
        gymnasium_id, kwargs = (None, {}) if env is None else environment.identity(env)
        if env is not None:
            low, high = environment.action_bounds(env.action_space)
            model = official.split_blocks(model, len(low))
        else:
            model = official.split_blocks(model, dataset.action_dim if dataset else None)
            low, high = ([bound] * model.action_dim for bound in official.ACTION_BOUNDS)
        agent = cls.__new__(cls)
        agent._env = env
        source = {"weights": weights_file.name}
        agent._build(Description(gymnasium_id, kwargs, low, high, AgentConfig(model=model), source), device, seed)
        agent.world_model.load_state_dict(weights, strict=False)
        nothing = torch.full((model.action_dim,), torch.nan)
        agent.world_model.action_mean.copy_(nothing)
        agent.world_model.action_std.copy_(nothing)
        return agent if dataset is None else agent.set_action_statistics(*dataset.action_statistics())


def _prepared(env: str | Environment, image_size: int) -> Environment:
    return environment.make(env, image_size) if isinstance(env, str) else environment.adapt(env, image_size)


def _episode_seed(seed: int, row: int, episode: int) -> int:
    return int(np.random.SeedSequence([seed, row, episode]).generate_state(1)[0])


def _name_of(policy: Any) -> str:
    return str(policy) if isinstance(policy, str | Path) else getattr(policy, "__qualname__", type(policy).__name__)


def _pixel_space(side: int) -> gym.spaces.Dict:
    image = gym.spaces.Box(0, 255, (side, side, 3), np.uint8)
    return gym.spaces.Dict({"pixels": image, "goal": image})
