"""Goal-reaching agents by name: LeWM and what it is compared with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Unpack, get_args

from lewm_agent import environment
from lewm_agent.agent import LeWMAgent
from lewm_agent.agents.rivals.dino_wm import DinoWMAgent, DinoWMConfig
from lewm_agent.agents.rivals.dreamer import DreamerConfig
from lewm_agent.agents.rivals.dreamer_agent import DreamerAgent
from lewm_agent.agents.rivals.frozen import read_encoder
from lewm_agent.agents.rivals.goal_policy import Algorithm, GoalPolicyConfig
from lewm_agent.agents.rivals.goal_policy_agent import GoalPolicyAgent
from lewm_agent.agents.rivals.online_agent import OnlineAgent
from lewm_agent.agents.rivals.sac_her import SACConfig
from lewm_agent.agents.rivals.sac_her_agent import SACAgent, SACStatesAgent
from lewm_agent.agents.rivals.tdmpc2 import TDMPC2Config
from lewm_agent.agents.rivals.tdmpc2_agent import TDMPC2Agent
from lewm_agent.checkpoints import checkpoint, hub, wrappings
from lewm_agent.checkpoints.hub import HubOptions
from lewm_agent.config import AgentConfig
from lewm_agent.environment import Environment
from lewm_agent.improving_agent import ImprovingAgent
from lewm_agent.models.objectives import registry as objectives
from lewm_agent.planning.presets import planner_preset
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.presets import preset
from lewm_agent.tools.checks import named

Agent = ImprovingAgent[Any, Any]
AnyConfig = AgentConfig | DinoWMConfig | GoalPolicyConfig | TDMPC2Config | DreamerConfig | SACConfig


def agent_classes() -> dict[str, type[Agent]]:
    """All kinds of agents: every registered objective is one, beside those with other models."""
    policies = dict.fromkeys(get_args(Algorithm), GoalPolicyAgent)
    rewarded: dict[str, type[Agent]] = {"tdmpc2": TDMPC2Agent, "dreamer": DreamerAgent}
    hindsight: dict[str, type[Agent]] = {"sac_her": SACStatesAgent, "sac_her_pixels": SACAgent}
    others: dict[str, type[Agent]] = {**rewarded, **hindsight, **policies}
    return {**dict.fromkeys(objectives.entries(), LeWMAgent), "dino_wm": DinoWMAgent, **others}


def agent_config(name: str, base: AgentConfig, frozen: str | None = None) -> AnyConfig:
    """The configuration of the agent called ``name``, with the sizes and the training of a LeWM configuration.

    What others do not have is left out: an inverse-dynamics head, whose planners give way to planner ``small``, and,
    for DINO-WM, the slow metric.

    Args:
        name: of the agent.
        base: whose sizes and training it gets.
        frozen: encoder that is taken over and not trained, by policies, TD-MPC2, Dreamer, SAC and DINO-WM: bundled
            name, folder or Hub id of a trained world model; for DINO-WM also a ViT of timm, by default DINOv2.

    Raises:
        ValueError: no agent of that name, or one that trains its encoder was given a frozen one.
    """
    agent_class = named(name, agent_classes(), "agent")
    if agent_class is GoalPolicyAgent:
        algorithm = next(known for known in get_args(Algorithm) if known == name)
        return dataclasses.replace(GoalPolicyConfig.like(base, algorithm), frozen=frozen)
    if agent_class is TDMPC2Agent:
        return TDMPC2Config.like(base, frozen)
    if agent_class is DreamerAgent:
        return DreamerConfig.like(base, frozen)
    if agent_class in (LeWMAgent, SACStatesAgent) and frozen is not None:
        does = "learns its encoder" if agent_class is LeWMAgent else "looks at states"
        raise ValueError(f"`{name}` {does} and takes no frozen one")
    if issubclass(agent_class, SACAgent):
        return SACConfig.like(base, "states" if agent_class is SACStatesAgent else "pixels", frozen)
    if agent_class is LeWMAgent and name == base.objective.kind:
        return base
    planner = planner_preset("small", base.model) if base.planner.proposals != "none" else base.planner
    if agent_class is DinoWMAgent:
        return DinoWMConfig.like(base, dataclasses.replace(planner, metric="euclidean"), frozen)
    return dataclasses.replace(base, objective=objectives.find(name).settings(), planner=planner, inverse_dynamics=None)


def make_agent(
    name: str,
    env: str | Environment,
    config: str | AnyConfig = "small",
    *,
    frozen: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Agent:
    """A new agent.

    Args:
        name: ``lewm``, ``pldm``, ``dino_wm``, ``gcbc``, ``gcivl``, ``gciql``, ``tdmpc2``, ``dreamer``,
            ``sac_her``, ``sac_her_pixels``, or a registered objective.
        env: short name (``two_room``), Gymnasium id, or an environment, as for ``LeWMAgent``.
        config: name of a preset or a LeWM configuration, whose sizes and training the agent takes over; or a
            configuration of its own kind, which is used as it is.
        frozen: as for :func:`agent_config`.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of the initial weights, of training and of the planner's noise.

    Raises:
        ValueError: no agent of that name, or a configuration of another one.
        ImportError: the agent is `dreamer`, and TorchRL is not installed.
    """
    agent_class = named(name, agent_classes(), "agent")
    config = preset(config) if isinstance(config, str) else config
    config = agent_config(name, config, frozen) if isinstance(config, AgentConfig) else config
    if not isinstance(config, agent_class.config_type) or agent_class.kind_of(config) != name:
        raise ValueError(f"a {type(config).__name__} does not describe the agent `{name}`; give a preset's name")
    return agent_class(env, config, device=device, seed=seed)


def make_online(
    name: str, env: str, preset_name: str, environment_kwargs: str, *, frozen: str | None, device: str, seed: int
) -> OnlineAgent[Any, Any]:
    """A new agent that learns in its environment, which is made with arguments given as a JSON object.

    Raises:
        ValueError: it learns from recorded episodes; or as for :func:`make_agent`.
    """
    agent_class = named(name, agent_classes(), "agent")
    if not issubclass(agent_class, OnlineAgent):
        online = ", ".join(kind for kind, known in agent_classes().items() if issubclass(known, OnlineAgent))
        raise ValueError(f"`{name}` learns from recorded episodes: lewm learn; online do {online}")
    config = agent_config(name, preset(preset_name), frozen)
    size = config.model.image_size if frozen is None else read_encoder(frozen)[0].image_size
    return agent_class(environment.from_text(env, size, environment_kwargs), config, device=device, seed=seed)


def load_agent(
    name: str | Path,
    *,
    planner: str | PlannerConfig | None = None,
    device: str = "auto",
    seed: int = 0,
    **options: Unpack[HubOptions],
) -> Agent:
    """A trained agent of whatever kind, ready to act.

    Args:
        name: a bundled model (``two_room``), a folder, or a Hub id (``user/model``); which of them, if it may be
            several, says :func:`lewm_agent.checkpoints.hub.find_here`.
        planner: other planner settings than the saved ones, for agents that plan.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of the planner's noise.
        options: how a Hub id is fetched: ``revision``, ``cache_dir``, ``token``, ``local_files_only``
            (:func:`lewm_agent.checkpoints.hub.locate`).

    Raises:
        CheckpointError: nothing by that name, or it is incomplete, damaged or foreign.
        ValueError: an unknown kind of agent: its objective has not been registered.
    """
    folder = hub.locate(name, **options)
    kind = "lewm" if wrappings.find(folder) is not None else checkpoint.agent_kind(folder)
    agent_class = named(kind, agent_classes(), "agent")
    return agent_class.from_pretrained(folder, planner=planner, device=device, seed=seed)
