"""How each bundled model came about: data and training, in one call."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lewm_agent import environment
from lewm_agent.adapting.teaching import AdaptConfig
from lewm_agent.agent import LeWMAgent
from lewm_agent.config import AgentConfig, configured
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.mixed import MixedDataset
from lewm_agent.planning.presets import PLANNERS, planner_preset
from lewm_agent.presets import preset
from lewm_agent.tools.checks import named
from lewm_agent.tools.settings import settings_to_dict
from lewm_agent.training.run_folder import OutputFolder


@dataclass(frozen=True)
class Further:
    """More data, and a training on all of them that goes on from the first.

    Attributes:
        policy: behavior policy of the further data.
        episodes: how many.
        epochs: passes over the clips of all data.
        seed: of the further data, added to the other.
        environment_kwargs: of the environment they are collected in.
    """

    policy: str
    episodes: int
    epochs: float
    seed: int = 1
    environment_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What to collect and with which preset to learn.

    Attributes:
        environment: short name.
        policy: behavior policy of the data.
        episodes: how many.
        preset: of model, objective, training and planner.
        epochs: passes over the clips, with a schedule as long.
        frame_interval: steps between two recorded frames.
        environment_kwargs: of the environment the data are collected in.
        planner: another one than the preset's.
        settings: further ones that differ from the preset's, as :func:`lewm_agent.config.configured` takes them.
        further: a second training, with more data; None: there is none.
        looks: how the encoder is taught other looks after the training; None: not at all.
    """

    environment: str
    policy: str
    episodes: int
    preset: str
    epochs: float
    frame_interval: int = 1
    environment_kwargs: dict[str, Any] = field(default_factory=dict)
    planner: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    further: Further | None = None
    looks: AdaptConfig | None = None

    def config(self) -> AgentConfig:
        """The preset, with this recipe's planner, other settings, and length of the first training."""
        config = configured(preset(self.preset), {"training.epochs": self.epochs, **self.settings})
        planner = planner_preset(self.planner, config.model) if self.planner else config.planner
        return dataclasses.replace(config, planner=planner)


# Every frame in colors of its own makes other colors harmless (docs/findings/results.md).
_ANY_COLORS = {"model.augmentations": "colors=0.2"}
# The bundled CNNs are from before the presets' became thinner (docs/findings/speed.md).
_WIDE_CNN = {"model.activation": "gelu", "model.first_share": 4}
_WIDE = PLANNERS["wide"]

RECIPES: dict[str, Recipe] = {
    # Drawing is what costs: only the frames that training looks at. An episode goes on to further places.
    "cube": Recipe(
        "cube",
        "mixed",
        1500,
        "moments",
        60.0,
        frame_interval=5,
        environment_kwargs={"terminate_on_success": False},
        settings={
            "model.image_size": 96,
            "model.masks": 8,
            "model.latent_dim": 80,
            "inverse_dynamics.steps": 14_000,
            "inverse_dynamics.furthest": 20,
            "planner.proposals": "approach",
        },
        # Experts with one goal each: what leads to a far one. 3,000 steps of 243 in an epoch.
        further=Further("expert", 1000, 3000 / 243, seed=5, environment_kwargs={"terminate_on_success": True}),
        looks=AdaptConfig(steps=3500, batch_size=48),
    ),
    # The experts' episodes teach what to imitate, aimless pushes what pushes do.
    "push_t": Recipe(
        "push_t",
        "mixed",
        4200,
        "moments",
        12.0,
        settings={
            "model.symmetry": "square",
            "model.predictor_width": 384,
            "model.predictor_depth": 3,
            "inverse_dynamics.steps": 16_000,
            "planner.search": _WIDE.search,
            "planner.samples": _WIDE.samples,
            "planner.elites": _WIDE.elites,
        },
        looks=AdaptConfig(steps=9500, batch_size=48),  # the bundled one's in two runs, of 3,500 and 6,000
    ),
    # Uniformly random actions, as in the released data; an episode goes on after it has met its goal by chance.
    "reacher": Recipe(
        "reacher",
        "random",
        800,
        "small",
        2.2,
        environment_kwargs={"terminate_on_success": False},
        planner="hybrid",
        settings={**_ANY_COLORS, **_WIDE_CNN},
    ),
    # More straightening helps with far goals here; on the Reacher it may fold a coordinate (docs/findings/geometry.md).
    "two_room": Recipe(
        "two_room",
        "expert",
        2000,
        "small",
        2.0,
        planner="slow",
        settings={**_ANY_COLORS, **_WIDE_CNN, "objective.straightening_weight": 1.0},
    ),
}


def reproduce(
    name: str, output: Path, *, seed: int = 0, num_envs: int = 1, device: str = "auto", progress: bool = True
) -> LeWMAgent:
    """Collect and learn as for the bundled model ``name``; continues where an earlier call stopped.

    Args:
        name: of the bundled model.
        output: gets ``data/`` and ``training/``, both with ``further/`` where the recipe has that, ``looks/`` and
            ``model/``; the last is for ``LeWMAgent.from_pretrained``.
        seed: of data and training.
        num_envs: processes that collect.
        device: to learn on.
        progress: show progress bars.

    Raises:
        ValueError: no such model.
    """
    recipe: Recipe = named(name, RECIPES, "recipe")
    folder = OutputFolder(output)
    config = recipe.config()

    def made(kwargs: dict[str, Any]) -> LeWMAgent:
        env = environment.make(recipe.environment, config.model.image_size, **kwargs)
        return LeWMAgent(env, config, device=device, seed=seed)

    agent = made(recipe.environment_kwargs)
    if config.planner.proposals == "none":
        agent.set_planner("hybrid")  # while it learns: bundled models have a head, whatever plans with them by default

    def gathered(gatherer: LeWMAgent, what: Recipe | Further, where: Path, seed: int) -> OfflineDataset:
        every, count = recipe.frame_interval, what.episodes
        return gatherer.collect(
            where, what.policy, count, num_envs=num_envs, frame_interval=every, seed=seed, progress=progress
        )

    dataset = gathered(agent, recipe, folder.data, seed)
    agent.learn(dataset, folder.training, resume=True, progress=progress)
    if (more := recipe.further) is not None:
        elsewhere = made(more.environment_kwargs)
        experts = gathered(elsewhere, more, folder.data / "further", seed + more.seed)
        dataset = MixedDataset([dataset, experts])
        agent.learn(dataset, folder.training / "further", epochs=more.epochs, resume=True, progress=progress)
    agent.set_planner(config.planner)
    if recipe.looks is not None:
        agent.adapt(dataset, folder.looks, resume=True, progress=progress, **settings_to_dict(recipe.looks))
    agent.save_pretrained(folder.model)
    return agent
