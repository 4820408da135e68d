"""What all goal-reaching agents share: environment, data, training, episodes, and files."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack, cast

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent import environment
from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.checkpoints import checkpoint, hub
from lewm_agent.checkpoints.checkpoint import CheckpointError, Description
from lewm_agent.checkpoints.hub import HubOptions
from lewm_agent.checkpoints.model_card import About, model_card, read_results
from lewm_agent.datasets import Clips, OfflineDataset
from lewm_agent.datasets.collection import collect
from lewm_agent.environment import Environment
from lewm_agent.models.learner import STATISTICS, Learner
from lewm_agent.planning.episodes import (
    Actions,
    Decider,
    EpisodeMemory,
    Frames,
    Memories,
    begin_episodes,
    episode_seed,
)
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.tools.checks import whole_number
from lewm_agent.tools.frames import checked_frames
from lewm_agent.training.batches import TrainingClips
from lewm_agent.training.record import TrainingRecord
from lewm_agent.training.run import FinishData, Identity, Run, Saved
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.settings import AgentSettings
from lewm_agent.training.state import UnreadableError

ConfigT = TypeVar("ConfigT", bound=AgentSettings)
ModelT = TypeVar("ModelT", bound=Learner)


def resolve_device(device: str | torch.device) -> torch.device:
    """``auto`` is CUDA where present, else the CPU. Raises ``ValueError`` for a device that is not there."""
    device = str(device)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if device.split(":")[0] not in available:
        raise ValueError(f"device {device!r} is not available here; there are: auto, {', '.join(available)}")
    return torch.device(device)


class GoalAgent(ABC, Generic[ConfigT, ModelT]):
    """An agent that learns from offline pixel episodes to reach goal images.

    Args:
        env: short name (``two_room``), Gymnasium id, or any environment with ``render_mode="rgb_array"``, whose actions
            are bounded vectors or discrete choices; frames of another size than the model's are resized. None with a
            description: the one that it names, made on first use.
        config: sizes, training and whatever else the kind of agent has; ``action_dim`` is taken from ``env``. Or the
            description of a saved agent, whose weights are then to be loaded.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of the initial weights, of training and of whatever is random when it acts.

    Raises:
        ValueError: unknown names, another action space, or no RGB frames.
    """

    config_type: ClassVar[Any]
    """The dataclass of its configuration, with ``from_dict``."""

    def __init__(
        self, env: str | Environment | None, config: ConfigT | Description, *, device: str = "auto", seed: int = 0
    ) -> None:
        self.seed = whole_number("seed", seed)
        self.device = resolve_device(device)
        settings = config.agent if isinstance(config, Description) else config
        if not isinstance(settings, self.config_type):
            raise TypeError(f"config must be an {self.config_type.__name__}, got {type(settings).__name__}")
        self._env = None if env is None else prepared(env, settings.model.image_size)
        self.description = config if isinstance(config, Description) else self._described(config)
        self.observation_space = _pixel_space(settings.model.image_size)
        low, high = self._bounds
        box = gym.spaces.Box(low, high, dtype=np.float32)
        choices = self.config.model.discrete_actions
        self.action_space: gym.spaces.Space[Any] = gym.spaces.Discrete(len(low)) if choices else box
        torch.manual_seed(self.seed)
        self.model: ModelT = self._make_model().to(self.device).eval()
        if not isinstance(config, Description):
            self.model.fetch()
        self._warned = False
        self.reset()

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        learned = "trained" if self.description.learned else "untrained"
        where = self.description.environment or "an unregistered environment"
        return f"{type(self).__name__}({self.kind}, {where}, {parameters:,} parameters, {learned}, on {self.device})"

    def _described(self, config: ConfigT) -> Description:
        """What a new agent is: its environment and, with the size of its actions, its configuration."""
        if self._env is None:
            raise ValueError("a new agent needs an environment")
        low, high = environment.action_bounds(self._env.action_space)
        model = dataclasses.replace(
            config.model, action_dim=len(low), discrete_actions=environment.has_choices(self._env)
        )
        gymnasium_id, kwargs = environment.identity(self._env)
        agent = _changed(config, model=model)
        return Description(gymnasium_id, kwargs, low, high, agent, agent_kind=self.kind_of(config))

    @abstractmethod
    def _make_model(self) -> ModelT:
        """The untrained model that the configuration describes."""

    @staticmethod
    @abstractmethod
    def kind_of(config: Any) -> str:
        """Name of the kind of agent that a configuration describes."""

    @classmethod
    @abstractmethod
    def accepts(cls, kind: str) -> bool:
        """Whether agents of this class can be of that kind."""

    @property
    def kind(self) -> str:
        """By which :func:`lewm_agent.agents.make_agent` calls it."""
        return self.description.agent_kind

    @property
    def config(self) -> ConfigT:
        """Model, training and all other settings."""
        return cast(ConfigT, self.description.agent)

    @property
    def env(self) -> Environment:
        """The environment, made on first use for a loaded agent. Raises ``ValueError`` when it has no id."""
        if self._env is None:
            if self.description.environment is None:
                raise ValueError(
                    "this agent's environment cannot be made by name: it was not registered, or had wrappers of its "
                    "own or arguments that are no JSON"
                )
            self._env = self._environment_factory()()
        return self._env

    @property
    @abstractmethod
    def controller(self) -> Decider:
        """Decides with the present weights."""

    @property
    def planner_settings(self) -> dict[str, Any] | None:
        """How it plans, ready for JSON; None if it does not plan."""
        return None

    def set_planner(self, planner: str | PlannerConfig) -> Self:
        """Change how the agent plans. Raises ``ValueError`` if it does not plan."""
        raise ValueError(f"a {self.kind} agent does not plan, so it takes no planner")

    @property
    def _bounds(self) -> tuple[Actions, Actions]:
        low, high = self.description.action_low, self.description.action_high
        return np.array(low, np.float32), np.array(high, np.float32)

    def _change(self, **settings: Any) -> None:
        """Replace parts of the configuration; what was made from it is forgotten."""
        self.description = dataclasses.replace(self.description, agent=_changed(self.config, **settings))
        self._forget_controller()

    def _forget_controller(self) -> None:
        self.__dict__.pop("controller", None)  # of functools.cached_property

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
            overwrite: replace the dataset in the folder; it stays until its successor is whole.
            progress: show a progress bar.
        """
        return collect(
            path,
            self._environment_factory(),
            functools.partial(behavior_policy, policy),
            episodes,
            seed=whole_number("seed", self.seed if seed is None else seed),
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
        """Train the model on a dataset; the agent then acts with the final weights.

        Args:
            dataset: a dataset or its path.
            output: folder for ``metrics.jsonl``, TensorBoard files and ``checkpoints/``, whose ``last`` can be given to
                :meth:`from_pretrained`.
            resume: continue the run in ``output`` from its newest whole checkpoint, with the same batches and losses as
                if it had never stopped; a finished run goes on when given more epochs (and, past the schedule, cycles).
            seed: of batch order, dropout and SIGReg; the agent's by default.
            checkpoint_every: steps between checkpoints; after ten minutes one is written in any case.
            workers: processes that read clips; by default none on the CPU, where they only take time from training,
                else 4.
            progress: show progress: a bar on a terminal, elsewhere a line every half minute.

        Raises:
            ValueError: frames or actions do not fit the model, the dataset has no clip long enough, or the run in
                ``output`` is of another agent; the message says what differs.
            FileExistsError: ``output`` holds a run and ``resume`` is false.
            BlockingIOError: another process is training into ``output``.
            DivergedError: the loss is no longer finite.
            OSError: a file cannot be written; the message says what is kept.
            KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint has been written.
        """
        dataset = dataset if isinstance(dataset, OfflineDataset) else OfflineDataset(dataset)
        seed = self.seed if seed is None else seed
        run = Run(self, dataset, RunFolder(output), seed=seed, workers=workers, progress=progress)
        try:
            run.train(resume=resume, checkpoint_every=checkpoint_every)
        finally:
            self.model.to(self.device).eval()
            if run.record is not None:
                self.description = dataclasses.replace(self.description, training=run.record)
            self._forget_controller()
        return self

    def steps_per_epoch(self, dataset: OfflineDataset) -> int:
        """Optimisation steps in one pass over the training clips. Raises ``ValueError`` as :meth:`learn` does."""
        return TrainingClips(dataset, self.make_clips, self.config.training, self.seed, workers=0).steps_per_epoch

    @abstractmethod
    def make_clips(self, dataset: OfflineDataset, episodes: NDArray[np.int64]) -> Clips:
        """What the model is trained on."""

    def stand_ins(
        self, dataset: OfflineDataset, episodes: NDArray[np.int64], progress: bool
    ) -> NDArray[np.float32] | None:
        """What :meth:`learn` shows the model in place of frames, an entry for every row; None for frames."""
        return None

    def finish(self, model: ModelT, data: FinishData, seed: int, *, brief: bool, progress: bool) -> float | None:
        """What :meth:`learn` fits to the trained model; nothing by default. Returns the error of a head, if any."""
        return None

    def identity(self) -> Identity:
        """What a run to be continued must agree with: all but the weights and where they come from."""
        return self.description.identity()

    def save_checkpoint(self, folder: Path, record: TrainingRecord) -> None:
        """Write the present weights with a record of how they came about."""
        self._save(folder, dataclasses.replace(self.description, training=record))

    def read_checkpoint(self, folder: Path) -> Saved:
        """A checkpoint of an agent of this kind. Raises ``UnreadableError``, or ``ValueError`` for another kind."""
        try:
            kind = checkpoint.agent_kind(folder)
            if kind == self.kind:
                description, weights = checkpoint.read(folder, self.config_type.from_dict)
                return Saved(description.identity(), description.agent, description.training, weights)
        except CheckpointError as error:
            raise UnreadableError(str(error)) from error
        raise ValueError(f"{folder} was trained as agent {kind}, not {self.kind}: resume with that")

    # --- act ---------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget the episode that :meth:`act` is in."""
        self._episodes = getattr(self, "_episodes", -1) + 1
        self._memory: Memories = self.initial_memories([episode_seed(self.seed, 0, self._episodes)])

    def act(self, obs: Any, goal_obs: Frames | None = None) -> Actions:
        """The next action towards a goal image; remembers the episode until :meth:`reset` or another goal.

        Args:
            obs: frame (H, W, 3) uint8 of any size, or a dict with ``pixels`` (and ``goal``).
            goal_obs: goal frame (H, W, 3) uint8; may be left out when ``obs`` has ``goal``.

        Returns:
            (action_dim,) float32, inside the action space; the number of the choice where actions are discrete.
        """
        pixels = obs.get("pixels") if isinstance(obs, dict) else obs
        if pixels is None:
            raise ValueError(f"act needs a frame: act(frame, goal_obs), or a dict with `pixels`, not with {list(obs)}")
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
            deterministic: accepted for the protocol; actions are always a function of frames, seed and memory.

        Returns:
            Actions (action_dim,) or (N, action_dim) float32, or one choice or (N,), and the new state.
        """
        if not (self._warned or self.description.learned):
            self._warned = True
            warnings.warn(
                "this agent has learned nothing, so its actions mean nothing: call learn, or load one with "
                "from_pretrained",
                stacklevel=2,
            )
        side = self.config.model.image_size
        pixels, goals = (checked_frames(observation, key, side) for key in ("pixels", "goal"))
        if len(goals) not in (1, len(pixels)):
            raise ValueError(f"there are {len(goals)} goals for {len(pixels)} frames; give one goal, or one for each")
        memories = begin_episodes(self.seed, state, episode_start, len(pixels))
        actions, memories = self.controller.decide(memories, pixels, np.broadcast_to(goals, pixels.shape))
        if self.config.model.discrete_actions:
            actions = actions.argmax(axis=1)
        single = np.ndim(observation["pixels"]) < 4
        return (actions[0] if single else actions), memories

    def initial_memories(self, seeds: Sequence[int]) -> Memories:
        """A ``state`` for :meth:`predict` in which episode i plans with the noise of ``seeds[i]``."""
        return [EpisodeMemory(seed=seed) for seed in seeds]

    # --- save and load -----------------------------------------------------------------------------------------------

    @abstractmethod
    def about(self) -> About:
        """What sets this agent apart, for its model card and for ``lewm info``."""

    def save_pretrained(
        self, path: str | Path, *, half_precision: bool = False, results: Sequence[str | Path] = ()
    ) -> Path:
        """Write ``config.json``, ``model.safetensors`` and a model card into a folder.

        Args:
            path: the folder.
            half_precision: round trained weights to float16, for a file half as large; statistics stay as they are.
            results: JSON files of ``eval/success_rate.py`` that the card is to show.

        A model that lies there is replaced, all or nothing; other files stay.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
            ValueError: a result that is none, or was measured with other weights; or weights that are not finite.
        """
        return self._save(Path(path), self.description, half_precision=half_precision, results=results)

    def _save(
        self,
        folder: Path,
        description: Description,
        *,
        half_precision: bool = False,
        results: Sequence[str | Path] = (),
    ) -> Path:
        shown = read_results(results, self.weights_sha256()) if results else []
        card = model_card(description, self.about(), shown)
        weights = self._stored_weights()
        if half_precision:
            trained = {name: value.detach().half() for name, value in self.model.named_parameters()}
            weights |= {name: value for name, value in trained.items() if name in weights}
        checkpoint.write(folder, description, weights, card)
        return folder

    def _stored_weights(self) -> dict[str, Tensor]:
        """What checkpoints hold: not what can be fetched anew, and no statistics of actions where they are missing."""
        missing = set() if self.model.knows_actions else STATISTICS
        weights = self.model.state_dict().items()
        return {name: value for name, value in weights if self.model.is_stored(name) and name not in missing}

    def load_weights(self, weights: dict[str, Tensor], source: Path) -> None:
        """Take over the weights of a checkpoint. Raises ``CheckpointError`` naming its folder if they do not fit."""
        self.model.make_room(weights.keys())
        checkpoint.check_weights(self._stored_weights(), weights, source)
        self.model.load_state_dict(weights, strict=False)

    def weights_sha256(self) -> str:
        """Hash of all weights, wherever they were loaded from; every result names it."""
        return checkpoint.weights_sha256(self.model.state_dict())

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
            return hub.push(saved, repo_id, private=private, token=token, revision=revision)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        planner: str | PlannerConfig | None = None,
        device: str = "auto",
        seed: int = 0,
        **options: Unpack[HubOptions],
    ) -> Self:
        """A trained agent, ready to act.

        Args:
            name: a bundled model, a folder, or a Hub id (``user/model``); which of them, if it may be several, says
                :func:`lewm_agent.checkpoints.hub.find_here`.
            planner: other planner settings than the saved ones, for agents that plan.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            seed: of whatever is random when it acts.
            options: how a Hub id is fetched: ``revision``, ``cache_dir``, ``token``, ``local_files_only``
                (:func:`lewm_agent.checkpoints.hub.locate`).

        Raises:
            CheckpointError: nothing by that name, or it is incomplete, damaged, foreign, or another kind of agent.
        """
        folder = hub.locate(name, **options)
        agent = cls._from_folder(folder, device, seed)
        return agent if planner is None else agent.set_planner(planner)

    @classmethod
    def _from_folder(cls, folder: Path, device: str, seed: int) -> Self:
        kind = checkpoint.agent_kind(folder)
        if not cls.accepts(kind):
            raise CheckpointError(f"{folder} holds a `{kind}` agent: load it with lewm_agent.agents.load_agent")
        description, weights = checkpoint.read(folder, cls.config_type.from_dict)
        if cls.kind_of(description.agent) != kind:
            raise CheckpointError(f"{folder} says that it holds a `{kind}` agent, and has the settings of another kind")
        planned = cls.__new__(cls)
        planned.description = description
        checkpoint.check_model(lambda: planned._layout(weights), description.agent.to_dict(), weights, folder)
        agent = cls(None, description, device=device, seed=seed)
        if not all(map(agent.model.is_stored, agent.model.state_dict())):
            agent.model.fetch()
        agent.load_weights(weights, folder)
        return agent

    def _layout(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a new model that a checkpoint with these weights is to hold."""
        missing = set() if STATISTICS & weights.keys() else STATISTICS
        model = self._make_model()
        model.make_room(weights.keys())
        return {name: t for name, t in model.state_dict().items() if model.is_stored(name) and name not in missing}


def prepared(env: str | Environment, image_size: int) -> Environment:
    """The environment called ``env``, or ``env`` itself, with frames of the given side and vectors as actions."""
    if not isinstance(env, str | gym.Env):
        raise TypeError(f"an environment is a name or a gymnasium.Env, not {type(env).__name__} {env!r}")
    return environment.make(env, image_size) if isinstance(env, str) else environment.adapt(env, image_size)


def _changed(config: Any, **settings: Any) -> Any:
    return dataclasses.replace(config, **settings)


def _name_of(policy: Any) -> str:
    return str(policy) if isinstance(policy, str | Path) else getattr(policy, "__qualname__", type(policy).__name__)


def _pixel_space(side: int) -> gym.spaces.Dict:
    image = gym.spaces.Box(0, 255, (side, side, 3), np.uint8)
    return gym.spaces.Dict({"pixels": image, "goal": image})
