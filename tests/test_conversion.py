"""Datasets of other libraries, written by those libraries, become ours; and ours become Minari's."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from lewm_agent import LeWMAgent
from lewm_agent.config import AgentConfig
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.conversion import convert
from lewm_agent.datasets.formats import minari as minari_format
from lewm_agent.datasets.formats import open_source

DATA = Path(__file__).parent / "data"
LENGTHS = (7, 5, 9)

Columns = dict[str, NDArray[Any]]


def made_episode(index: int, rows: int, side: int = 32) -> Columns:
    """Smooth frames, which lossy pictures keep, a different one for every row."""
    pixels = np.empty((rows, side, side, 3), np.uint8)
    for row in range(rows):
        pixels[row] = 40 * index + 12 * row, 200 - 20 * row, 90
    action = np.stack([np.arange(rows), -np.full(rows, index)], 1).astype(np.float32)
    return {"pixels": pixels, "action": action, "state": action.astype(np.float64) * 2}


EPISODES = [made_episode(index, rows) for index, rows in enumerate(LENGTHS)]


def assert_same(dataset: OfflineDataset, episodes: list[Columns], tolerance: float, columns: tuple[str, ...]) -> None:
    assert dataset.episode_lengths.tolist() == [len(columns["pixels"]) for columns in episodes]
    for index, expected in enumerate(episodes):
        found = dataset.episode(index)
        assert np.abs(found["pixels"].astype(int) - expected["pixels"].astype(int)).mean() <= tolerance
        for name in columns:
            np.testing.assert_allclose(found[name], expected[name])


@pytest.mark.parametrize(
    ("kind", "name", "tolerance"), [("lance", "x.lance", 4), ("folder", "x", 4), ("video", "x", 8), ("hdf5", "x.h5", 0)]
)
def test_formats_of_stable_worldmodel(tmp_path: Path, kind: str, name: str, tolerance: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stable_worldmodel.data import get_format
    with get_format(kind).open_writer(str(tmp_path / name)) as writer:
        for episode in EPISODES:
            writer.write_episode({column: list(values) for column, values in episode.items()})
    source = open_source(tmp_path / name)
    assert kind in source.description
    dataset = convert(source, tmp_path / "ours", environment_id="lewm/PushT-v0", progress=False)
    assert_same(dataset, EPISODES, tolerance, ("action", "state"))
    assert dataset.metadata is not None and dataset.metadata.environment_id == "lewm/PushT-v0"
    dataset.verify()


@pytest.mark.parametrize(("kind", "tolerance"), [("video", 6), ("image", 0)])
def test_lerobot(tmp_path: Path, kind: str, tolerance: float) -> None:
    """The folders were written by lerobot 0.4.4; row t of episode e has state (e, t) and action (t, -e)."""
    expected = []
    for e, rows in enumerate(LENGTHS):
        pixels = np.empty((rows, 64, 64, 3), np.uint8)
        for t in range(rows):
            pixels[t] = 20 * e + 10 * t
            pixels[t, :, : 8 * (t % 8) + 8, 0] = 255 - 20 * e
        state = np.stack([np.full(rows, e), np.arange(rows)], 1)
        expected.append({"pixels": pixels, "observation_state": state, "action": state[:, ::-1] * [1, -1]})
    dataset = convert(open_source(DATA / f"lerobot_{kind}"), tmp_path / "ours", progress=False)
    assert_same(dataset, expected, tolerance, ("action", "observation_state"))
    assert dataset.columns == ["action", "observation_state", "pixels"]


@pytest.fixture
def minari_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.mark.usefixtures("minari_store")
def test_to_minari_and_back(tmp_path: Path, tiny_config: AgentConfig) -> None:
    ours = LeWMAgent("two_room", tiny_config).collect(tmp_path / "ours", "expert", episodes=3, progress=False)
    minari_format.export(ours, "lewm/two-room/expert-v0", progress=False)

    import minari

    theirs = minari.load_dataset("lewm/two-room/expert-v0")
    episode = theirs[1]
    assert len(episode.actions) + 1 == len(episode.observations["pixels"]) == ours.episode_lengths[1]
    np.testing.assert_array_equal(episode.observations["pixels"], ours.episode(1)["pixels"])
    assert episode.terminations[-1] or episode.truncations[-1]

    back = convert(open_source("lewm/two-room/expert-v0"), tmp_path / "back", progress=False)
    assert back.episode_lengths.tolist() == ours.episode_lengths.tolist()
    for index in range(3):
        first, second = ours.episode(index), back.episode(index)
        for name in ("pixels", "action", "state", "reward", "terminated", "truncated"):
            np.testing.assert_array_equal(first[name], second[name])
    with pytest.raises(FileExistsError, match="already has lewm/two-room/expert-v0"):
        minari_format.export(ours, "lewm/two-room/expert-v0")
    with pytest.raises(ValueError, match="is not a Minari id"):
        minari_format.export(ours, "two rooms")
    with pytest.raises(FileNotFoundError, match="minari download lewm/other-v1"):
        open_source("lewm/other-v1")


@pytest.mark.usefixtures("minari_store")
def test_minari_data_of_others(tmp_path: Path) -> None:
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    rng = np.random.default_rng(0)
    picture = gym.spaces.Box(0, 255, (20, 20, 3), np.uint8)
    joint = gym.spaces.Box(-8, 8, (3,), np.float32)
    buffers = []
    for index in range(2):
        joints = rng.uniform(-8, 8, (7, 3)).astype(np.float32)
        pictures = np.broadcast_to((20 * (joints[:, 2] + 8) / 2).astype(np.uint8)[:, None, None, None], (7, 20, 20, 3))
        outcomes = {"rewards": [0.0] * 6, "terminations": [False] * 6, "truncations": [False] * 5 + [True]}
        observations = {"camera": np.array(pictures), "joint": joints}
        buffers.append(EpisodeBuffer(id=index, observations=observations, actions=rng.uniform(size=(6, 1)), **outcomes))
    minari.create_dataset_from_buffers(
        "pendulum/test-v0",
        buffers,
        observation_space=gym.spaces.Dict({"camera": picture, "joint": joint}),
        action_space=gym.spaces.Box(-2, 2, (1,)),
    )
    dataset = convert(open_source("pendulum/test-v0"), tmp_path / "ours", image_size=10, progress=False)
    assert dataset.episode_lengths.tolist() == [7, 7]
    assert dataset.frame_shape == (10, 10, 3)
    episode = dataset.episode(1)
    assert episode["joint"].shape == (7, 3)
    assert np.isnan(episode["action"][-1]).all() and np.isfinite(episode["action"][:-1]).all()
    levels = (20 * (episode["joint"][:, 2] + 8) / 2).astype(np.uint8)
    assert np.abs(episode["pixels"][:, 5, 5, 0].astype(int) - levels).max() <= 3


class MadeSource:
    """250 tiny episodes; may fail at one of them, or claim more rows than it has."""

    description = "made, for a test"

    def __init__(self, fails_at: int = -1, extra: int = 0) -> None:
        self.fails_at = fails_at
        self.lengths = [4] * 249 + [4 + extra]
        self.read: list[int] = []

    def episode(self, index: int) -> Columns:
        if index == self.fails_at:
            raise OSError("the disk is gone")
        self.read.append(index)
        return made_episode(index % 4, 4, side=8)


def test_an_interrupted_conversion_goes_on(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        convert(MadeSource(fails_at=230), tmp_path / "ours", progress=False)
    again = MadeSource()
    dataset = convert(again, tmp_path / "ours", progress=False)
    assert min(set(again.read) - {0}) == 200, "whole shards are kept"
    whole = convert(MadeSource(), tmp_path / "whole", progress=False)
    assert dataset.metadata is not None and whole.metadata is not None
    assert [s.sha256 for s in dataset.metadata.shards] == [s.sha256 for s in whole.metadata.shards]


def test_rows_must_agree_and_other_data_are_not_mixed_in(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"episode 249 of made, .* pixels has 4 rows, by its index it has 5"):
        convert(MadeSource(extra=1), tmp_path / "short", progress=False)
    convert(MadeSource(), tmp_path / "ours", progress=False)
    other = MadeSource()
    other.description = "something else"
    with pytest.raises(ValueError, match="holds a dataset with policy 'converted: made, for a test'"):
        convert(other, tmp_path / "ours", progress=False)
    assert len(convert(other, tmp_path / "ours", overwrite=True, progress=False)) == 250


def test_a_missing_library_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("stable_worldmodel.data", "minari", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "x.lance").mkdir()
    with pytest.raises(ImportError, match=r'pip install "lewm-agent\[compare\]"'):
        open_source(tmp_path / "x.lance")
    with pytest.raises(ImportError, match=r'pip install "lewm-agent\[minari\]"'):
        open_source("lewm/other-v1")
    with pytest.raises(ImportError, match=r'pip install "lewm-agent\[lerobot\]"'):
        open_source(DATA / "lerobot_image")


def test_a_library_of_a_library_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_worldmodel.data")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    (tmp_path / "x.h5").touch()
    with pytest.raises(ImportError, match=r'reading .*x.h5 needs hdf5plugin .* pip install "lewm-agent\[compare\]"'):
        open_source(tmp_path / "x.h5")


def test_what_is_no_dataset_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no dataset at nowhere"):
        open_source("nowhere")
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(ValueError, match="is no dataset in a format known here"):
        open_source(tmp_path / "letter.txt")
    with pytest.raises(ValueError, match=r"has frames observation.image: it has no frames 'wrist'"):
        open_source(DATA / "lerobot_image", frames="wrist")
