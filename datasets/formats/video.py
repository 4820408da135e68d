"""Frames of video files, and stable-worldmodel's folders of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.formats.source import chosen_frames, imported, with_last_row

ADVICE = 'pip install "lewm-agent[video]"'


def decoded(file: Path, first: float = 0.0, last: float = math.inf) -> NDArray[np.uint8]:
    """Frames (N, H, W, 3) shown from second ``first`` on and before second ``last``."""
    av = imported("av", f"reading {file}", ADVICE)
    frames = []
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        container.seek(max(0, int(first / stream.time_base)), stream=stream)
        for frame in container.decode(stream):
            if frame.time >= last:
                break
            if frame.time >= first:
                frames.append(frame.to_ndarray(format="rgb24"))
    return np.stack(frames)


class VideoFolderSource:
    """A folder ``<column>/ep_<i>.mp4`` beside ``<column>.npz``. See :class:`EpisodeSource` and :func:`open_source`.

    Source of the layout: stable-worldmodel ``data/formats/video.py``, whose reader needs the abandoned decord.
    """

    def __init__(self, path: Path, frames: str | None = None) -> None:
        self._path = path
        self._frames = chosen_frames(sorted(video.parent.name for video in path.glob("*/ep_0.mp4")), frames, str(path))
        tables = {file.stem: np.load(file)["arr_0"] for file in sorted(path.glob("*.npz"))}
        self.lengths = [int(length) for length in tables.pop("ep_len")]
        self._starts = [int(start) for start in tables.pop("ep_offset")]
        self._tables = {name: values for name, values in tables.items() if values.dtype.kind in "biuf"}
        self.description = f"{path.name}, videos of stable-worldmodel"
        if "action" not in self._tables:
            raise ValueError(f"{path} has no column `action`; it has {', '.join(sorted(self._tables))}")

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether a folder looks like one."""
        return (path / "ep_len.npz").is_file() and any(path.glob("*/ep_0.mp4"))

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """One episode. See :class:`EpisodeSource`."""
        rows = slice(self._starts[index], self._starts[index] + self.lengths[index])
        columns = {name: values[rows] for name, values in self._tables.items()}
        pixels = decoded(self._path / self._frames / f"ep_{index}.mp4")
        return {**columns, "action": with_last_row(columns["action"], self.lengths[index]), "pixels": pixels}
