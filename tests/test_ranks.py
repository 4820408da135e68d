"""A training that two processes share is the training of one; each mistake in sharing is one sentence, on one rank."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.agents import make_agent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.models import ranks
from lewm_agent.models.encoder import Encoder
from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.models.learner import Learner
from lewm_agent.models.objectives.ema import EmaConfig
from lewm_agent.models.objectives.pldm import PLDMConfig
from lewm_agent.tools.interruption import Interruption
from lewm_agent.training import loop
from lewm_agent.training.batches import TrainingClips
from lewm_agent.training.loop import Trainer
from lewm_agent.training.run import Run
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.schedule import Schedule
from lewm_agent.training.sharing.launch import launch
from lewm_agent.training.sharing.placement import Placement
from lewm_agent.training.state import TrainingState

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]
ONE, TWO = (Placement(CPU, devices, 1, None) for devices in (1, 2))
STEPS, HALF = 12, 6
KINDS = ("lewm", "pldm", "ema", "joint", "gciql")
FAULTS = {
    "settings": "rank 1 on .* has training.learning_rate 0.5, and rank 0 has 0.001: start all ranks with the same data",
    "data": "rank 1 on .* has data '11 episodes, .*', and rank 0 has '12 episodes, .*': start all ranks",
    "seed": "rank 1 on .* has seed 7, and rank 0 has 0: start all ranks",
    "folder": r"rank 1 on .* does not see in .*b what rank 0 on .* writes into .*a: give an output folder that all",
    "resume": "already holds a training run: continue it with resume=True",
}
Numbers = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Job:
    """What the two processes are to do."""

    config: AgentConfig
    data: Path
    fewer: Path
    folder: Path


def configs(config: AgentConfig) -> dict[str, AgentConfig]:
    """One for each kind: between them they use all that looks at more than one clip, or draws at random."""
    training = dataclasses.replace(config.training, batch_size=32)
    lewm = dataclasses.replace(config, training=training, model=dataclasses.replace(config.model, augmentations="look"))
    joint = dataclasses.replace(
        lewm,
        model=dataclasses.replace(config.model, encoder="cnn", predictor="prefix", prefix_length=2),
        objective=dataclasses.replace(
            config.objective, straightening_weight=0.1, inverse_weight=1.0, reconstruction_weight=1.0
        ),
        inverse_dynamics=InverseDynamicsConfig(furthest=6, width=16, depth=1),
    )
    untrained_head = dataclasses.replace(lewm, objective=PLDMConfig(), inverse_dynamics=joint.inverse_dynamics)
    ema = dataclasses.replace(lewm, objective=EmaConfig(momentum=0.5))
    return {"lewm": lewm, "pldm": untrained_head, "ema": ema, "joint": joint, "gciql": lewm}


def in_float64(model: Learner) -> Learner:
    """All that is learned; pixels stay as they are read."""
    model.double()
    encoders: list[Any] = [part for part in model.modules() if isinstance(part, Encoder)]
    for encoder in encoders:
        for name in ("pixel_mean", "pixel_std"):
            setattr(encoder, name, getattr(encoder, name).float())
        for name in ("normalize", "thumbnails"):
            exact = functools.partial(lambda pictures, *given: pictures(*given).double(), getattr(encoder, name))
            setattr(encoder, name, exact)
    return model


def train(fabric: Any, kind: str, job: Job, folder: Path, start: Path | None = None) -> tuple[Numbers, Numbers]:
    """Some steps in float64, from the beginning or from a checkpoint; weights, and gradients of the last step."""
    torch.manual_seed(0)
    config = configs(job.config)[kind]
    agent: Any = make_agent(kind if kind == "gciql" else config.objective.kind, "two_room", config)
    model = in_float64(agent.model)
    clips = TrainingClips(OfflineDataset(job.data), agent.make_clips, agent.config.training, 0, 0)
    run = RunFolder(folder)

    def save(part: Path, step: int) -> None:
        part.mkdir()
        torch.save(model.state_dict(), part / "weights.pt")

    state = None if start is None else TrainingState.read(start)
    if start is not None:
        model.load_state_dict(torch.load(start / "weights.pt"))
    trainer = Trainer(fabric, model, agent.config.training, run, save, checkpoint_every=HALF, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 1)
        patch.setattr(loop, "LOOKS", STEPS // HALF)
        run.path.mkdir(parents=True, exist_ok=True)
        trainer.fit(clips, Schedule(STEPS, STEPS, 2, 1e-3), state, Interruption())
    return model.state_dict(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def outcome(fault: str, job: Job) -> str:
    """What this rank says of a training for which the two of them are not of one mind."""
    second = ranks.rank() == 1
    config = job.config
    if fault == "settings" and second:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, learning_rate=0.5))
    agent = LeWMAgent("two_room", config)
    dataset = OfflineDataset(job.fewer if fault == "data" and second else job.data)
    name = ("a", "b")[second] if fault == "folder" else "lewm_2" if fault == "resume" else fault
    seed = 7 if fault == "seed" and second else 0
    try:
        run = Run(TWO, agent, dataset, RunFolder(job.folder / name), seed=seed, progress=False)
        run.train(resume=False, checkpoint_every=10)
    except ranks.EndedElsewhereError:
        return ""
    except (ValueError, FileExistsError) as error:
        return str(error)
    return "no fault was found"


def work(job: Job, local_rank: int) -> Any:
    with TWO.together():
        fabric = TWO.fabric("float32")
        whole = {kind: train(fabric, kind, job, job.folder / f"{kind}_2") for kind in KINDS}
        later = job.folder / "lewm_1" / "checkpoints" / f"step-{HALF:07d}"
        train(fabric, "lewm", job, job.folder / "lewm_12", later)
        found = {fault: ranks.all_have(outcome(fault, job)) for fault in FAULTS}
        return whole, found


@pytest.fixture(scope="module")
def job(tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("ranks")
    LeWMAgent("two_room", tiny_config).collect(folder / "fewer", episodes=11, progress=False)
    return Job(tiny_config, tiny_dataset.path, folder / "fewer", folder)


@pytest.fixture(scope="module")
def alone(job: Job) -> dict[str, tuple[Numbers, Numbers]]:
    return {kind: train(ONE.fabric("float32"), kind, job, job.folder / f"{kind}_1") for kind in KINDS}


@pytest.fixture(scope="module")
def shared(job: Job, alone: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(ROOT)])  # the processes import this module
        return launch(TWO, functools.partial(work, job), lambda: "")


def rows(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {f"{line['split']}/{name}": value for name, value in line.items() if name not in ("split", "clips_per_second")}
        for line in lines
    ]


def assert_same_losses(one: Path, other: Path) -> None:
    """Each row is there once, and the same to 1e-5."""
    for mine, theirs in zip(rows(one), rows(other), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-5), mine["step"]


@pytest.mark.parametrize("kind", KINDS)
def test_twice_sixteen_clips_are_thirty_two(kind: str, job: Job, alone: Any, shared: Any) -> None:
    assert len(rows(job.folder / f"{kind}_1")) == STEPS + STEPS // HALF
    assert_same_losses(job.folder / f"{kind}_1", job.folder / f"{kind}_2")
    for mine, theirs in zip(alone[kind], shared[0][kind], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-5, msg=f"{kind} {name}")


def test_a_run_goes_on_with_another_number_of_ranks(job: Job, alone: Any, shared: Any) -> None:
    earlier = job.folder / "lewm_2" / "checkpoints" / f"step-{HALF:07d}"
    train(ONE.fabric("float32"), "lewm", job, job.folder / "lewm_21", earlier)
    after = rows(job.folder / "lewm_1")[HALF + 1 :]
    for name in ("lewm_12", "lewm_21"):
        assert len(rows(job.folder / name)) == len(after)
        for mine, theirs in zip(rows(job.folder / name), after, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_once(fault: str, shared: Any) -> None:
    told = [text for text in shared[1][fault] if text]
    assert len(told) == 1, told
    with pytest.raises(ValueError, match=FAULTS[fault]):
        raise ValueError(told[0])
