"""An agent that acts: an environment, a model, and what is remembered of the episode it is in."""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent import environment
from lewm_agent.checkpoints import checkpoint
from lewm_agent.checkpoints.checkpoint import Description
from lewm_agent.environment import Environment
from lewm_agent.models.goal_states import GoalState
from lewm_agent.models.learner import Learner
from lewm_agent.planning.decider import NO_GOAL_STATES, Decider
from lewm_agent.planning.episodes import Actions, EpisodeMemory, Frames, Goal, Memories, begin_episodes, episode_seed
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.tools.checks import require, whole_number
from lewm_agent.tools.frames import checked_frames
from lewm_agent.training.settings import AgentSettings
from lewm_agent.training.sharing.placement import own_device

ConfigT = TypeVar("ConfigT", bound=AgentSettings)
ModelT = TypeVar("ModelT", bound=Learner)


def resolve_device(device: str | torch.device) -> torch.device:
    """``auto`` is CUDA where present, else the CPU; of processes started together each has a GPU of its own.

    Raises:
        ValueError: a device that is not there.
    """
    device = str(device)
    if device == "auto":
        return own_device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if device.split(":")[0] not in available:
        raise ValueError(f"device {device!r} is not available here; there are: auto, {', '.join(available)}")
    return torch.device(device) if ":" in device else own_device(device)


class ActingAgent(ABC, Generic[ConfigT, ModelT]):
    """An agent that acts towards goal images with a model, learned or not yet.

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
    looks_at: ClassVar[str] = "pixels"
    """What :meth:`predict` decides on; an agent that looks at ``state`` is told goals as states, too."""

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
        self.model: ModelT = self.make_model(self.config).to(self.device).eval()
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

    @staticmethod
    @abstractmethod
    def make_model(config: Any) -> ModelT:
        """The untrained model that a configuration describes."""

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

    def weights_sha256(self) -> str:
        """Hash of all weights, wherever they were loaded from; every result names it."""
        return checkpoint.weights_sha256(self.model.state_dict())

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

    def _environment_factory(self) -> Callable[[], Environment]:
        if self.description.environment is None:
            return environment.same(self.env)
        size = self.config.model.image_size
        return environment.factory(self.description.environment, self.description.environment_kwargs, size)

    # --- act ---------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget the episode that :meth:`act` is in."""
        self._episodes = getattr(self, "_episodes", -1) + 1
        self._memory: Memories = self.initial_memories([episode_seed(self.seed, 0, self._episodes)])

    def act(self, obs: Any, goal_obs: Frames | None = None, *, goal_state: GoalState | None = None) -> Actions:
        """The next action towards a goal; remembers the episode until :meth:`reset` or another goal.

        Args:
            obs: frame (H, W, 3) uint8 of any size, or a dict with ``pixels`` (and ``goal``).
            goal_obs: goal frame (H, W, 3) uint8; may be left out when ``obs`` has ``goal``.
            goal_state: numbers instead of ``goal_obs``: (S,) of the column that training data say where the environment
                is by, or of columns by name; NaN for those that do not matter.

        Returns:
            (action_dim,) float32, inside the action space; the number of the choice where actions are discrete.
        """
        seen = obs.get(self.looks_at) if isinstance(obs, dict) else obs
        if seen is None and self.looks_at == "pixels":
            raise ValueError(f"act needs a frame: act(frame, goal_obs), or a dict with `pixels`, not with {list(obs)}")
        goal = obs.get("goal") if goal_obs is None and isinstance(obs, dict) else goal_obs
        if goal_state is not None:
            require(goal_obs is None, "act was given a goal image and a goal_state: give one of them")
            action, self._memory = self.predict({self.looks_at: seen, "goal_state": goal_state}, self._memory)
            return action
        if goal is None:
            raise ValueError("act needs a goal image: act(obs, goal_obs), or an observation dict with `goal`")
        action, self._memory = self.predict({self.looks_at: seen, "goal": goal}, self._memory)
        return action

    def predict(
        self,
        observation: dict[str, Any],
        state: Memories | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[Actions, Memories]:
        """Actions for one observation or a batch, the plan travelling in ``state`` (SB3's ``PolicyPredictor``).

        Args:
            observation: ``pixels`` and ``goal``, each (H, W, 3) or (N, H, W, 3) uint8, of any height and width; or
                ``goal_state`` in place of ``goal``, (S,) or (N, S), as for :meth:`act`.
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
        seen, goals = self._shown(observation)
        if len(goals) not in (1, len(seen)):
            raise ValueError(f"there are {len(goals)} goals for {len(seen)} frames; give one goal, or one for each")
        memories = begin_episodes(self.seed, state, episode_start, len(seen))
        goals = np.broadcast_to(goals, (len(seen), *goals.shape[1:]))
        actions, memories = self.controller.decide(memories, seen, goals)
        if self.config.model.discrete_actions:
            actions = actions.argmax(axis=1)
        single = np.ndim(observation[self.looks_at]) < seen.ndim
        return (actions[0] if single else actions), memories

    def _shown(self, observation: dict[str, Any]) -> tuple[NDArray[Any], Goal]:
        """Frames (N, H, W, 3), and goals: as many, or one. Raises ``ValueError`` for anything else."""
        side = self.config.model.image_size
        seen = checked_frames(observation, "pixels", side)
        if "goal_state" in observation:
            return seen, self._wanted(observation["goal_state"])
        return seen, checked_frames(observation, "goal", side)

    def _wanted(self, goal_state: GoalState) -> Goal:
        """Numbers (N, S) of a goal. Raises ``ValueError`` if this model knows none, or others."""
        head = self.model.goal_states
        if head is None:
            raise ValueError(NO_GOAL_STATES)
        return np.atleast_2d(head.vector(goal_state))

    def initial_memories(self, seeds: Sequence[int]) -> Memories:
        """A ``state`` for :meth:`predict` in which episode i plans with the noise of ``seeds[i]``."""
        return [EpisodeMemory(seed=seed) for seed in seeds]


def prepared(env: str | Environment, image_size: int) -> Environment:
    """The environment called ``env``, or ``env`` itself, with frames of the given side and vectors as actions."""
    if not isinstance(env, str | gym.Env):
        raise TypeError(f"an environment is a name or a gymnasium.Env, not {type(env).__name__} {env!r}")
    return environment.make(env, image_size) if isinstance(env, str) else environment.adapt(env, image_size)


def _changed(config: Any, **settings: Any) -> Any:
    return dataclasses.replace(config, **settings)


def _pixel_space(side: int) -> gym.spaces.Dict:
    image = gym.spaces.Box(0, 255, (side, side, 3), np.uint8)
    return gym.spaces.Dict({"pixels": image, "goal": image})
