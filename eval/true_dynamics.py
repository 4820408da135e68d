"""The ladder of success: what the search, the latents and the predictor each cost.

python eval/true_dynamics.py --env two_room --planner small --episodes 50 --output true_dynamics.json

Search and pairs stay the same on all rungs. On the highest, each candidate is played in a second environment from the
present state, and costs what is left to the goal in exact states: what then fails is the search's fault, or that of a
straight way as a cost. Next, the frames of those plays are encoded, and latents tell the cost, as the planner has it:
what fails beyond that is the latents' fault. On the lowest the model imagines what a plan leads to. The first two take
seconds per plan. Only the proposals of an inverse-dynamics head still come about in imagination, before they are tried.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from lewm_agent import LeWMAgent
from lewm_agent.environment import Environment, action_bounds
from lewm_agent.eval import command
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.playing.solving import play_shipped
from lewm_agent.eval.worlds import world_of
from lewm_agent.eval.worlds.protocols import Pair, Protocol, ProtocolName
from lewm_agent.eval.worlds.world import World, make_environment, restore
from lewm_agent.evaluation.intervals import rate
from lewm_agent.evaluation.playing import pair_seed
from lewm_agent.evaluation.provenance import provenance
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning.goal_cost import goal_cost
from lewm_agent.planning.settings import GoalCost
from lewm_agent.tools.command import console
from lewm_agent.tools.progress import counted
from lewm_agent.tools.replacing import write_json

States = NDArray[np.float64]
FRAMES_AT_ONCE = 256
"""Frames encoded together."""
RUNGS = {
    "exact_states": "exact states, true dynamics",
    "true_dynamics": "latents, true dynamics",
    "imagination": "latents, predictor",
}
"""Names of the rungs in the JSON, and what they are."""


@dataclass(frozen=True)
class Options:
    """Success with exact states and true dynamics, with latents and true dynamics, and with the model alone."""

    env: str
    """Environment: a short name (two_room) or a Gymnasium id."""
    model: str | None = None
    """Bundled name, folder or Hub id; by default the bundled model of the environment."""
    planner: str | None = None
    """Planner preset; by default the model's own."""
    protocol: ProtocolName = "strict"
    """Which pairs, and what counts as success: docs/reference/protocols.md."""
    episodes: int = 50
    """Pairs of the shipped list."""
    planner_seed: int = 0
    """Of the planner's noise."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path | None = None
    """Where to write the JSON."""


class TrueDynamics:
    """A rollout by the world itself, for one episode at a time.

    Args:
        world_model: encodes the frames, and knows how actions are normalised.
        env: in which candidates are played; not the one that is acted in.
    """

    def __init__(self, world_model: WorldModel, env: Environment) -> None:
        self._model, self._env = world_model, env
        self._low, self._high = (np.asarray(bound) for bound in action_bounds(env.action_space))

    def start_from(self, pair: Pair, state: States) -> None:
        """Play the next candidates from this state (S,)."""
        self._pair, self._state = pair, state

    def __call__(self, latents: Tensor, past_blocks: Tensor, blocks: Tensor) -> Tensor:
        """Candidate blocks (1, S, P, block_dim) to the latents (1, S, P, latent_dim) of the frames they lead to."""
        actions = self._model.codec.actions(blocks[0]).cpu().numpy()
        seen = np.stack([self._look(info) for candidate in actions for info in self._play(candidate)])
        return self._latents(torch.as_tensor(seen, device=blocks.device)).view(*blocks.shape[:3], -1)

    def _play(self, blocks: NDArray[np.float32]) -> Iterator[dict[str, Any]]:
        restore(self._env, self._pair, self._state)
        for block in blocks:
            for action in block:
                info = self._env.step(np.clip(action, self._low, self._high).astype(np.float32))[-1]
            yield info

    def _look(self, info: dict[str, Any]) -> NDArray[Any]:
        """What is seen after a block."""
        return np.asarray(self._env.render())

    def _latents(self, seen: Tensor) -> Tensor:
        return torch.cat([self._model.encode(chunk) for chunk in seen.split(FRAMES_AT_ONCE)])


class ExactStates(TrueDynamics):
    """The same, but with coordinates of the world (:meth:`World.coordinates`) for latents.

    Args:
        world_model: knows how actions are normalised.
        env: in which candidates are played.
        world: whose coordinates.
        kind: which of a plan's distances from the goal its cost is.
    """

    def __init__(self, world_model: WorldModel, env: Environment, world: World, kind: GoalCost) -> None:
        super().__init__(world_model, env)
        self._world, self._kind = world, kind

    def start_from(self, pair: Pair, state: States) -> None:
        """See the base class."""
        super().start_from(pair, state)
        self._goal = torch.as_tensor(self._look(restore(self._env, pair, pair.goal_state)[1]))

    def cost(self, coordinates: Tensor, goals: Tensor) -> Tensor:
        """Of candidates' coordinates (1, S, P, K), (1, S), to the goal of the pair; the latent ones are not used."""
        return goal_cost(coordinates, self._goal[None].to(coordinates.device), self._kind)

    def _look(self, info: dict[str, Any]) -> NDArray[Any]:
        return np.array(self._world.coordinates(info["physics"]), np.float32)

    def _latents(self, seen: Tensor) -> Tensor:
        return seen


