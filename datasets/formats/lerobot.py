"""Datasets of LeRobot, layout version 3: Parquet tables, and frames as videos or as pictures in the tables.

Source of the layout: lerobot ``datasets/utils.py`` and ``datasets/lerobot_dataset.py``, v3.0. That library needs a
newer Python than this package, and its files are plain Parquet and MP4.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.formats.source import chosen_frames, imported, with_last_row
from lewm_agent.datasets.formats.video import decoded

ADVICE = 'pip install "lewm-agent[lerobot]"'
_BOOKKEEPING = ("index", "episode_index", "frame_index", "task_index", "timestamp")


class LeRobotSource:
    """A folder with ``meta/info.json``. See :class:`EpisodeSource` and :func:`open_source`.

    An episode of n rows has n actions; the last one leads to no frame.

    Raises:
        ValueError: another version of the layout.
    """

    def __init__(self, path: Path, frames: str | None = None) -> None:
        self._path = path
        self._tables = imported("pyarrow.parquet", f"reading {path}", ADVICE)
        self._info = json.loads((path / "meta" / "info.json").read_text())
        version = str(self._info.get("codebase_version"))
        if not version.startswith("v3"):
            raise ValueError(f"{path} has LeRobot's layout {version}; convert it to v3 with lerobot first")
        self._features: dict[str, Any] = self._info["features"]
        if "action" not in self._features:
            raise ValueError(f"{path} has no feature `action`")
        pictures = [name for name, feature in self._features.items() if feature["dtype"] in ("video", "image")]
        self._frames = chosen_frames(pictures, frames, str(path))
        files = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
        self._episodes = [row for file in files for row in self._tables.read_table(file).to_pylist()]
        self.lengths = [int(row["length"]) for row in self._episodes]
        self.description = f"{path.name}, LeRobot {version}"
        self._table: tuple[Path, Any] | None = None

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """One episode. See :class:`EpisodeSource`."""
        row = self._episodes[index]
        table = self._rows(row)
        others = {name: np.asarray(table[name].to_pylist()) for name in self._vectors()}
        pixels = self._video(row) if self._features[self._frames]["dtype"] == "video" else self._pictures(table)
        if len(pixels) != len(table):
            raise ValueError(f"episode {index} of {self._path} has {len(pixels)} frames for {len(table)} rows")
        action = with_last_row(others.pop("action"), len(table))
        return {
            **{name.replace(".", "_"): values for name, values in others.items()},
            "action": action,
            "pixels": pixels,
        }

    def _vectors(self) -> list[str]:
        numeric = ("float", "int", "bool")
        named = [name for name, feature in self._features.items() if feature["dtype"].startswith(numeric)]
        return [name for name in named if name not in _BOOKKEEPING]

    def _rows(self, row: dict[str, Any]) -> Any:
        """The episode's part of its table; the last file is kept, for it holds many episodes."""
        chunk = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        file = self._path / self._info["data_path"].format(**chunk)
        if self._table is None or self._table[0] != file:
            self._table = file, self._tables.read_table(file)
        table = self._table[1]
        first = int(row["dataset_from_index"]) - int(table["index"][0].as_py())
        return table.slice(first, int(row["length"]))

    def _pictures(self, table: Any) -> NDArray[np.uint8]:
        pictures = [picture["bytes"] for picture in table[self._frames].to_pylist()]
        return np.stack([imageio.imread(io.BytesIO(data))[..., :3] for data in pictures])

    def _video(self, row: dict[str, Any]) -> NDArray[np.uint8]:
        place = f"videos/{self._frames}"
        chunk = {"chunk_index": row[f"{place}/chunk_index"], "file_index": row[f"{place}/file_index"]}
        file = self._path / self._info["video_path"].format(video_key=self._frames, **chunk)
        # Frames lie at whole multiples of 1 / fps; half a step of slack on either side hides rounding.
        half = 0.5 / float(self._info["fps"])
        first, last = row[f"{place}/from_timestamp"] - half, row[f"{place}/to_timestamp"] - half
        return decoded(file, first, last)
