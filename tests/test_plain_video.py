"""Videos and LeRobot's folders without actions become episodes that have none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from lewm_agent import inspection
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.conversion import convert
from lewm_agent.datasets.formats import open_source
from lewm_agent.datasets.formats.source import EpisodeSource

DATA = Path(__file__).parent / "data"


def videos(folder: Path, lengths: tuple[int, ...], sides: tuple[int, ...]) -> EpisodeSource:
    folder.mkdir()
    for number, (rows, side) in enumerate(zip(lengths, sides, strict=True)):
        frames = np.full((rows, side, side, 3), 40 * number + 40, np.uint8)
        imageio.imwrite(folder / f"run{number}.mp4", frames, plugin="pyav", codec="libx264", fps=10)
    return open_source(folder)


def test_a_folder_of_videos_has_an_episode_for_each(tmp_path: Path) -> None:
    source = videos(tmp_path / "films", (6, 4), (32, 32))
    dataset = convert(source, tmp_path / "data", image_size=16, progress=False)
    assert dataset.episode_lengths.tolist() == [6, 4] and dataset.frame_shape == (16, 16, 3)
    assert not dataset.has_actions and dataset.without_actions.tolist() == [0, 1]
    means = [dataset.episode(number)["pixels"].mean() for number in (0, 1)]
    np.testing.assert_allclose(means, [40, 80], atol=4)
    with pytest.raises(ValueError, match="hold no action"):
        dataset.action_statistics()
    again = OfflineDataset(tmp_path / "data")
    assert again.metadata is not None and again.metadata.action_mean is None
    assert inspection.describe(str(tmp_path / "data"))["episodes"].startswith("2")


def test_videos_of_other_sizes_are_named(tmp_path: Path) -> None:
    source = videos(tmp_path / "films", (4, 4), (32, 48))
    with pytest.raises(ValueError, match=r"episode 1 of films, 2 videos without actions has .*48, 48.*the first one"):
        convert(source, tmp_path / "data", progress=False)
    assert convert(source, tmp_path / "small", image_size=16, progress=False).num_episodes == 2


def test_what_is_called_a_video_and_is_none(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "run.mp4").write_bytes(b"no video")
    with pytest.raises((ValueError, OSError), match="films cannot be read"):
        open_source(tmp_path / "films")


def test_lerobot_without_actions(tmp_path: Path) -> None:
    folder = tmp_path / "robot"
    shutil.copytree(DATA / "lerobot_image", folder)
    file = folder / "meta" / "info.json"
    info = json.loads(file.read_text())
    del info["features"]["action"]
    file.write_text(json.dumps(info))
    tables = pytest.importorskip("pyarrow.parquet")
    for part in (folder / "data").rglob("*.parquet"):
        tables.write_table(tables.read_table(part).drop(["action"]), part)
    dataset = convert(open_source(folder), tmp_path / "data", progress=False)
    assert dataset.num_episodes == 3 and not dataset.has_actions