@torch.inference_mode()
def solves(agent: LeWMAgent, dynamics: TrueDynamics, env: Environment, rules: Protocol, pair: Pair, seed: int) -> bool:
    """Whether the agent, whose controller tries its plans with ``dynamics``, comes to the goal in ``env``."""
    _, info = restore(env, pair, pair.state)
    states = [np.array(info["state"])]
    goal = env.unwrapped.goal_frame()  # type: ignore[attr-defined]
    memories = agent.initial_memories([seed])
    for _ in range(rules.budget):
        dynamics.start_from(pair, states[-1])
        actions, memories = agent.predict({"pixels": np.asarray(env.render())[None], "goal": goal[None]}, memories)
        states.append(np.array(env.step(actions[0])[-1]["state"]))
        if rules.success(np.stack(states), pair.goal_state)[1:].any():
            return True
    return False


def measure(options: Options) -> dict[str, Any]:
    """Success of one model on every rung, pair by pair."""
    command.at_least(options, planner_seed=0)
    world = world_of(options.env)
    environment = world.environment
    chosen = shipped(environment, options.protocol).first(options.episodes)
    model = options.model or command.bundled(options.env)
    agent = command.load_model(model, environment, options.device, options.planner)
    if agent.config.planner.search.needs_gradient:
        raise ValueError("the world itself has no gradient to descend; use another --planner")
    rules = world.protocol(options.protocol)
    make = functools.partial(
        make_environment, environment, {**agent.description.environment_kwargs, **rules.environment_kwargs}
    )
    imagined = [
        solved
        for _, solved in play_shipped(agent, environment, options.protocol, options.episodes, options.planner_seed)
    ]
    env, planner = make(), agent.config.planner
    exact = ExactStates(agent.world_model, make(), world, planner.cost)
    encoded = TrueDynamics(agent.world_model, make())
    seeded = [(pair, pair_seed(options.planner_seed, number)) for number, pair in enumerate(chosen.pairs)]
    solved = {"imagination": imagined}
    for name, dynamics, cost in (("exact_states", exact, exact.cost), ("true_dynamics", encoded, None)):
        agent.set_planner(planner, cost, dynamics)
        shown = counted(RUNGS[name], seeded)
        solved[name] = [solves(agent, dynamics, env, rules, pair, seed) for pair, seed in shown]
    return {
        "env": environment,
        "protocol": options.protocol,
        "planner_seed": options.planner_seed,
        **provenance(agent, options.model or options.env),
        **chosen.origin(),
        **{name: {**rate(sum(solved[name]), len(seeded)), "solved": solved[name]} for name in RUNGS},
    }


def _work(options: Options) -> None:
    result = measure(options)
    table = Table("cost and dynamics", "success %", "95 % interval", title=f"{options.env}, {options.protocol}")
    for name, what in RUNGS.items():
        low, high = result[name]["success_rate_ci95"]
        table.add_row(what, f"{result[name]['success_rate']:.1f}", f"{low:.1f} to {high:.1f}")
    console().print(table)
    if options.output is not None:
        write_json(options.output, result)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, writes=("output",))


if __name__ == "__main__":
    sys.exit(main())
