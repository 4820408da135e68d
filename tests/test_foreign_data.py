"""Foreign datasets: what has one meaning is converted, the rest is refused with its column, space or file named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.conversion import convert
from lewm_agent.datasets.formats import open_source
from lewm_agent.datasets.formats.checking import collected, rgb_frames
from lewm_agent.datasets.formats.minari import check_actions, vectors_of

LEROBOT = Path(__file__).parent / "data" / "lerobot_image"
ROWS = 5


class Source:
    """Two episodes whose second one has some columns replaced."""

    description = "made"

    def __init__(self, **replaced: Any) -> None:
        self.lengths, self.replaced = [ROWS, ROWS], replaced

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        columns: dict[str, Any] = {"pixels": np.zeros((ROWS, 8, 8, 3), np.uint8), "reward": np.zeros(ROWS)}
        columns["action"] = np.zeros((ROWS, 2), np.float32)
        return {**columns, **(self.replaced if index else {})}


RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (ROWS, 10, 12, 3), dtype=np.uint8)
GREY = np.repeat(COLOURS[..., :1], 3, axis=3)
OPAQUE = np.full((ROWS, 10, 12, 1), 255, np.uint8)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (COLOURS, COLOURS),
        (COLOURS.transpose(0, 3, 1, 2), COLOURS),
        (np.concatenate([COLOURS, OPAQUE], axis=3), COLOURS),
        (np.concatenate([COLOURS, OPAQUE], axis=3).transpose(0, 3, 1, 2), COLOURS),
        (GREY[..., 0], GREY),
        (GREY[..., :1], GREY),
        (GREY[..., :1].transpose(0, 3, 1, 2), GREY),
    ],
)
def test_frames_with_one_meaning(frames: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(rgb_frames(frames, "camera"), expected)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((ROWS, 10, 12, 2), np.uint8),
        np.zeros((ROWS, 10, 12, 4), np.uint8),
        np.zeros((ROWS, 4, 10, 12), np.uint8),
        np.zeros((ROWS, 10, 12, 3), np.uint16),
        np.zeros((ROWS, 10, 12, 3), np.float32),
        np.zeros((ROWS, 0, 0, 3), np.uint8),
        np.zeros((ROWS, 12), np.uint8),
    ],
)
def test_frames_with_none_or_two(frames: NDArray[Any]) -> None:
    shape = str(frames.shape[1:]).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"camera has frames {frames.dtype} {shape}"):
        rgb_frames(frames, "camera")


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({"pixels": np.zeros((ROWS, 8, 8, 4), np.uint8)}, r"pixels must be frames of shape .*got \(5, 8, 8, 4\)"),
        ({"pixels": np.zeros((ROWS, 8, 8, 3))}, "pixels must be uint8 frames .*float64"),
        ({"pixels": np.zeros((3, 8, 8, 3), np.uint8)}, "pixels has 3 rows, by its index it has 5"),
        ({"action": np.zeros((ROWS, 3), np.float32)}, r"action float32 \(3,\)"),
        ({"action": np.full((ROWS, 2), np.inf, np.float32)}, "action in row 0 .* must be finite"),
        ({"reward": np.array([0, 0, np.nan, 0, 0])}, "reward in row 2 is nan"),
        ({"reward": [0.0, None, 0.0, 0.0, 0.0]}, "reward holds object"),
        ({"reward": np.zeros((ROWS, 2))}, "reward has .* numbers per row instead of one"),
        ({"ep_len": np.zeros(ROWS)}, "a column cannot be called 'ep_len'"),
        ({"state": np.zeros(ROWS)}, "the first one has"),
    ],
)
def test_an_episode_that_does_not_fit_is_named(
    tmp_path: Path, replaced: dict[str, Any], sentence: str, size: int | None
) -> None:
    with pytest.raises(ValueError, match=f"episode 1.*{sentence}"):
        convert(Source(**replaced), tmp_path / "ours", image_size=size, progress=False)


def test_rewards_one_in_a_row_each_and_episodes_without_rows(tmp_path: Path) -> None:
    source = Source(reward=np.ones((ROWS, 1)))
    source.lengths.insert(1, 0)
    source.lengths.append(ROWS)
    episode = source.episode
    source.episode = lambda index: episode(index if index < 2 else 1)  # type: ignore[method-assign]
    dataset = convert(source, tmp_path / "ours", progress=False)
    assert dataset.episode_lengths.tolist() == [ROWS, ROWS, ROWS]
    np.testing.assert_array_equal(dataset.episode(1)["reward"], np.ones(ROWS))


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError("x"), RecursionError("x"), ValueError("x")])
def test_whatever_a_library_raises_becomes_a_sentence(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Source, index: int) -> None:
        raise error

    monkeypatch.setattr(Source, "episode", fails)
    with pytest.raises(ValueError, match=r"episode 0 of made cannot be read: .*x"):
        convert(Source(), tmp_path / "ours", progress=False)


@pytest.mark.parametrize("start", [0, 3])
def test_choices_become_one_hot_vectors(start: int) -> None:
    space = gym.spaces.Discrete(4, start=start)
    vectors = vectors_of(np.array([0, 3, 2]) + start, space, 4)
    np.testing.assert_array_equal(vectors[:3], np.eye(4)[[0, 3, 2]])
    assert np.isnan(vectors[3]).all()
    with pytest.raises(ValueError, match="are not choices in Discrete"):
        vectors_of(np.array([0, 4]) + start, space, 3)
    with pytest.raises(ValueError, match="are not choices in Discrete"):
        vectors_of(np.array([0.5, 1.0]), space, 3)


BOX = gym.spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.MultiDiscrete([3, 3]),
        gym.spaces.MultiBinary(3),
        gym.spaces.Dict(a=BOX),
        gym.spaces.Tuple([BOX, BOX]),
        gym.spaces.Box(-1, 1, (2, 3)),
        gym.spaces.Box(-1, 1, ()),
    ],
)
def test_other_actions_are_refused_with_their_space(space: gym.Space[Any]) -> None:
    with pytest.raises(ValueError) as caught:
        check_actions(space, "their/data-v0")
    assert f"their/data-v0 has actions of {space}" in str(caught.value)


def test_vectors_must_be_of_the_space() -> None:
    np.testing.assert_array_equal(vectors_of(np.ones((2, 2), np.int64), BOX, 3)[:2], np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"actions are float64 \(3,\), and the dataset says Box"):
        vectors_of(np.ones((2, 3)), BOX, 3)


def test_more_frames_than_there_are_rows_are_not_gathered() -> None:
    def endless() -> Any:
        while True:
            yield np.zeros((4, 4, 3), np.uint8)

    with pytest.raises(ValueError, match="camera has more than 3 frames"):
        collected(endless(), 3, "camera")
    with pytest.raises(ValueError, match=r"frames of camera take .* more than half of this machine's memory"):
        collected(endless(), 2**50, "camera")
    with pytest.raises(ValueError, match="camera has 0 frames for 3 rows"):
        collected(iter(()), 3, "camera")


@pytest.fixture
def lerobot(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEROBOT, tmp_path / "theirs"))


def info(folder: Path, **values: Any) -> None:
    file = folder / "meta" / "info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def table(folder: Path, part: str, change: Callable[[dict[str, list[Any]]], None]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (file,) = (folder / part).glob("*/*.parquet")
    columns = parquet.read_table(file).to_pydict()
    change(columns)
    parquet.write_table(pa.table(columns), file)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: info(f, total_episodes=4), "info.json says total_episodes 4, meta/episodes 3"),
        (lambda f: info(f, total_frames=22), "info.json says total_frames 22, meta/episodes 21"),
        (lambda f: info(f, features=3), "must have `features`"),
        (lambda f: info(f, data_path="../{chunk_index}/{file_index}"), "leads out of"),
        (lambda f: info(f, data_path="/etc/passwd"), "leads out of .*theirs, to /etc/passwd"),
        (lambda f: info(f, data_path="{chunk_index.real.x}"), "theirs cannot be read: AttributeError"),
        (lambda f: info(f, data_path=None), "has no text data_path"),
        (lambda f: (f / "meta/info.json").write_text("[" * 100_000), "theirs cannot be read: RecursionError"),
        (lambda f: table(f, "meta/episodes", lambda t: t.update(length=[7, 5, -9])), "whole number .* length, got -9"),
        (lambda f: table(f, "meta/episodes", lambda t: t.update(length=[5, 7, 9])), "not those of episode"),
        (
            lambda f: table(f, "meta/episodes", lambda t: t.update(episode_index=[0, 0, 1])),
            "every episode_index .* once",
        ),
        (
            lambda f: table(f, "meta/episodes", lambda t: t.update(dataset_from_index=[0, 0, 0])),
            "not those of episode 1",
        ),
        (lambda f: table(f, "meta/episodes", lambda t: t.pop("length")), "whole number .* length, got None"),
        (lambda f: table(f, "data", lambda t: t.pop("action")), "has no column `action`"),
        (lambda f: table(f, "data", lambda t: t.update(action=[[1]] * 21)), "action holds int64"),
        (
            lambda f: table(f, "data", lambda t: t["action"].__setitem__(3, [1.0])),
            "action has rows of different shapes",
        ),
        (lambda f: table(f, "data", lambda t: t.pop("observation.image")), "its tables have none"),
        (lambda f: table(f, "data", lambda t: t["observation.image"].__setitem__(2, None)), "no picture in row 2"),
    ],
)
def test_an_index_of_lerobot_that_cannot_be_true(
    lerobot: Path, tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(lerobot)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        convert(open_source(lerobot), tmp_path / "ours", progress=False)


def test_what_lerobot_declares_and_lacks_is_left_out_with_a_warning(lerobot: Path, tmp_path: Path) -> None:
    features = json.loads((lerobot / "meta/info.json").read_text())["features"]
    info(lerobot, features={**features, "observation.force": {"dtype": "float32", "shape": [1]}})
    with pytest.warns(UserWarning, match=r"file-000.parquet lacks what info.json declares.*: observation.force"):
        source = open_source(lerobot)
    assert convert(source, tmp_path / "ours", progress=False).columns == ["action", "observation_state", "pixels"]


@pytest.fixture
def minari_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ``their/data-v0``: two episodes of choices seen in grey, and a pair of observations."""
    minari = pytest.importorskip("minari")
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    picture, choices = gym.spaces.Box(0, 255, (20, 20), np.uint8), gym.spaces.Discrete(3)
    ends = {"rewards": [0.0] * 4, "terminations": [False] * 4, "truncations": [False] * 3 + [True]}
    seen = np.zeros((5, 20, 20), np.uint8), np.zeros((5, 2), np.float32)
    buffers = [EpisodeBuffer(id=i, observations=seen, actions=np.array([0, 1, 2, 1]), **ends) for i in range(2)]
    space = gym.spaces.Tuple([picture, BOX])
    minari.create_dataset_from_buffers("their/data-v0", buffers, observation_space=space, action_space=choices)
    return tmp_path / "store" / "their" / "data-v0" / "data"


