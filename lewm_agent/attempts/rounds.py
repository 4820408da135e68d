"""Rounds of trying and learning: attempts with the present model, then learning from all that there is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lewm_agent.attempts.picture import draw
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.mixed import Given, parts_of, weights_of
from lewm_agent.datasets.rollout import episode_seed
from lewm_agent.tools import strict_json
from lewm_agent.tools.checks import require, whole_number
from lewm_agent.tools.folder_lock import LOCK_FILE, locked
from lewm_agent.tools.replacing import part_of, write_json

STREAM = 2
"""Of the seeds of attempts; other collections draw from stream 0, evaluations from 1."""
VALIDATION_SEED = 1
"""Of the pairs that rounds are compared on."""
RESULT, CURVE = "improve.json", "curve.png"
Row = dict[str, Any]


@dataclass(frozen=True)
class RoundSettings:
    """What rounds are like.

    Attributes:
        rounds: of attempts and learning, after the model that they begin with.
        episodes: attempts in each.
        epochs: passes over all clips in each, with a schedule as long.
        share: of the clips that comes from attempts, those of all rounds together.
        noise: of attempts.
        seed: of attempts, batch order and whatever is fitted.
    """

    rounds: int = 3
    episodes: int = 300
    epochs: float = 1.0
    share: float = 0.5
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number("rounds", self.rounds, 1)
        whole_number("episodes", self.episodes, 2)
        require(self.epochs > 0, f"epochs must be positive, got {self.epochs}")
        require(0 < self.share < 1, f"share must be between 0 and 1, got {self.share}: so much comes from attempts")


class Improvable(Protocol):
    """What rounds ask of an agent."""

    def attempt(self, path: Path, seed: int, frame_interval: int) -> OfflineDataset:
        """Gather the attempts of a round, or what is missing of them."""

    def train(self, data: Sequence[Given], weights: Sequence[float] | None, epochs: float | None, output: Path) -> None:
        """Learn from the present weights on, or go on with a training that stands there; by default as configured."""

    def load(self, model: Path) -> None:
        """Take over a model that :meth:`save` has written."""

    def save(self, model: Path) -> None:
        """Write the present model, all or nothing."""

    def measure(self, output: Path) -> Row:
        """Success on the validation pairs, as a result's JSON, which is also written."""


