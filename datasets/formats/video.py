"""Frames of video files: plain ones, and stable-worldmodel's folders of them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.formats.checking import action_rows, collected, no_actions, rgb_frames
from lewm_agent.datasets.formats.source import chosen_frames, imported
from lewm_agent.datasets.shard_reader import EXPANSION, SMALL, checked_index
from lewm_agent.tools.contained import inside

ADVICE = 'pip install "lewm-agent[video]"'
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
"""Endings of the files that are taken for episodes."""


def decoded(file: Path, first: float = 0.0, last: float = math.inf) -> Iterator[NDArray[np.uint8]]:
    """Frames (H, W, 3) shown from second ``first`` on and before second ``last``."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no video {file}")
    av = imported("av", f"reading {file}", ADVICE)
    with av.open(str(file)) as container:
        if not container.streams.video:
            raise ValueError(f"{file} has no video in it")
        stream = container.streams.video[0]
        container.seek(max(0, int(first / stream.time_base)), stream=stream)
        for frame in container.decode(stream):
            if frame.time >= last:
                break
            if frame.time >= first:
                yield frame.to_ndarray(format="rgb24")


class VideoFolderSource:
    """A folder ``<column>/ep_<i>.mp4`` beside ``<column>.npz``. See :class:`EpisodeSource` and :func:`open_source`.

    Source of the layout: stable-worldmodel ``data/formats/video.py``, whose reader needs the abandoned decord.
    """

    def __init__(self, path: Path, frames: str | None = None) -> None:
        self._path = path
        self._frames = chosen_frames(sorted(video.parent.name for video in path.glob("*/ep_0.mp4")), frames, str(path))
        tables = {file.stem: _table(inside(path, file.name)) for file in sorted(path.glob("*.npz"))}
        if missing := {"action", "ep_len", "ep_offset"} - set(tables):
            raise ValueError(f"{path} has no column `{sorted(missing)[0]}`; it has {', '.join(sorted(tables))}")
        index = checked_index(path, tables.pop("ep_len"), tables.pop("ep_offset"), len(tables["action"]))
        self.lengths, self._starts = (values.tolist() for values in index)
        self._tables = {name: values for name, values in tables.items() if values.dtype.kind in "biuf" and values.ndim}
        self.description = f"{path.name}, videos of stable-worldmodel"

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether a folder looks like one."""
        return (path / "ep_len.npz").is_file() and any(path.glob("*/ep_0.mp4"))

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """One episode. See :class:`EpisodeSource`."""
        rows = slice(self._starts[index], self._starts[index] + self.lengths[index])
        columns = {name: values[rows] for name, values in self._tables.items()}
        video = inside(self._path, f"{self._frames}/ep_{index}.mp4")
        pixels = rgb_frames(collected(decoded(video), self.lengths[index], self._frames), self._frames)
        return {**columns, "action": action_rows(self._tables["action"][rows], self.lengths[index]), "pixels": pixels}


class PlainVideoSource:
    """A folder of videos, an episode each, a frame for every step, and no actions. See :class:`EpisodeSource`."""

    def __init__(self, path: Path, frames: str | None = None) -> None:
        chosen_frames(["pixels"], frames, str(path))
        self._videos = [inside(path, video.name) for video in plain_videos(path)]
        self.lengths = [_frame_count(video) for video in self._videos]
        self.description = f"{path.name}, {len(self._videos)} videos without actions"

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """One episode. See :class:`EpisodeSource`."""
        rows, video = self.lengths[index], self._videos[index]
        pixels = rgb_frames(collected(decoded(video), rows, video.name), video.name)
        return {"pixels": pixels, "action": no_actions(rows)}


def plain_videos(path: Path) -> list[Path]:
    """The video files in a folder, by name."""
    return sorted(file for file in path.glob("*") if file.suffix.lower() in VIDEOS) if path.is_dir() else []


def _frame_count(video: Path) -> int:
    """How many frames a video has, as its file says, or else by decoding it."""
    av = imported("av", f"reading {video}", ADVICE)
    with av.open(str(video)) as container:
        said = container.streams.video[0].frames if container.streams.video else 0
    return int(said) or sum(1 for _ in decoded(video))


def _table(file: Path) -> NDArray[Any]:
    """The one array of an ``.npz`` file, if it does not unpack to far more than the file can honestly hold."""
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > max(SMALL, EXPANSION * file.stat().st_size):
        raise ValueError(f"{file} unpacks to {size / 1e9:.1f} GB, and it has {file.stat().st_size / 1e6:.1f} MB")
    with np.load(file) as arrays:
        values: NDArray[Any] = arrays["arr_0"]
    return values
