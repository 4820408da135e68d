"""Reading: shards, datasets, clips and their order."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from lewm_agent.datasets import Clips, OfflineDataset, ShardReader, ShardWriter, clip_batches
from lewm_agent.datasets.metadata import DatasetMetadata

LENGTHS = (9, 3, 14, 6, 11, 2, 20)
SHARD_SIZES = (3, 3, 1)


def make_episode(length: int, rng: np.random.Generator, size: int = 8) -> dict[str, np.ndarray]:
    action = rng.normal(size=(length, 2)).astype(np.float32)
    action[-1] = np.nan
    return {
        "pixels": rng.integers(0, 256, (length, size, size, 3), dtype=np.uint8),
        "action": action,
        "state": rng.normal(size=(length, 4)),
    }


def write_file(path: Path, episodes: list[dict[str, np.ndarray]], compression: Any = "gzip") -> ShardWriter:
    with ShardWriter(path, compression) as writer:
        for episode in episodes:
            writer.append(episode)
    return writer


@pytest.fixture
def episodes() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [make_episode(length, rng) for length in LENGTHS]


@pytest.fixture
def folder(tmp_path: Path, episodes: list[dict[str, np.ndarray]]) -> Path:
    path, records, first = tmp_path / "data", [], 0
    path.mkdir()
    for index, count in enumerate(SHARD_SIZES):
        writer = write_file(path / f"shard-{index:05d}.h5", episodes[first : first + count])
        records.append(writer.record())
        first += count
    DatasetMetadata(
        "test/Env-v0", {}, "random", 0, len(LENGTHS), 3, (8, 8, 3), "Box", "Box", {}, shards=tuple(records)
    ).save(path)
    return path


def test_a_dataset_is_a_sequence_of_episodes(folder: Path) -> None:
    dataset = OfflineDataset(folder)
    assert repr(dataset).endswith(f": {len(dataset)} episodes, {sum(LENGTHS)} frames)")
    assert [len(episode["action"]) for episode in dataset] == list(LENGTHS)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(dataset[-1]["pixels"], dataset.episode(len(LENGTHS) - 1)["pixels"])
    with pytest.raises(IndexError, match=f"episode {len(LENGTHS)} does not exist"):
        dataset[len(LENGTHS)]


def test_episodes_come_back_from_every_shard(folder: Path, episodes: list[dict[str, np.ndarray]]) -> None:
    dataset = OfflineDataset(folder)
    assert (dataset.num_episodes, dataset.num_frames, dataset.action_dim) == (len(LENGTHS), sum(LENGTHS), 2)
    assert dataset.frame_shape == (8, 8, 3)
    np.testing.assert_array_equal(dataset.episode_lengths, LENGTHS)
    for index, episode in enumerate(episodes):
        read = dataset.episode(index)
        assert read.keys() == episode.keys()
        for name, values in episode.items():
            assert read[name].dtype == values.dtype
            np.testing.assert_array_equal(read[name], values)


@pytest.mark.parametrize("compression", ["gzip", "blosc", None])
def test_frames_are_lossless_under_every_compression(
    tmp_path: Path, episodes: list[dict[str, np.ndarray]], compression: str | None
) -> None:
    if compression == "blosc":
        pytest.importorskip("hdf5plugin")
    write_file(tmp_path / "one.h5", episodes, compression)
    dataset = OfflineDataset(tmp_path / "one.h5")
    frames = np.concatenate([episode["pixels"] for episode in episodes])
    rows = np.array([5, 0, 5, len(frames) - 1, 17])
    np.testing.assert_array_equal(dataset.read_frames(rows), frames[rows])


def test_column_of_chosen_episodes(folder: Path, episodes: list[dict[str, np.ndarray]]) -> None:
    dataset = OfflineDataset(folder)
    expected = np.concatenate([episodes[index]["state"] for index in (6, 1)])
    np.testing.assert_array_equal(dataset.column("state", [6, 1]), expected)
    assert dataset.column("state", np.array([], int)).shape == (0, 4)
    with pytest.raises(ValueError, match=r"no column 'stat'; it has .*state"):
        dataset.column("stat")
    with pytest.raises(ValueError, match="episode"):
        dataset.column("pixels")
    with pytest.raises(IndexError, match="episode 7 does not exist; the dataset has episodes 0 to 6"):
        dataset.episode(7)


def test_pixel_statistics_are_those_of_the_chosen_episodes(folder: Path, episodes: list[dict[str, np.ndarray]]) -> None:
    mean, std = OfflineDataset(folder).pixel_statistics([4, 2])
    frames = np.concatenate([episodes[4]["pixels"], episodes[2]["pixels"]]).astype(np.float64)
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, np.sqrt(((frames - frames.mean(axis=0)) ** 2).mean(axis=(0, 1, 2))), rtol=1e-5)


def test_action_statistics_leave_out_nan(folder: Path, episodes: list[dict[str, np.ndarray]]) -> None:
    dataset = OfflineDataset(folder)
    actions = np.concatenate([episodes[index]["action"][:-1] for index in (2, 4)])
    mean, std = dataset.action_statistics([4, 2])
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, actions.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, actions.std(axis=0), rtol=1e-5)
    assert np.isfinite(dataset.action_statistics()[0]).all()


def test_split_is_by_episode_disjoint_and_stable(folder: Path) -> None:
    dataset = OfflineDataset(folder)
    train, held_out = dataset.split(0.3, seed=1)
    assert sorted([*train, *held_out]) == list(range(len(LENGTHS)))
    assert len(held_out) == 2
    again = OfflineDataset(folder).split(0.3, seed=1)
    np.testing.assert_array_equal(train, again[0])
    assert any(not np.array_equal(held_out, dataset.split(0.3, seed)[1]) for seed in range(2, 6))
    assert len(dataset.split(0.0, seed=1)[1]) == 0
    with pytest.raises(ValueError, match=r"held_out_fraction must be in \[0, 1\), got 1"):
        dataset.split(1, seed=1)


def test_single_file_with_published_columns(tmp_path: Path) -> None:
    path = tmp_path / "published.h5"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:  # contiguous frames, no state, int32 index, episodes stored out of order
        file["pixels"] = pixels
        file["action"] = np.ones((12, 2), np.float32)
        file["proprio"] = np.zeros((12, 4), np.float32)
        file["ep_len"] = np.array([7, 5], np.int32)
        file["ep_offset"] = np.array([5, 0], np.int32)
    dataset = OfflineDataset(path)
    assert dataset.metadata is None
    assert dataset.columns == ["action", "pixels", "proprio"]
    np.testing.assert_array_equal(dataset.episode(0)["pixels"], pixels[5:])
    np.testing.assert_array_equal(Clips(dataset, [1], 2, 4).fetch([0]).frames[0], pixels[[0, 4]])
    with pytest.raises(ValueError, match="no hash"):
        dataset.verify()


def test_pickled_dataset_reads_without_the_open_files(folder: Path) -> None:
    dataset = OfflineDataset(folder)
    copy = pickle.loads(pickle.dumps(dataset))
    assert not copy._open
    np.testing.assert_array_equal(copy.episode(3)["pixels"], dataset.episode(3)["pixels"])


def test_few_files_are_open_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lewm_agent.datasets.offline.MAX_OPEN_SHARDS", 2)
    dataset = OfflineDataset(folder)
    rows = np.random.default_rng(0).permutation(sum(LENGTHS))
    expected = np.concatenate([dataset.episode(index)["pixels"] for index in range(len(LENGTHS))])
    np.testing.assert_array_equal(dataset.read_frames(rows), expected[rows])
    assert len(dataset._open) == 2


@pytest.mark.parametrize(("num_frames", "frame_skip"), [(4, 2), (2, 5), (3, 1), (1, 3)])
def test_clips_show_the_rows_of_one_episode(
    folder: Path, episodes: list[dict[str, np.ndarray]], num_frames: int, frame_skip: int
) -> None:
    chosen = [6, 0, 2, 1]
    clips = Clips(OfflineDataset(folder), chosen, num_frames, frame_skip)
    span = (num_frames - 1) * frame_skip + 1
    expected = [(e, start) for e in chosen for start in range(LENGTHS[e] - span + 1)]
    assert len(clips) == len(expected)
    order = np.random.default_rng(0).permutation(len(clips))
    frames, actions, goals, _ = clips.fetch(order)
    assert goals is None
    assert frames.shape == (len(clips), num_frames, 8, 8, 3)
    assert actions.shape == (len(clips), num_frames - 1, frame_skip, 2)
    for position, clip in enumerate(order):
        episode, start = expected[clip]
        source = episodes[episode]
        np.testing.assert_array_equal(frames[position], source["pixels"][start : start + span : frame_skip])
        blocks = source["action"][start : start + span - 1].reshape(num_frames - 1, frame_skip, 2)
        np.testing.assert_array_equal(actions[position], blocks)
    assert np.isfinite(actions).all()


def test_clips_that_cannot_be_made(folder: Path) -> None:
    dataset = OfflineDataset(folder)
    with pytest.raises(ValueError, match="longest episode has 20 rows, clips of 5 frames with frame_skip 5 need 21"):
        Clips(dataset, None, 5, 5)
    with pytest.raises(ValueError, match="no episodes were chosen from the 7"):
        Clips(dataset, [], 2, 1)
    with pytest.raises(ValueError, match=r"num_frames \(0\)"):
        Clips(dataset, None, 0, 1)
    clips = Clips(dataset, None, 2, 1)
    for index in (-1, len(clips)):
        with pytest.raises(IndexError, match=f"clip {index} does not exist"):
            clips.fetch([index])


def test_nan_action_inside_an_episode_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [make_episode(5, rng), make_episode(6, rng)]
    write_file(tmp_path / "data.h5", episodes)
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        file["action"][5 + 3, 1] = np.nan
    dataset = OfflineDataset(tmp_path / "data.h5")
    with pytest.raises(ValueError, match=r"action in row 3 of episode 1 of .* is not finite"):
        Clips(dataset, None, 2, 1)
    assert len(Clips(dataset, [0], 2, 1)) == 4


def drawn(clips: Clips, start: int, stop: int, workers: int = 0, seed: int = 3) -> list[torch.Tensor]:
    batches = list(clip_batches(clips, 8, seed, start, stop, workers))
    assert all(batch.frames.dtype == torch.uint8 and batch.actions.dtype == torch.float32 for batch in batches)
    return [batch.frames for batch in batches]


def test_every_clip_comes_once_per_epoch_in_an_order_of_seed_and_epoch(folder: Path) -> None:
    clips = Clips(OfflineDataset(folder), None, 2, 1)
    per_epoch = len(clips) // 8
    first, second = drawn(clips, 0, per_epoch), drawn(clips, per_epoch, 2 * per_epoch)
    seen = {frame.numpy().tobytes() for frame in torch.cat(first)}
    assert len(seen) == 8 * per_epoch
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert torch.equal(torch.cat(first), torch.cat(drawn(clips, 0, per_epoch)))
    assert not torch.equal(torch.cat(first), torch.cat(drawn(clips, 0, per_epoch, seed=4)))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_continuing_gives_the_batches_of_an_uninterrupted_run(folder: Path, workers: int) -> None:
    clips = Clips(OfflineDataset(folder), None, 2, 1)
    whole = drawn(clips, 0, 20)
    resumed = [*drawn(clips, 0, 7, workers), *drawn(clips, 7, 20, workers)]
    assert len(resumed) == 20
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_batches_leave_global_randomness_alone(folder: Path) -> None:
    clips = Clips(OfflineDataset(folder), None, 2, 1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn(clips, 0, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_batches_that_cannot_be_made(folder: Path) -> None:
    clips = Clips(OfflineDataset(folder), [5], 2, 1)
    with pytest.raises(ValueError, match=r"batch_size \(2\) must be at most the number of clips \(1\)"):
        clip_batches(clips, 2, 0, 0, 1)
    with pytest.raises(ValueError, match="start_step"):
        clip_batches(clips, 1, 0, 2, 1)
    with pytest.raises(ValueError, match="workers"):
        clip_batches(clips, 1, 0, 0, 1, workers=-1)


def test_truncated_shard_is_named(folder: Path) -> None:
    shard = folder / "shard-00001.h5"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"shard-00001.h5 is cut short .* call collect\(\) again"):
        OfflineDataset(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001.h5 is missing"):
        OfflineDataset(folder)


def test_verify_finds_one_flipped_bit(folder: Path) -> None:
    shard = folder / "shard-00001.h5"
    dataset = OfflineDataset(folder)
    dataset.verify()
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00001.h5 is damaged, its SHA-256"):
        dataset.verify()


def test_damaged_frame_is_named(tmp_path: Path) -> None:
    write_file(tmp_path / "data.h5", [make_episode(4, np.random.default_rng(0))])
    with h5py.File(tmp_path / "data.h5", "r") as file:
        chunk = file["pixels"].id.get_chunk_info(2)
    content = bytearray((tmp_path / "data.h5").read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 20] = bytes(20)
    (tmp_path / "data.h5").write_bytes(content)
    dataset = OfflineDataset(tmp_path / "data.h5")
    dataset.read_frames(np.array([0, 1, 3]))
    with pytest.raises(ValueError, match=r"data.h5 is damaged, frame 2 cannot be read"):
        dataset.read_frames(np.array([2]))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(50)])
def test_foreign_file_is_not_hdf5(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.h5").write_bytes(content)
    with pytest.raises(ValueError, match=r"data.h5 is not a whole HDF5 file"):
        OfflineDataset(tmp_path / "data.h5")


def test_hdf5_of_another_kind(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["observations"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"lacks the columns .*pixels.*; it has \['observations'\]"):
        OfflineDataset(tmp_path / "data.h5")
    with pytest.raises(FileNotFoundError, match="no dataset at"):
        OfflineDataset(tmp_path / "nothing")


def test_single_file_without_episodes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["pixels"] = np.zeros((0, 8, 8, 3), np.uint8)
        file["action"] = np.zeros((0, 2), np.float32)
        file["ep_len"] = file["ep_offset"] = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="holds no episode"):
        OfflineDataset(tmp_path / "data.h5")


def edited(change: dict[str, Any], folder: Path) -> None:
    content = json.loads((folder / "metadata.json").read_text())
    content.update(change)
    (folder / "metadata.json").write_text(json.dumps({k: v for k, v in content.items() if v != "delete"}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"colour": 1}, r"unknown keys \['colour'\]"),
        ({"seed": "delete"}, r"lacks the keys \['seed'\]"),
        ({"seed": "zero"}, "seed must be int, got 'zero'"),
        ({"frame_shape": [8, 8]}, r"frame_shape must be \[height, width, 3\]"),
        ({"format_version": 99}, "format_version 99"),
        ({"shards": [{"file": "a"}]}, "shards lacks the keys"),
        ({"shards": [{"file": "../a", "episodes": 1, "frames": 1, "bytes": 1, "sha256": ""}]}, "plain file name"),
        ({"shards": []}, "holds no whole shard"),
    ],
)
def test_metadata_of_another_kind(folder: Path, change: dict[str, Any], sentence: str) -> None:
    edited(change, folder)
    with pytest.raises(ValueError, match=sentence):
        OfflineDataset(folder)


@pytest.mark.parametrize("content", ["", '{"seed": 1', "[1, 2]", "3"])
def test_metadata_that_is_no_json_object(folder: Path, content: str) -> None:
    (folder / "metadata.json").write_text(content)
    with pytest.raises(ValueError, match=r"metadata.json (is damaged|must hold a JSON object)"):
        OfflineDataset(folder)


def test_metadata_survives_saving(folder: Path, tmp_path: Path) -> None:
    metadata = DatasetMetadata.load(folder)
    metadata.save(tmp_path)
    assert DatasetMetadata.load(tmp_path) == metadata
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("column", "value", "error", "sentence"),
    [
        ("pixels", np.zeros((4, 8, 8, 3), np.float32), TypeError, "uint8 .*got float32"),
        ("pixels", np.full((4, 8, 8, 3), np.nan), TypeError, "got float64 with NaN"),
        ("pixels", np.zeros((4, 3, 8, 8), np.uint8), ValueError, r"\(height, width, 3\), got \(4, 3, 8, 8\)"),
        ("pixels", np.zeros((4, 16, 16, 3), np.uint8), ValueError, "pixels has rows of shape"),
        ("pixels", np.zeros((5, 8, 8, 3), np.uint8), ValueError, "pixels has 5 rows instead of 4"),
        ("action", np.diag([np.nan] * 4)[:, :2].astype("f"), ValueError, "action in row 0 is .* must be finite"),
        ("action", np.zeros((4, 3), np.float32), ValueError, "action has rows of shape"),
        ("reward", np.zeros(4), ValueError, "columns"),
    ],
)
def test_bad_episodes_leave_no_file(
    tmp_path: Path, column: str, value: np.ndarray, error: type[Exception], sentence: str
) -> None:
    good = make_episode(4, np.random.default_rng(0))
    with pytest.raises(error, match=sentence), ShardWriter(tmp_path / "shard.h5") as writer:
        writer.append(good)
        writer.append({**good, column: value})
    assert not list(tmp_path.iterdir())


def test_shard_without_episodes_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no episode was written"), ShardWriter(tmp_path / "shard.h5"):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="compression 'zip' is unknown"):
        ShardWriter(tmp_path / "shard.h5", "zip")  # type: ignore[arg-type]


def test_missing_plugin_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hdf5plugin")
    write_file(tmp_path / "data.h5", [make_episode(4, np.random.default_rng(0))], "blosc")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(ImportError, match=r'pip install "lewm-agent\[fast\]"'):
        ShardReader(tmp_path / "data.h5")
    with pytest.raises(ImportError, match=r'pip install "lewm-agent\[fast\]"'):
        ShardWriter(tmp_path / "more.h5", "blosc")


def test_frames_at_intervals_serve_clips_whose_frame_skip_is_a_multiple(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [make_episode(length, rng) for length in (13, 8)]
    sparse = [{**episode, "pixels": episode["pixels"][::2]} for episode in episodes]
    write_file(tmp_path / "all.h5", episodes, "gzip")
    with ShardWriter(tmp_path / "sparse.h5", "gzip", frame_interval=2) as writer:
        for episode in sparse:
            writer.append(episode)
    every, second = OfflineDataset(tmp_path / "all.h5"), OfflineDataset(tmp_path / "sparse.h5")
    assert (every.num_frames, second.num_frames) == (21, 7 + 4)
    np.testing.assert_array_equal(second.episode(1)["pixels"], sparse[1]["pixels"])
    np.testing.assert_array_equal(second.episode(1)["state"], episodes[1]["state"])
    dense_clips, clips = Clips(every, None, 3, 2), Clips(second, None, 3, 2)
    assert len(clips) == 5 + 2  # of the starts 0 to 8 and 0 to 3, the even ones
    for index in range(len(clips)):
        (episode,), (start,) = clips.locate([index])
        same = next(i for i in range(len(dense_clips)) if dense_clips.locate([i]) == ([episode], [start]))
        np.testing.assert_array_equal(clips[index].frames, dense_clips[same].frames)
        np.testing.assert_array_equal(clips[index].actions, dense_clips[same].actions)


def test_frames_that_were_not_recorded_are_refused(tmp_path: Path) -> None:
    episode = make_episode(13, np.random.default_rng(0))
    with ShardWriter(tmp_path / "sparse.h5", "gzip", frame_interval=4) as writer:
        writer.append({**episode, "pixels": episode["pixels"][::4]})
        with pytest.raises(ValueError, match="pixels has 13 rows instead of 4"):
            writer.append(episode)
    dataset = OfflineDataset(tmp_path / "sparse.h5")
    with pytest.raises(ValueError, match=r"frame_skip \(6\) must be a multiple of 4"):
        Clips(dataset, None, 2, 6)
    with pytest.raises(ValueError, match=r"row 6 of .* has no frame; it has one frame for every 4 steps"):
        dataset.read_frames(np.array([4, 6]))


def test_goals_are_later_frames_of_the_episode(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_file(tmp_path / "data.h5", [make_episode(length, rng) for length in (40, 9, 23)])
    dataset = OfflineDataset(tmp_path / "data.h5")
    plain, clips = Clips(dataset, None, 3, 2), Clips(dataset, None, 3, 2, goal_blocks=4)
    assert len(clips) == len(plain)
    frames, actions, goals, blocks = clips.fetch(np.arange(len(clips)))
    assert sorted(set(blocks.tolist())) == [0, 1, 2, 3, 4]
    assert set(np.bincount(blocks[:25])) == {5}  # whose episode goes on for 4 blocks and more
    for index in range(len(clips)):
        np.testing.assert_array_equal(frames[index], plain[index].frames)
        np.testing.assert_array_equal(actions[index], plain[index].actions)
        (episode,), (start,) = clips.locate([index])
        goal = dataset.episode(episode)["pixels"][start + 4 + 2 * blocks[index]]
        np.testing.assert_array_equal(goals[index], goal)
    assert clips[7].blocks_to_goal == blocks[7]
