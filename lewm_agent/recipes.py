"""How each bundled model came about: data and training, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lewm_agent.agent import LeWMAgent
from lewm_agent.config import named


@dataclass(frozen=True)
class Recipe:
    """What to collect and with which preset to learn.

    Attributes:
        environment: short name.
        policy: behavior policy of the data.
        episodes: how many.
        preset: of model, objective, training and planner.
    """

    environment: str
    policy: str
    episodes: int
    preset: str


RECIPES: dict[str, Recipe] = {
    "two_room": Recipe(environment="two_room", policy="expert", episodes=2000, preset="small_straight"),
}


def reproduce(
    name: str, output: Path, *, seed: int = 0, num_envs: int = 1, device: str = "auto", progress: bool = True
) -> LeWMAgent:
    """Collect and learn as for the bundled model ``name``; continues where an earlier call stopped.

    Args:
        name: of the bundled model.
        output: gets ``data/``, ``training/`` and ``model/``; the last is for ``LeWMAgent.from_pretrained``.
        seed: of data and training.
        num_envs: processes that collect.
        device: to learn on.
        progress: show progress bars.

    Raises:
        ValueError: no such model.
    """
    recipe: Recipe = named(name, RECIPES, "recipe")
    agent = LeWMAgent(recipe.environment, recipe.preset, device=device, seed=seed)
    dataset = agent.collect(output / "data", recipe.policy, recipe.episodes, num_envs=num_envs, progress=progress)
    agent.learn(dataset, output / "training", resume=True, progress=progress)
    agent.save_pretrained(output / "model")
    return agent