def converted(tmp_path: Path) -> OfflineDataset:
    return convert(open_source("their/data-v0"), tmp_path / "ours", progress=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_choices_tuples_and_grey_pictures_of_minari(minari_data: Path, tmp_path: Path) -> None:
    dataset = converted(tmp_path)
    np.testing.assert_array_equal(dataset.episode(1)["action"][:4], np.eye(3)[[0, 1, 2, 1]])
    assert dataset.frame_shape == (20, 20, 3) and "1" in dataset.columns


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_data_that_would_run_or_read_something_else(minari_data: Path, tmp_path: Path) -> None:
    file = minari_data / "metadata.json"
    content = json.loads(file.read_text())
    spec = {"id": "Evil-v0", "entry_point": "evil_module:Evil"}
    file.write_text(json.dumps({**content, "action_space": None, "env_spec": json.dumps(spec)}))
    with pytest.raises(ValueError, match=r"metadata.json lacks the spaces .* would run the environment"):
        open_source("their/data-v0")
    file.write_text(json.dumps({**content, "total_episodes": 1}))
    with pytest.raises(ValueError, match=r"their/data-v0 has 4 steps in 1 episodes, its metadata say 8"):
        open_source("their/data-v0")
    file.write_text(json.dumps({**content, "total_episodes": 3}))
    with pytest.raises(ValueError, match="their/data-v0 cannot be read: KeyError"):
        open_source("their/data-v0")
    file.write_text(json.dumps(content))
    with h5py.File(minari_data / "main_data.hdf5", "a") as data:
        data["episode_0"].attrs["total_steps"] = 3
        data["episode_1"].attrs["total_steps"] = 5
    with pytest.raises(ValueError, match=r"episode 0 of their/data-v0, Minari .* for 4 frames|by its index it has 4"):
        converted(tmp_path)
    with h5py.File(minari_data / "main_data.hdf5", "a") as data:
        data["episode_1/secret"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(ValueError, match=r"main_data.hdf5 cannot be used: episode_1/secret is a link"):
        open_source("their/data-v0")


@pytest.mark.parametrize("ep_len", [[5, 6], [6, 4], [5, 2**62], [5, -5]])
def test_the_index_of_a_folder_of_videos(tmp_path: Path, ep_len: list[int]) -> None:
    (tmp_path / "pixels").mkdir()
    (tmp_path / "pixels" / "ep_0.mp4").write_bytes(b"")
    tables = {"ep_len": np.array(ep_len), "ep_offset": np.array([0, 5]), "action": np.zeros((10, 2), np.float32)}
    for name, values in tables.items():
        np.savez(tmp_path / f"{name}.npz", values)
    with pytest.raises(ValueError, match=r"share rows|rows outside"):
        open_source(tmp_path)


def test_a_table_that_unpacks_to_more_than_its_file_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lewm_agent.datasets.formats.video.SMALL", 2**20)
    (tmp_path / "pixels").mkdir()
    (tmp_path / "pixels" / "ep_0.mp4").write_bytes(b"")
    for name in ("ep_len", "ep_offset"):
        np.savez(tmp_path / f"{name}.npz", np.zeros(1, np.int64))
    np.savez_compressed(tmp_path / "action.npz", np.zeros((2**18, 1), np.float64))
    with pytest.raises(ValueError, match=r"action.npz unpacks to 0.0 GB, and it has 0.0 MB"):
        open_source(tmp_path)
