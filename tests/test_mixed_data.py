"""Several datasets are learned from as one stream, whose order depends on the seed and the step alone."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.agents import registry
from lewm_agent.commands import learn
from lewm_agent.config import configured
from lewm_agent.datasets import Clips, OfflineDataset, ShardWriter, clip_batches
from lewm_agent.datasets.clips import BatchOrder
from lewm_agent.datasets.mixed import MixedDataset, by_turns, opened
from lewm_agent.presets import preset
from lewm_agent.training.batches import FinishData
from lewm_agent.training.hindsight import successful
from lewm_agent.training.slow_metric import EPISODES

WEIGHTS = [0.25, 0.75]
pytestmark = pytest.mark.filterwarnings("ignore:.*fewer rows than a clip needs:UserWarning")


@pytest.fixture(scope="module")
def attempts(tiny_config: AgentConfig, tmp_path_factory: pytest.TempPathFactory) -> OfflineDataset:
    agent = LeWMAgent("two_room", tiny_config, seed=5)
    return agent.collect(tmp_path_factory.mktemp("more") / "random", "random", episodes=3, progress=False)


@pytest.fixture
def mixed(tiny_dataset: OfflineDataset, attempts: OfflineDataset) -> MixedDataset:
    return MixedDataset([tiny_dataset, attempts], WEIGHTS)


def test_a_mixed_dataset_reads_as_its_parts(
    mixed: MixedDataset, tiny_dataset: OfflineDataset, attempts: OfflineDataset
) -> None:
    assert mixed.num_episodes == 15 and mixed.num_frames == tiny_dataset.num_frames + attempts.num_frames
    for number, (part, episode) in {3: (tiny_dataset, 3), 12: (attempts, 0), 14: (attempts, 2)}.items():
        for name, values in part.episode(episode).items():
            np.testing.assert_array_equal(mixed.episode(number)[name], values)
    states = [part.column("state", [2]) for part in (tiny_dataset, attempts)]
    np.testing.assert_array_equal(mixed.column("state", [2, 14]), np.concatenate(states))
    rows = np.array([mixed.episode_starts[13], 4])
    np.testing.assert_array_equal(mixed.read_frames(rows)[1], tiny_dataset.read_frames(np.array([4]))[0])


class Unending(OfflineDataset):
    """Nothing ends in it; every third episode is an expert's."""

    def column(self, name: str, episodes: ArrayLike | None = None) -> NDArray[Any]:
        told = {"terminated": lambda number: False, "expert": lambda number: number % 3 == 0}.get(name)
        if told is None:
            return super().column(name, episodes)
        numbers = self.episode_array(episodes)
        return np.repeat([told(number) for number in numbers], self.episode_lengths[numbers])


def test_what_a_head_learns_from_is_chosen_within_each_part(tiny_dataset: OfflineDataset) -> None:
    experts = Unending(tiny_dataset.path)
    experts.columns = [*experts.columns, "expert"]
    ended = [bool(tiny_dataset.episode(number)["terminated"].any()) for number in range(tiny_dataset.num_episodes)]
    mixed = MixedDataset([experts, tiny_dataset])
    everything = np.arange(mixed.num_episodes)
    chosen = successful(FinishData(mixed, everything, everything))
    assert chosen.train.tolist() == [0, 3, 6, 9, *(12 + np.flatnonzero(ended))]


def test_each_part_is_split_as_by_itself(
    mixed: MixedDataset, tiny_dataset: OfflineDataset, attempts: OfflineDataset
) -> None:
    for seed in range(5):
        sides = zip(mixed.split(0.25, seed), tiny_dataset.split(0.25, seed), attempts.split(0.25, seed), strict=True)
        for both, ours, theirs in sides:
            np.testing.assert_array_equal(both, [*ours, *(theirs + 12)])


def order(clips: Clips, start: int, stop: int, seed: int = 3) -> np.ndarray:
    return np.array(list(BatchOrder(clips, 8, seed, start, stop)))


def test_weights_are_the_shares_of_every_epoch_and_all_clips_of_a_part_come_alike(mixed: MixedDataset) -> None:
    clips = Clips(mixed, None, 3, 5)
    few, many = clips.by_part()
    epoch = len(clips) // 8
    whole = order(clips, 0, 6 * epoch)
    for number in range(6):
        seen = whole[number * epoch : (number + 1) * epoch]
        share = np.isin(seen, many).mean()
        assert abs(share - 0.75) < 8 / len(clips) + 0.01  # the last batch is dropped, whatever it holds
    counts = Counter(whole.flatten().tolist())
    for part in (few, many):
        times = [counts[int(clip)] for clip in part]
        assert max(times) - min(times) <= 3  # an epoch drops up to seven clips
    assert not np.array_equal(whole[:epoch], whole[epoch : 2 * epoch])


