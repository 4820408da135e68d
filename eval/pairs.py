"""Lists of pairs in files: drawn once, and then the same for every agent and planner.

python eval/pairs.py --env cube --protocol strict --episodes 200 --seed 7 --output pairs/cube-strict.safetensors

The lists that ship with the package (``pair_lists/``) were made by this command with ``--episodes 200 --seed 7``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import tyro

from lewm_agent.envs.factors import Look
from lewm_agent.eval.worlds import world_of
from lewm_agent.eval.worlds.floors import floors
from lewm_agent.eval.worlds.held_out import draw_pairs
from lewm_agent.eval.worlds.protocols import (
    GOAL_OFFSET,
    Pair,
    ProtocolName,
    RuleSays,
    States,
    at_offset,
    in_looks,
)
from lewm_agent.eval.worlds.world import make_environment
from lewm_agent.evaluation.suite import Suite
from lewm_agent.tools import command
from lewm_agent.tools.outputs import reserved
from lewm_agent.tools.replacing import write_atomically

FORMAT = "lewm-agent pairs 1"
COLUMNS = ("episode", "start", "state", "goal_state", "actions")
FOLDER = Path(__file__).parent / "pair_lists"
ONLY_IN_TRAINING = ("image_size", "terminate_on_success", "drawn_looks")
"""Arguments of an environment that do not change which pairs can be drawn in it."""


@dataclass(frozen=True)
class PairList:
    """Pairs of one environment and protocol, and where they come from.

    Attributes:
        environment: Gymnasium id.
        protocol: its name, one of ``PROTOCOL_NAMES``, or with an offset, ``moderate-75``.
        seed: that they were drawn with.
        pairs: in a fixed order; the first n of them are a list of their own.
        environment_kwargs: of the environment they were recorded in.
    """

    environment: str
    protocol: str
    seed: int
    pairs: list[Pair]
    environment_kwargs: dict[str, Any] = field(default_factory=dict)

    def first(self, count: int) -> PairList:
        """The first ``count`` pairs. Raises ``ValueError`` if there are fewer, or none are asked for."""
        if count < 1:
            raise ValueError(f"episodes must be at least 1, got {count}")
        if count > len(self.pairs):
            raise ValueError(
                f"the list of pairs holds {len(self.pairs)}, not {count}; ask for fewer episodes, or give --seed to "
                "draw as many as you like"
            )
        chosen = self.pairs[:count]
        return PairList(self.environment, self.protocol, self.seed, chosen, self.environment_kwargs)

    def check_fits(self, environment: str, protocol: str, trained_in: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` unless these are pairs of an environment and protocol for an agent trained like that."""
        made_for, asked_for = (self.environment, self.protocol), (environment, protocol)
        if made_for != asked_for:
            raise ValueError(f"these pairs were made for {' and '.join(made_for)}, not for {' and '.join(asked_for)}")
        if self.environment_kwargs != recorded_in(trained_in):
            raise ValueError(
                f"these pairs were recorded in an environment with {self.environment_kwargs}, the model was trained in "
                f"one with {recorded_in(trained_in)}; give --seed to draw others"
            )

    def sha256(self) -> str:
        """Hash of the pairs: equal for equal starts, goals, actions and looks, wherever they are stored."""
        digest = hashlib.sha256()
        for name, values in self._columns().items():
            digest.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
        digest.update("".join(self._looks().values()).encode())
        return digest.hexdigest()

    def suite(self, environment_kwargs: Mapping[str, Any] | None = None) -> Suite:
        """What is played of them, by the rules of their protocol, in an environment made with some arguments."""
        world = world_of(self.environment)
        rules = world.protocol(self.protocol)
        kwargs = {**(environment_kwargs or {}), **rules.environment_kwargs}
        return Suite(
            environment=self.environment,
            protocol=self.protocol,
            make=functools.partial(make_environment, self.environment, kwargs),
            trials=[pair.trial for pair in self.pairs],
            success=RuleSays(rules.success),
            budget=rules.budget,
            seed=self.seed,
            sha256=self.sha256(),
            floors=functools.partial(floors, world, self.pairs),
            kinds={name: functools.partial(_starts_so, belongs) for name, belongs in world.starts.items()},
        )

    def origin(self) -> dict[str, Any]:
        """How many they are, their seed and their hash, as results name them."""
        return {"episodes": len(self.pairs), "seed": self.seed, "pairs_sha256": self.sha256()}

    def save(self, path: Path) -> None:
        """Write a safetensors file, all or nothing."""
        settings = {"environment_kwargs": json.dumps(self.environment_kwargs), "seed": str(self.seed)}
        metadata = {"format": FORMAT, "environment": self.environment, "protocol": self.protocol, **settings}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, safetensors.numpy.save(self._columns(), metadata | self._looks()))

    def _columns(self) -> dict[str, np.ndarray[Any, Any]]:
        return {name: np.stack([np.asarray(getattr(pair, name)) for pair in self.pairs]) for name in COLUMNS}

    def _looks(self) -> dict[str, str]:
        """The factors of all pairs as JSON, if any pair has some."""
        factors = [pair.factors for pair in self.pairs]
        return {"factors": json.dumps(factors, sort_keys=True)} if any(factors) else {}


