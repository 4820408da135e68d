"""What is broken: a tiny agent, its data, its evaluation, and every long operation on them at its smallest."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from numpy.typing import NDArray

from breaking.trial import run
from lewm_agent import AgentConfig, LeWMAgent, ModelConfig, ObjectiveConfig, PlannerConfig, TrainingConfig, environment
from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.collection import collect
from lewm_agent.datasets.conversion import convert
from lewm_agent.eval import success_rate
from lewm_agent.evaluation.measuring import Measuring
from lewm_agent.inspection import describe

SIDE = 16
CONFIG = AgentConfig(
    model=ModelConfig(
        image_size=SIDE,
        patch_size=8,
        encoder_width=16,
        encoder_depth=1,
        encoder_heads=2,
        latent_dim=8,
        projector_width=32,
        predictor_width=16,
        predictor_depth=1,
        predictor_heads=2,
        predictor_head_dim=8,
        predictor_mlp_width=32,
    ),
    objective=ObjectiveConfig(sigreg_projections=16),
    training=TrainingConfig(epochs=0.5, batch_size=16, learning_rate=1e-3, held_out_fraction=0.25),
    planner=PlannerConfig(samples=8, elites=2, iterations=1, execute=2, history=1, clip_actions=True),
)
OTHER_CONFIG = dataclasses.replace(CONFIG, planner=dataclasses.replace(CONFIG.planner, samples=9))
"""Of the model that takes the place of another: a mixture of both is seen."""
EPISODES, SHARD_EPISODES = 8, 2
CHECKPOINT_EVERY = 2
SOURCE_EPISODES = 205
"""Of the foreign file: three shards."""
MEASURED = ("seconds", "clips_per_second", "hardware", "versions", "workers", "model")
"""Parts of the names of what differs between two equal runs."""


@dataclass(frozen=True)
class Scene:
    """Where the things that are broken lie; copies of them are."""

    root: Path

    @property
    def data(self) -> Path:
        """A collected dataset."""
        return self.root / "data"

    @property
    def model(self) -> Path:
        """A saved agent."""
        return self.root / "model"

    @property
    def other(self) -> Path:
        """Another one, of other weights and another planner."""
        return self.root / "other"

    @property
    def source(self) -> Path:
        """A small foreign HDF5 file."""
        return self.root / "source.h5"

    @property
    def journal(self) -> Path:
        """Of an evaluation that stopped before its result was written, ``out.json.unfinished``."""
        return self.root / "out.json.unfinished"

    @property
    def run(self) -> Path:
        """Of a training that stopped after some checkpoints."""
        return self.root / "run"

    def make(self) -> None:
        """Make what is not there."""
        gather(self.data, EPISODES)
        for seed, (folder, config) in enumerate(((self.model, CONFIG), (self.other, OTHER_CONFIG))):
            agent = LeWMAgent("two_room", config, device="cpu", seed=seed)
            agent.set_action_statistics(*OfflineDataset(self.data).action_statistics()).save_pretrained(folder)
        write_source(self.source)
        with mock.patch.object(Measuring, "write", side_effect=KeyboardInterrupt):  # when all is played
            success_rate.main(evaluation(self.model, self.root / "out.json"))
        if not self.journal.exists():
            raise RuntimeError("the evaluation that is to be broken leaves nothing to continue from")

    def make_run(self) -> None:
        """Train until a few checkpoints are there, then stop as a kill would."""
        with contextlib.suppress(KeyboardInterrupt), stopped_after(5):
            train(self.data, self.run, seed=0)


@contextlib.contextmanager
def stopped_after(steps: int) -> Iterator[None]:
    """Training stops with ``KeyboardInterrupt`` when it asks for a later batch."""
    from lewm_agent.training.batches import TrainingClips

    batches = TrainingClips.train_batches

    def few(clips: TrainingClips, start: int, stop: int) -> Iterator[Any]:
        for step, batch in enumerate(batches(clips, start, stop), start):
            if step == steps:
                raise KeyboardInterrupt
            yield batch

    with mock.patch.object(TrainingClips, "train_batches", few):
        yield


def gather(path: Path, episodes: int, num_envs: int = 1) -> OfflineDataset:
    """Collect, with shards so small that there are several."""
    return collect(
        path,
        environment.factory("lewm/TwoRoom-v0", {"image_size": SIDE}, SIDE),
        functools.partial(behavior_policy, "expert"),
        episodes,
        environment_id="lewm/TwoRoom-v0",
        environment_kwargs={"image_size": SIDE},
        policy="expert",
        seed=0,
        num_envs=num_envs,
        shard_episodes=SHARD_EPISODES,
        progress=False,
    )


def train(data: Path, output: Path, *, seed: int = 0, resume: bool = False, workers: int = 0) -> LeWMAgent:
    """Train as ``lewm learn`` does, with a checkpoint every few steps."""
    agent = LeWMAgent("two_room", CONFIG, device="cpu", seed=seed)
    return agent.learn(data, output, resume=resume, checkpoint_every=CHECKPOINT_EVERY, workers=workers, progress=False)


def evaluation(model: Path, output: Path, workers: int = 1) -> list[str]:
    """Arguments that play three pairs of start and goal, two at a time."""
    arguments = ["--env", "two_room", "--episodes", "3", "--num-envs", "2", "--device", "cpu"]
    return [*arguments, "--model", str(model), "--output", str(output), "--workers", str(workers)]


class Foreign:
    """A dataset of others: many episodes of three small frames."""

    description = "made for breaking"
    lengths = (3,) * SOURCE_EPISODES

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """Its columns."""
        rng = np.random.default_rng(index)
        pixels = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
        return {"pixels": pixels, "action": rng.normal(size=(3, 2)).astype(np.float32)}


def write_source(path: Path) -> None:
    """A file in stable-worldmodel's layout."""
    episodes = [Foreign().episode(index) for index in range(3)]
    with h5py.File(path, "w") as file:
        for name in ("pixels", "action"):
            file[name] = np.concatenate([episode[name] for episode in episodes])
        file["ep_len"] = np.full(len(episodes), 3)
        file["ep_offset"] = 3 * np.arange(len(episodes))


