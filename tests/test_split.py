"""The split looks at which episodes give clips, on both of its sides."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import numpy as np
import pytest

from lewm_agent.agents.rivals.goal_policy_agent import GoalClips
from lewm_agent.config import TrainingConfig
from lewm_agent.datasets import Clips, OfflineDataset, ShardWriter
from lewm_agent.datasets.goals import GoalMixture
from lewm_agent.training.batches import MakeClips, TrainingClips

CLIPS = functools.partial(Clips, num_frames=4, frame_skip=5)  # of 16 rows
GOAL_CLIPS = functools.partial(GoalClips, frame_skip=15, mixtures=[GoalMixture(random=1.0)], discount=0.9)
TRAINING = TrainingConfig(batch_size=4, held_out_fraction=0.1)


def dataset(path: Path, lengths: list[int]) -> OfflineDataset:
    with ShardWriter(path / "data.h5") as writer:
        for rows in lengths:
            writer.append({"pixels": np.zeros((rows, 8, 8, 3), np.uint8), "action": np.zeros((rows, 2), np.float32)})
    return OfflineDataset(path / "data.h5")


@pytest.mark.parametrize("make", [CLIPS, GOAL_CLIPS])
def test_episodes_too_short_for_a_clip_are_on_neither_side(tmp_path: Path, make: MakeClips) -> None:
    data = dataset(tmp_path, [20, 5, 20, 15, 20, 20, 1, 16])
    sides = set()
    for seed in range(12):
        with pytest.warns(UserWarning, match=r"3 of the 8 episodes of .* fewer rows than a clip needs \(16\)"):
            clips = TrainingClips(data, make, TRAINING, seed, workers=0)
        assert sorted([*clips.train_episodes, *clips.held_out_episodes]) == [0, 2, 4, 5, 7]
        assert len(clips.held_out_episodes) == 1 and len(list(clips.held_out_batches(1))) == 1
        sides.add(int(clips.held_out_episodes[0]))
    assert len(sides) > 1


def test_where_every_episode_gives_clips_the_split_is_that_of_all(tmp_path: Path) -> None:
    data = dataset(tmp_path, [20] * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clips = TrainingClips(data, CLIPS, TRAINING, 3, workers=0)
    for found, expected in zip((clips.train_episodes, clips.held_out_episodes), data.split(0.1, 3), strict=True):
        np.testing.assert_array_equal(found, expected)


def with_families(path: Path, families: list[int]) -> OfflineDataset:
    with ShardWriter(path / "families.h5") as writer:
        for family in families:
            told = {"action": np.zeros((4, 2), np.float32), "family": np.full(4, family)}
            writer.append({"pixels": np.zeros((4, 8, 8, 3), np.uint8), **told})
    return OfflineDataset(path / "families.h5")


def test_no_family_is_on_both_sides(tmp_path: Path) -> None:
    families = np.array([7, 2, 9, 7, 2, 9, 7, 4])
    data = with_families(tmp_path, families.tolist())
    held_out_families = set()
    for seed in range(12):
        train, held_out = data.split(0.25, seed)
        assert sorted([*train, *held_out]) == list(range(8))
        assert len({*families[held_out]}) == 1 and not {*families[held_out]} & {*families[train]}
        held_out_families |= {*families[held_out].tolist()}
    assert len(held_out_families) > 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sentences_say_which_episodes_are_too_short(tmp_path: Path) -> None:
    data = dataset(tmp_path, [5, 20, 7])
    with pytest.raises(ValueError, match=r"1 of the 3 episodes of .*data.h5 can be used, and one is needed to train"):
        TrainingClips(data, CLIPS, TRAINING, 0, workers=0)
    alone = with_families(tmp_path, [7, 7])
    with pytest.raises(ValueError, match=r"2 of the 2 episodes of .* can be used, all of one family, and one"):
        alone.split(0.1, 0)
    with pytest.raises(ValueError, match=r"the longest episode of 2 chosen ones has 7 rows, .* need 16"):
        CLIPS(data, [0, 2])
    with pytest.raises(ValueError, match=r"the longest episode has 20 rows, .* need 31"):
        Clips(data, None, 4, 10)


def test_actions_of_episodes_that_give_no_clip_do_not_matter(tmp_path: Path) -> None:
    data = dataset(tmp_path, [5, 20])
    data.actions[2] = np.nan
    assert CLIPS(data, None).episodes.tolist() == [1]
