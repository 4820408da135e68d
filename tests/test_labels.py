"""Only some episodes keep their actions: those of the others are not seen, and told from frames."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.agents import make_agent
from lewm_agent.commands import learn
from lewm_agent.config import configured
from lewm_agent.datasets import OfflineDataset, ShardWriter
from lewm_agent.datasets.mixed import MixedDataset
from lewm_agent.models.latent_actions import LatentActions
from lewm_agent.presets import preset
from lewm_agent.training import labelling
from lewm_agent.training.batches import FinishData
from lewm_agent.training.run import Run
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.sharing.placement import Placement

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer rows than a clip needs:UserWarning")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "STEPS", 5)


def run_of(agent: Any, dataset: OfflineDataset, folder: Path, labels: float, by: str = "inverse") -> Run:
    options: dict[str, Any] = {"labels": labels, "labels_by": by, "progress": False}
    return Run(Placement.of(None, None, agent.device), agent, dataset, RunFolder(folder), **options)


def moments() -> AgentConfig:
    sizes = {"image_size": 16, "masks": 1, "latent_dim": 10, "model.predictor_width": 16, "training.batch_size": 16}
    return configured(preset("moments"), {**sizes, "epochs": 1.0, "inverse_dynamics.steps": 2})


class Moving:
    """Frames in which a square moves as the actions say, or frames alone."""

    def __init__(self, folder: Path, episodes: int, actions: bool = True, side: int = 16) -> None:
        rng = np.random.default_rng(episodes)
        folder.mkdir(parents=True)
        self.path = folder / "moving.h5"
        with ShardWriter(self.path) as writer:
            for _ in range(episodes):
                across = np.sign(np.sin(2 * np.pi * (np.arange(40) + rng.uniform(0, 24)) / 24))
                action = np.stack([across, np.zeros(40)], axis=1).astype(np.float32)
                place = 6 + np.cumsum(np.concatenate([[[0.0, 0.0]], action[:-1] / 2]), axis=0)
                pixels = np.zeros((40, side, side, 3), np.uint8)
                for row, (x, y) in enumerate(place.astype(int)):
                    pixels[row, y : y + 4, x : x + 4] = 255
                told = action if actions else np.full((40, 1), np.nan, np.float32)
                writer.append({"pixels": pixels, "action": np.where(np.arange(40)[:, None] < 39, told, np.nan)})
        self.data = OfflineDataset(self.path)


def test_a_share_of_the_training_episodes_keeps_its_actions_and_the_others_are_not_there(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    few, many = (run_of(tiny_agent, tiny_dataset, tmp_path, share) for share in (0.3, 0.7))
    assert (len(few.labelled), len(many.labelled), len(few.clips.train_episodes)) == (2, 6, 8)
    assert set(few.labelled) < set(many.labelled) < set(few.clips.train_episodes)
    hidden = np.setdiff1d(few.clips.train_episodes, few.labelled)
    for index in range(tiny_dataset.num_episodes):
        own = few.dataset.episode(index)["action"], few.dataset.column("action", [index])
        expected = np.nan if index in hidden else tiny_dataset.episode(index)["action"]
        for values in own:
            np.testing.assert_array_equal(values, np.broadcast_to(expected, values.shape))
    few._prepare(tiny_agent.model)
    mean, _ = tiny_dataset.action_statistics(few.labelled)
    np.testing.assert_array_equal(tiny_agent.model.action_mean.numpy(), mean)


@pytest.mark.parametrize("by", labelling.TELLERS)
def test_what_is_told_is_what_moved(
    by: str, tiny_config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "STEPS", 120)
    data = Moving(tmp_path / "data", 12).data
    agent = LeWMAgent("two_room", tiny_config if by == "inverse" else moments())
    run = run_of(agent, data, tmp_path, 0.5, by)
    run._prepare(agent.model)
    run._label(agent.stand_ins(run.dataset, run.clips.train_episodes, False))
    hidden = np.setdiff1d(run.clips.train_episodes, run.labelled)
    told, true = (np.concatenate([one.episode(i)["action"][:-1, 0] for i in hidden]) for one in (run.dataset, data))
    assert np.isfinite(told).all() and np.corrcoef(told, true)[0, 1] > 0.5
    error = run._begun.label_error
    assert error is not None and error < 0.9  # of variance 1


def test_what_happens_is_learned_from_frames_and_a_few_actions_say_what_it_means() -> None:
    torch.manual_seed(0)
    before, blocks = torch.randn(2000, 6), torch.randn(2000, 2)
    moved = torch.tanh(blocks @ torch.randn(2, 4)) * 0.3
    after = before + torch.cat([moved, 0.1 * before[:, :1].sin(), 0.1 * before[:, 1:2].cos()], dim=1)
    model = LatentActions(6, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(150):
        some = torch.randint(1000, (128,))
        loss = model.loss(before[some], after[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        assert not model(before, after).any()  # nothing has said what codes mean
        model.read(before[:30], after[:30], blocks[:30])
        error = (model(before[1000:], after[1000:]) - blocks[1000:]).square().mean()
    assert error < 0.5  # of variance 1, from 30 pairs


@pytest.mark.parametrize(("kind", "by"), [("lewm", "inverse"), ("moments", "latent"), ("gcbc", "latent")])
def test_goes_on_after_a_kill_with_the_same_actions(
    kind: str,
    by: str,
    tiny_config: AgentConfig,
    tiny_dataset: OfflineDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = moments() if kind == "moments" else tiny_config

    def agent() -> Any:
        return make_agent("gcbc", "two_room", base) if kind == "gcbc" else LeWMAgent("two_room", base)

    whole = agent()
    whole.learn(tiny_dataset, tmp_path / "run", labels=0.4, labels_by=by, checkpoint_every=8, progress=False)
    record = whole.description.training
    few = 3 if kind == "lewm" else 4  # of eight, or of nine: shorter clips fit into another episode
    assert (record.labelled, record.labels_by, record.finished) == (few, by, True) and 0 < record.label_error < 10
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    shutil.rmtree(newest)
    monkeypatch.setattr(labelling, "tell", lambda *_, **__: pytest.fail("they have been told before"))
    again = agent()
    options: dict[str, Any] = {"labels": 0.4, "resume": True, "progress": False}
    again.learn(tiny_dataset, tmp_path / "run", labels_by=by, checkpoint_every=8, **options)
    assert again.weights_sha256() == whole.weights_sha256()
    with pytest.raises(ValueError, match=f"trained with labels {few}, not None"):
        agent().learn(tiny_dataset, tmp_path / "run", resume=True, progress=False)
    other = next(one for one in labelling.TELLERS if one != by)
    with pytest.raises(ValueError, match=f"trained with labels_by '{by}', not '{other}'"):
        agent().learn(tiny_dataset, tmp_path / "run", labels_by=other, **options)


def test_a_killed_labelling_is_done_anew_and_damaged_labels_too(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    run = run_of(tiny_agent, tiny_dataset, tmp_path, 0.5)
    data, file = FinishData(run.dataset, run.labelled, run.clips.held_out_episodes), tmp_path / "labels.npz"
    run._prepare(tiny_agent.model)
    arguments = tiny_agent.model, tiny_agent.config, data, 0
    first = labelling.kept_or_told(file, "one", *arguments)
    file.write_bytes(file.read_bytes()[:100])
    for request in ("one", "another"):
        again = labelling.kept_or_told(file, request, *arguments)
        np.testing.assert_array_equal(again.actions, first.actions)
        assert again.error == first.error
    np.testing.assert_array_equal(labelling.kept_or_told(file, "another", *arguments).actions, first.actions)


def test_video_beside_recorded_episodes(tiny_config: AgentConfig, tmp_path: Path) -> None:
    recorded, video = Moving(tmp_path / "recorded", 6).data, Moving(tmp_path / "video", 5, actions=False).data
    assert not video.has_actions and video.without_actions.tolist() == [0, 1, 2, 3, 4]
    both = MixedDataset([video, recorded])
    assert both.action_dim == 2 and both.without_actions.tolist() == [0, 1, 2, 3, 4]
    agent = LeWMAgent("two_room", tiny_config)
    agent.learn([video, recorded], tmp_path / "run", epochs=0.5, progress=False)
    record = agent.description.training
    assert record is not None and record.labelled == 4 and record.finished
    run = run_of(agent, both, tmp_path / "other", 1.0)
    assert min(run.clips.held_out_episodes) >= 5 and min(run.labelled) >= 5
    with pytest.raises(ValueError, match=r"no episode of .* has actions, so that nothing tells what moves"):
        agent.learn(video, tmp_path / "alone", progress=False)
    with pytest.raises(ValueError, match=r"episode 0 of .* has no actions: only training"):
        agent.make_clips(video, np.arange(5))
    large = Moving(tmp_path / "large", 3, actions=False, side=32).data
    with pytest.raises(ValueError, match=r"has frames \(32, 32, 3\), .* has \(16, 16, 3\)"):
        agent.learn([recorded, large], tmp_path / "sizes", progress=False)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (0.0, "labels is the share of the episodes that keep their actions, above 0 and at most 1, got 0"),
        (1.5, "above 0 and at most 1, got 1.5"),
        (True, "got True"),
        (0.01, "labels 0.01 of 8 training episodes with actions is not one: give at least 0.12"),
    ],
)
def test_no_share_and_no_episode(
    labels: float, said: str, tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        tiny_agent.learn(tiny_dataset, tmp_path / "run", labels=labels, progress=False)


def test_no_such_model_to_tell_actions(tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model that tells actions .* `latents` .*inverse, latent\); did you mean"):
        tiny_agent.learn(tiny_dataset, tmp_path / "run", labels=0.5, labels_by="latents", progress=False)


def test_a_model_with_nothing_to_tell_is_no_silent_choice(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="labels_by 'latent' has nothing to tell, for all .*: give labels below 1"):
        run_of(tiny_agent, tiny_dataset, tmp_path / "run", 1.0, "latent")


def test_from_the_command_line(tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(LeWMAgent, "learn", lambda self, *_, **options: given.update(options))
    monkeypatch.setattr(LeWMAgent, "save_pretrained", lambda self, folder: folder)
    arguments = ["--env", "two_room", "--dataset", str(tiny_dataset.path), "--output", str(tmp_path / "out")]
    assert learn.main([*arguments, "--labels", "0.25", "--labels-by", "latent", "small"]) == 0
    assert (given["labels"], given["labels_by"]) == (0.25, "latent")


@pytest.mark.parametrize("by", labelling.TELLERS)
def test_choices_are_told_as_choices(
    by: str, tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent("two_room", tiny_config)
    run = run_of(agent, tiny_dataset, tmp_path, 0.5)
    discrete = dataclasses.replace(tiny_config, model=dataclasses.replace(tiny_config.model, discrete_actions=True))
    data = FinishData(run.dataset, run.labelled, run.clips.held_out_episodes)
    actions: NDArray[Any] = labelling.tell(agent.model, discrete, data, 0, by).actions
    told = actions[run.dataset.row_mask(run.dataset.awaited)]
    told = told[~np.isnan(told).any(axis=1)]
    assert set(np.unique(told)) == {0.0, 1.0} and (told.sum(axis=1) == 1).all()