def recorded_in(trained_in: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the environment that pairs are recorded in for an agent that was trained in one with others."""
    return {name: value for name, value in trained_in.items() if name not in ONLY_IN_TRAINING}


def _starts_so(belongs: Callable[[States], bool], record: dict[str, Any]) -> bool:
    return belongs(np.array(record["state"]))


def load(path: Path) -> PairList:
    """Read a list. Raises ``ValueError`` if there is none at ``path``, or it is damaged or something else."""
    if not path.is_file():
        raise ValueError(f"there is no list of pairs at {path}")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path} is not a list of pairs made by eval/pairs.py")
            columns = [file.get_tensor(name) for name in COLUMNS]
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a list of pairs ({error})") from None
    looks = json.loads(metadata["factors"]) if "factors" in metadata else [{}] * len(columns[0])
    pairs = [
        Pair(int(episode), int(start), state, goal, actions, factors)
        for episode, start, state, goal, actions, factors in zip(*columns, looks, strict=True)
    ]
    kwargs = json.loads(metadata["environment_kwargs"])
    return PairList(metadata["environment"], metadata["protocol"], int(metadata["seed"]), pairs, kwargs)


def shipped(environment: str, protocol_name: str) -> PairList:
    """The list that ships with the package. Raises ``ValueError`` for names that are unknown."""
    world = world_of(environment)
    world.protocol(protocol_name)
    path = FOLDER / f"{world.name}-{protocol_name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(file.stem.removeprefix(f"{world.name}-") for file in FOLDER.glob(f"{world.name}-*")))
        raise ValueError(
            f"no list of {protocol_name} pairs of {world.name} ships, only of {known}; give --seed to draw others"
        )
    return load(path)


def draw(
    environment: str, protocol_name: str, count: int, seed: int, environment_kwargs: Mapping[str, Any] | None = None
) -> PairList:
    """Draw a list from held-out episodes; see :func:`lewm_agent.eval.worlds.held_out.draw_pairs`."""
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    world, kwargs = world_of(environment), dict(environment_kwargs or {})
    pairs = draw_pairs(world.environment, world.protocol(protocol_name), count, seed, kwargs)
    return PairList(world.environment, protocol_name, seed, pairs, kwargs)


def make(
    env: str,
    output: Path,
    protocol: ProtocolName = "paper",
    offset: int = GOAL_OFFSET,
    looks: Look = "colors",
    episodes: int = 200,
    seed: int = 0,
) -> None:
    """Draw pairs of start and goal from held-out episodes and write them to a file for success_rate.py --pairs.

    Args:
        env: environment, a short name (two_room) or a Gymnasium id.
        output: the file, .safetensors.
        protocol: which pairs: docs/reference/protocols.md.
        offset: with --protocol moderate, environment steps from start to goal.
        looks: with --protocol varied, in what pairs look different: colors, light, camera or clutter.
        episodes: how many pairs.
        seed: of the held-out episodes and of the choice among their rows.
    """
    name = in_looks(at_offset(protocol, offset), looks)
    with reserved(output):
        pairs = draw(env, name, episodes, seed)
        pairs.save(output)
    command.say(f"{episodes} pairs in {output}, SHA-256 {pairs.sha256()}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(lambda given: tyro.cli(make, args=given, description=make.__doc__), arguments)


if __name__ == "__main__":
    sys.exit(main())