@dataclass(frozen=True)
class Operation:
    """One long operation on a folder, which the same call begins and continues.

    Attributes:
        name: what it is called in the table.
        share: of the kills. Processes that are started anew take seconds, so they get fewer.
        run: begins or continues; with workers, if it has any.
        result: what an uninterrupted run and an interrupted one must agree on; JSON.
        kept: how much a kill has left, which later kills must not make less; raises if that is not sound.
        prepare: puts what is there before into the folder.
        with_workers: the same operation in several processes; None if this is all.
    """

    name: str
    share: float
    run: Callable[[Path], None]
    result: Callable[[Path], Any]
    kept: Callable[[Path], int]
    prepare: Callable[[Path], object] = lambda folder: None
    with_workers: Callable[[Path], None] | None = None


def operations(scene: Scene) -> tuple[Operation, ...]:
    """All of them; those with workers are finished without."""
    data: dict[str, Any] = {
        "result": lambda folder: contents(folder / "data"),
        "kept": lambda folder: whole_episodes(folder / "data"),
    }
    learning: dict[str, Any] = {"result": _learned, "kept": _steps}
    measuring: dict[str, Any] = {"result": lambda folder: unmeasured(_json(folder / "out.json")), "kept": _played}
    collect_all = functools.partial(_collect, 1)
    learn, measure = functools.partial(_learn, scene, 0), functools.partial(_evaluate, scene, 1)
    return (
        Operation("collect", 0.14, collect_all, **data),
        Operation("collect --num-envs 2", 0.04, collect_all, **data, with_workers=functools.partial(_collect, 2)),
        Operation("collect, growing", 0.12, collect_all, **{**data, "kept": _grown}, prepare=_three_episodes),
        Operation("learn", 0.22, learn, **learning),
        Operation("learn, 2 readers", 0.06, learn, **learning, with_workers=functools.partial(_learn, scene, 2)),
        Operation("eval", 0.18, measure, **measuring),
        Operation("eval --workers 2", 0.03, measure, **measuring, with_workers=functools.partial(_evaluate, scene, 2)),
        Operation("convert", 0.09, _convert, **data),
        Operation(
            "save over a model",
            0.12,
            functools.partial(_save, scene),
            result=lambda folder: model_in(folder / "model"),
            kept=functools.partial(_replaced, scene),
            prepare=lambda folder: shutil.copytree(scene.model, folder / "model"),
        ),
    )