def test_a_share_of_a_part_without_a_clip_is_refused(mixed: MixedDataset, attempts: OfflineDataset) -> None:
    clips = Clips(mixed, np.arange(12), 3, 5)
    with pytest.raises(ValueError, match=f"no clip comes from {attempts.path}, of which there is to be a share"):
        clip_batches(clips, 8, 0, 0, 1)


def test_without_weights_every_clip_comes_once(tiny_dataset: OfflineDataset, attempts: OfflineDataset) -> None:
    clips = Clips(opened([tiny_dataset.path, attempts]), None, 3, 5)
    epoch = order(clips, 0, len(clips) // 8).flatten()
    assert len(set(epoch.tolist())) == len(epoch) > len(clips) - 8
    expected = np.random.default_rng([3, 0]).permutation(len(clips))
    np.testing.assert_array_equal(epoch, expected[: len(epoch)])


def test_the_batch_of_a_step_depends_on_seed_and_step_alone(mixed: MixedDataset) -> None:
    clips = Clips(mixed, None, 3, 5)
    epoch = len(clips) // 8
    whole = order(clips, 0, 3 * epoch)
    np.testing.assert_array_equal(order(clips, epoch + 2, 3 * epoch), whole[epoch + 2 :])
    assert not np.array_equal(order(clips, 0, epoch, seed=4), whole[:epoch])
    halves = [next(clip_batches(clips, 8, 3, 5, 6, rows=rows)) for rows in (slice(0, 4), slice(4, 8))]
    together = next(clip_batches(clips, 8, 3, 5, 6))
    assert torch.equal(torch.cat([half.frames for half in halves]), together.frames)


def test_a_training_that_goes_on_takes_the_same_steps(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, attempts: OfflineDataset, tmp_path: Path
) -> None:
    whole = LeWMAgent("two_room", tiny_config)
    whole.learn([tiny_dataset, attempts], tmp_path / "run", weights=WEIGHTS, checkpoint_every=8, progress=False)
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    shutil.rmtree(newest)
    again, given = LeWMAgent("two_room", tiny_config), [str(tiny_dataset.path), attempts.path]
    again.learn(given, tmp_path / "run", weights=WEIGHTS, checkpoint_every=8, resume=True, progress=False)
    assert newest.is_dir() and again.weights_sha256() == whole.weights_sha256()
    with pytest.raises(ValueError, match=r"trained with data '12 episodes, policy expert, seed 0, weight 0.25 \+ 3"):
        again.learn(given, tmp_path / "run", weights=[0.5, 0.5], resume=True, progress=False)


def test_the_record_names_each_and_held_out_episodes_stay_so(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, attempts: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent("two_room", tiny_config)
    agent.learn([tiny_dataset, attempts], tmp_path / "run", epochs=0.1, progress=False)
    record = agent.description.training
    assert record is not None
    assert record.data == "12 episodes, policy expert, seed 0 + 3 episodes, policy random, seed 5"
    for data, first in ((tiny_dataset, 0), (attempts, 12)):
        held_out = data.split(0.25, 0, agent.make_clips(data, np.arange(data.num_episodes)).episodes)[1]
        np.testing.assert_array_equal(agent.unseen_episodes(data), held_out)
        unseen = agent.unseen_episodes(MixedDataset([tiny_dataset, attempts]))
        assert set(held_out + first) <= set(unseen.tolist()) and len(unseen) < 15


def test_a_training_that_goes_on_keeps_in_mind_what_was_learned_from_before(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, attempts: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent("two_room", tiny_config).learn(tiny_dataset, tmp_path / "first", epochs=0.1, progress=False)
    first, unseen = agent.description.training, agent.unseen_episodes(tiny_dataset)
    assert first is not None and first.before is None and 0 < len(unseen) < 12
    agent.learn(attempts, tmp_path / "second", epochs=0.1, checkpoint_every=1, progress=False)
    kept = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "model"))
    again = LeWMAgent.from_pretrained(tmp_path / "first")
    again.learn(attempts, tmp_path / "second", epochs=0.1, resume=True, progress=False)
    for one in (agent, kept, again):
        assert one.description.training is not None and one.description.training.before == first
        np.testing.assert_array_equal(one.unseen_episodes(tiny_dataset), unseen)
        assert one.description.origin["before"] == f"{first.data}, {first.steps} steps"


def test_statistics_are_of_all_but_an_encoder_that_has_learned_keeps_its_own(
    tiny_dataset: OfflineDataset, attempts: OfflineDataset, tmp_path: Path
) -> None:
    sizes = {"image_size": 16, "masks": 1, "latent_dim": 10, "model.predictor_width": 16}
    config = configured(
        preset("moments"), {**sizes, "training.batch_size": 16, "epochs": 0.2, "inverse_dynamics.steps": 2}
    )
    agent = LeWMAgent("two_room", config)
    agent.learn(tiny_dataset, tmp_path / "alone", progress=False)
    moments = {name: value.clone() for name, value in agent.world_model.encoder.state_dict().items()}
    std = agent.world_model.action_std.clone()
    agent.learn([tiny_dataset, attempts], tmp_path / "both", weights=WEIGHTS, progress=False)
    buffers = dict(agent.world_model.encoder.named_buffers())
    assert {"moments.background", "moments.center", "moments.scale"} <= buffers.keys()
    assert all(torch.equal(buffers[name], moments[name]) for name in moments if name in buffers)
    both = MixedDataset([tiny_dataset, attempts])
    used = agent.make_clips(both, np.arange(15)).episodes
    expected = both.action_statistics(both.split(0.1, 0, used)[0])[1]
    np.testing.assert_array_equal(agent.world_model.action_std.numpy(), expected)
    assert not torch.equal(agent.world_model.action_std, std)


def test_the_first_few_episodes_by_turns_have_all_parts(mixed: MixedDataset, tiny_dataset: OfflineDataset) -> None:
    first = by_turns(mixed, np.arange(15))[:5]
    assert np.bincount(first >= 12).tolist() == [4, 1]
    np.testing.assert_array_equal(by_turns(tiny_dataset, np.array([5, 2, 7])), [5, 2, 7])
    assert EPISODES < 1000  # what is fitted to the first few only


def written(path: Path, size: int = 16, actions: int = 2, state: int | None = None) -> OfflineDataset:
    with ShardWriter(path) as writer:
        for _ in range(4):
            told = {} if state is None else {"state": np.zeros((20, state))}
            frames = np.zeros((20, size, size, 3), np.uint8)
            writer.append({"pixels": frames, "action": np.zeros((20, actions), np.float32), **told})
    return OfflineDataset(path)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"size": 24}, r"b.h5 has frames \(24, 24, 3\), .*expert has \(16, 16, 3\): what is learned from together"),
        ({"actions": 3}, r"b.h5 has action_dim 3, .*expert has 2"),
        ({"state": 9}, r"b.h5 has numbers in state: \(9,\), .*expert has \(2,\)"),
    ],
)
def test_datasets_that_are_not_alike(
    other: dict[str, int], sentence: str, tiny_dataset: OfflineDataset, tiny_agent: LeWMAgent, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny_agent.learn([tiny_dataset, written(tmp_path / "b.h5", **other)], tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_attempts_of_another_world(tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    other = LeWMAgent("reacher", tiny_config).collect(tmp_path / "reacher", "random", 2, progress=False)
    with pytest.raises(ValueError, match=r"reacher has environment lewm/Reacher-v0, .*expert has lewm/TwoRoom-v0"):
        opened([tiny_dataset, other])


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([0.5, 0.6], r"weights must add up to 1, and \[0.5, 0.6\] are 1.1: such as 0.455, 0.545"),
        ([1.0], "there are 2 datasets and 1 weights: give one weight for each dataset"),
        ([1.0, 0.0], r"weights must be above 0, got \[1.0, 0.0\]: leave a dataset out"),
        ([float("nan"), 0.5], "weights must be above 0"),
    ],
)
def test_weights_that_are_none(
    weights: list[float], sentence: str, tiny_dataset: OfflineDataset, tiny_agent: LeWMAgent, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny_agent.learn([tiny_dataset, tiny_dataset], tmp_path / "run", weights=weights, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_part_without_a_clip_is_named(tiny_dataset: OfflineDataset, tiny_agent: LeWMAgent, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "short.h5") as writer:
        for _ in range(3):
            frames, action = np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, 2), np.float32)
            writer.append({"pixels": frames, "action": action})
    with pytest.raises(ValueError, match=r"0 of the 3 episodes of .*short.h5 can be used, and one is needed"):
        tiny_agent.learn([tiny_dataset, tmp_path / "short.h5"], tmp_path / "run", progress=False)


def test_the_command_takes_several(
    tiny_dataset: OfflineDataset, attempts: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[tuple[Any, dict[str, Any]]] = []

    class Stub:
        def learn(self, data: Any, folder: Path, **options: Any) -> None:
            learned.append((data, options))
            raise ValueError("far enough")

    monkeypatch.setattr(registry, "make_agent", lambda *_, **__: Stub())
    data = [part for one in (tiny_dataset, attempts) for part in ("--dataset", str(one.path))]
    given = ["--env", "two_room", *data, "--output", str(tmp_path / "out")]
    assert learn.main([*given, "--weights", "0.25", "--weights", "0.75", "small"]) == 2
    assert learn.main([*given, "small"]) == 2
    assert learn.main([*given, "--weights", "0.5", "small"]) == 2
    assert learn.main(["--env", "two_room", "--output", str(tmp_path / "out"), "small"]) == 2
    assert [options["weights"] for _, options in learned] == [(0.25, 0.75), None]
    assert all([part.path for part in data.parts] == [tiny_dataset.path, attempts.path] for data, _ in learned)