class RoundFolder:
    """What lies where in the folder of a round.

    Args:
        output: of all rounds.
        number: of the round, 0 for what they begin with.
    """

    def __init__(self, output: Path, number: int) -> None:
        self.path = output / f"round-{number}"
        self.data, self.training, self.model = (self.path / name for name in ("data", "training", "model"))
        self.validation, self.seconds = self.path / "validation.json", self.path / "seconds.json"

    @property
    def has_model(self) -> bool:
        """Whether the model of the round is there, and whole."""
        return (self.model / "config.json").is_file()

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that a block takes, however it ends, to what the stage has taken before; a kill loses it."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.path.mkdir(parents=True, exist_ok=True)
            spent = self.spent()
            spent[stage] = round(spent.get(stage, 0.0) + time.monotonic() - began, 3)
            write_json(self.seconds, spent)

    def spent(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        return dict(strict_json.read(self.seconds)) if self.seconds.is_file() else {}


def improve(
    agent: Improvable,
    data: OfflineDataset,
    output: Path,
    settings: RoundSettings,
    request: dict[str, Any],
    learned: bool,
    told: Callable[[Row], None],
) -> Row:
    """Do the rounds that the folder lacks, leave the agent with the best model, and return the table.

    Args:
        agent: who tries and learns.
        data: to begin with, and part of every training.
        output: folder.
        settings: of the rounds.
        request: what else the outcome depends on, ready for JSON.
        learned: whether the agent begins as it is, and does not first learn from the data.
        told: is given the row of every round, also of those that were there before.

    Raises:
        ValueError: the folder holds rounds of another request.
        BlockingIOError: another process works in it.
    """
    asked = {**request, **{name: value for name, value in asdict(settings).items() if name != "rounds"}}
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is to be a folder of rounds, and is a file: give another output")
    _check_same(output, asked)
    output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        rows: list[Row] = []
        write_json(output / RESULT, _result(asked, _known(output)))
        for number in range(settings.rounds + 1):
            folders = [RoundFolder(output, earlier) for earlier in range(number + 1)]
            rows.append(_round(agent, data, folders, settings, learned))
            result = _result(asked, [*rows, *_known(output)[len(rows) :]])
            write_json(output / RESULT, result)
            told(rows[-1])
        best = RoundFolder(output, result["best_round"])
        agent.load(best.model)
        agent.save(output / "model")
        draw(result["rounds"], output / CURVE)
    return result


def _round(
    agent: Improvable, data: OfflineDataset, folders: list[RoundFolder], settings: RoundSettings, learned: bool
) -> Row:
    """Whatever the last of the folders lacks; its row of the table."""
    number, folder = len(folders) - 1, folders[-1]
    if not folder.validation.is_file():
        if not folder.has_model:
            if number:
                agent.load(folders[-2].model)
                with folder.timed("collect"):
                    seed = episode_seed(settings.seed, number, STREAM)
                    agent.attempt(folder.data, seed, data.frame_interval)
            if number or not learned:
                attempts = [OfflineDataset(one.data) for one in folders[1:]]
                weights = _weights(data, attempts, settings.share) if number else weights_of(data)
                with folder.timed("learn"):
                    epochs = settings.epochs if number else None
                    agent.train([*parts_of(data), *attempts], weights, epochs, folder.training)
            agent.save(folder.model)
        agent.load(folder.model)
        with folder.timed("validate"):
            agent.measure(folder.validation)
    return _row(number, data, folders)


def _weights(data: OfflineDataset, attempts: list[OfflineDataset], share: float) -> list[float]:
    """So much from all attempts together, by their rows, and the rest from the parts of the data, as they are mixed."""
    parts = parts_of(data)
    rows = [len(part.actions) for part in parts]
    given = weights_of(data) or [count / sum(rows) for count in rows]
    tried = [len(one.actions) for one in attempts]
    weights = [(1 - share) * weight for weight in given] + [share * count / sum(tried) for count in tried]
    return [weight / sum(weights) for weight in weights]


def _row(number: int, data: OfflineDataset, folders: list[RoundFolder]) -> Row:
    """What the table says of a round; steps and minutes are of all rounds so far."""
    found = strict_json.read(folders[-1].validation)
    attempts = [OfflineDataset(folder.data) for folder in folders[1:]]
    last = attempts[-1].metadata if attempts else None
    spent = [folder.spent() for folder in folders]
    return {
        "round": number,
        "success_rate": found["success_rate"],
        "success_rate_ci95": found["success_rate_ci95"],
        "pairs": found["episodes"],
        "attempts": sum(one.num_episodes for one in attempts),
        "attempts_reached_percent": None
        if last is None or last.reached is None
        else _percent(last.reached, attempts[-1]),
        "environment_steps": sum(map(_steps, attempts)),
        "data_steps": _steps(data),
        "minutes": round(sum(sum(v for k, v in one.items() if k != "validate") for one in spent) / 60, 2),
        "validation_minutes": round(sum(one.get("validate", 0.0) for one in spent) / 60, 2),
        "weights_sha256": found["model"]["weights_sha256"],
        "model": f"{folders[-1].path.name}/model",
    }


def _percent(reached: int, attempts: OfflineDataset) -> float:
    return round(100 * reached / attempts.num_episodes, 1)


def _steps(data: OfflineDataset) -> int:
    return int((data.episode_lengths - 1).sum())


def _result(asked: dict[str, Any], rows: list[Row]) -> Row:
    """What :data:`RESULT` holds; of rounds that are equally good the first is the best."""
    best = int(np.argmax([row["success_rate"] for row in rows])) if rows else None
    return {"request": asked, "own_attempts": True, "rounds": rows, "best_round": best}


def _known(output: Path) -> list[Row]:
    """Rows of the rounds that were done before."""
    place = output / RESULT
    return list(strict_json.read(place)["rounds"]) if place.is_file() else []


def _check_same(output: Path, asked: dict[str, Any]) -> None:
    """Raise ``ValueError``, which says what differs, if the folder holds something else than rounds of this request."""
    place = output / RESULT
    if not place.is_file():
        left = (LOCK_FILE, part_of(place).name)
        others = [path.name for path in output.iterdir() if path.name not in left] if output.is_dir() else []
        require(not others, f"{output} holds {others[:1]} and no rounds: give another output")
        return
    before = strict_json.read(place)["request"]
    differing = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
    if differing:
        told = "; ".join(f"{name} {before.get(name)!r}, not {asked.get(name)!r}" for name in differing)
        raise ValueError(f"{output} holds rounds with {told}: go on with that, or give another output")