def _collect(num_envs: int, folder: Path) -> None:
    gather(folder / "data", EPISODES, num_envs)


def _three_episodes(folder: Path) -> None:
    gather(folder / "data", 3)


def _grown(folder: Path) -> int:
    episodes = whole_episodes(folder / "data")
    if episodes < 3:
        raise ValueError(f"{episodes} of the 3 episodes that were there are left")
    return episodes


def _learn(scene: Scene, workers: int, folder: Path) -> None:
    output = folder / "training"
    train(scene.data, output, resume=output.exists(), workers=workers).save_pretrained(folder / "model")


def _steps(folder: Path) -> int:
    checkpoints = (folder / "training" / "checkpoints").glob("step-*")
    whole = [path for path in checkpoints if not path.name.endswith(".part")]
    return int(describe(str(folder / "training"))["steps"]) if whole else 0


def _learned(folder: Path) -> Any:
    lines = (folder / "training" / "metrics.jsonl").read_text().splitlines()
    return [model_in(folder / "model"), [unmeasured(json.loads(line)) for line in lines]]


def _evaluate(scene: Scene, workers: int, folder: Path) -> None:
    output = folder / "out.json"
    if not output.exists() and success_rate.main(evaluation(scene.model, output, workers)):
        raise ValueError("the evaluation has ended with its sentence")


def _played(folder: Path) -> int:
    if (folder / "out.json").exists():
        return len(_json(folder / "out.json")["records"]) * 1000
    journal = folder / "out.json.unfinished"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def _convert(folder: Path) -> None:
    convert(Foreign(), folder / "data", progress=False)


def _save(scene: Scene, folder: Path) -> None:
    LeWMAgent.from_pretrained(scene.other, device="cpu").save_pretrained(folder / "model")


def _replaced(scene: Scene, folder: Path) -> int:
    found, old = model_in(folder / "model"), model_in(scene.model)
    if found not in (old, model_in(scene.other)):
        raise ValueError("neither the old model nor the new one")
    return int(found != old)


def _json(file: Path) -> Any:
    return json.loads(file.read_text())


def whole_episodes(path: Path) -> int:
    """Episodes of the recorded shards, after their hashes were compared."""
    if not (path / "metadata.json").exists() or not json.loads((path / "metadata.json").read_text())["shards"]:
        return 0
    dataset = OfflineDataset(path)
    dataset.verify()
    return int(dataset.num_episodes)


def contents(path: Path) -> Any:
    """Names and hashes of a dataset's shards, and the names of whatever else is there."""
    shards = json.loads((path / "metadata.json").read_text())["shards"]
    for shard in shards:
        if hashlib.sha256((path / shard["file"]).read_bytes()).hexdigest() != shard["sha256"]:
            raise ValueError(f"{shard['file']} has another hash than is recorded")
    return [shards, sorted(file.name for file in path.iterdir() if not file.name.startswith("."))]


def model_in(folder: Path) -> Any:
    """Weights, configuration and environment of a saved agent."""
    agent = LeWMAgent.from_pretrained(folder, device="cpu")
    return [agent.weights_sha256(), json.loads(json.dumps(agent.config.to_dict())), agent.description.environment]


def unmeasured(value: Any) -> Any:
    """A JSON value without times, machine and places."""
    if isinstance(value, dict):
        return {name: unmeasured(part) for name, part in value.items() if not any(word in name for word in MEASURED)}
    return [unmeasured(part) for part in value] if isinstance(value, list) else value


def make_scene(root: Path) -> Scene:
    """The scene in a folder, made in a process of its own: whoever forks later must not have computed."""
    scene = Scene(root)
    ended = run(scene.make)
    if ended.outcome is not None:
        raise RuntimeError(f"what is to be broken could not be made:\n{ended.text}")
    return scene
