"""Datasets of LeRobot, layout version 3: Parquet tables, and frames as videos or as pictures in the tables.

Source of the layout: lerobot ``datasets/utils.py`` and ``datasets/lerobot_dataset.py``, v3.0. That library needs a
newer Python than this package, and its files are plain Parquet and MP4.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lewm_agent.datasets.formats.checking import action_rows, collected, no_actions, require_memory, rgb_frames
from lewm_agent.datasets.formats.source import chosen_frames, imported
from lewm_agent.datasets.formats.video import decoded
from lewm_agent.tools.contained import inside

ADVICE = 'pip install "lewm-agent[lerobot]"'
_BOOKKEEPING = ("index", "episode_index", "frame_index", "task_index", "timestamp")
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""What is decoded here; of others Pillow knows, some start programs."""
PICTURE_MODES = {"1": "L", "P": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
"""Modes of Pillow whose numbers are not grey, RGB or RGBA, and which of these they mean."""


class LeRobotSource:
    """A folder with ``meta/info.json``. See :class:`EpisodeSource` and :func:`open_source`.

    An episode of n rows has n actions; the last one leads to no frame. Where no feature is called ``action``, it has
    none. The tables are believed, not what ``info.json`` says of them: features they lack are left out with a warning.

    Raises:
        ValueError: another version of the layout, or an index without sense.
    """

    def __init__(self, path: Path, frames: str | None = None) -> None:
        self._path = path
        self._tables = imported("pyarrow.parquet", f"reading {path}", ADVICE)
        self._info = _info(path)
        self._features: dict[str, dict[str, Any]] = self._info["features"]
        pictures = [name for name, feature in self._features.items() if feature["dtype"] in ("video", "image")]
        others = ", ".join(name for name in self._features if name not in pictures)
        self._frames = chosen_frames(pictures, frames, str(path), others)
        files = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
        self._episodes = [row for file in files for row in self._tables.read_table(inside(path, file)).to_pylist()]
        self._episodes.sort(key=lambda row: _whole(row, "episode_index"))
        self.lengths = [_whole(row, "length") for row in self._episodes]
        self._check_counts()
        self.description = f"{path.name}, LeRobot {self._info['codebase_version']}"
        self._table: tuple[Path, Any] | None = None
        self._vectors = self._found_vectors()

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """One episode. See :class:`EpisodeSource`."""
        row, rows = self._episodes[index], self.lengths[index]
        table = self._rows(row)
        others = {name: _values(table, name) for name in self._vectors}
        is_video = self._features[self._frames]["dtype"] == "video"
        pictures = self._video(row) if is_video else self._pictures(table)
        pixels = rgb_frames(collected(pictures, rows, self._frames), self._frames)
        action = action_rows(others.pop("action"), rows) if "action" in others else no_actions(rows)
        named = {name.replace(".", "_"): values for name, values in others.items()}
        if len({*named, "action", "pixels"}) < len(others) + 2:
            raise ValueError(f"features of {self._path} have the same name but for dots: {', '.join(others)}")
        return {**named, "action": action, "pixels": pixels}

    def _check_counts(self) -> None:
        """Every episode is listed once, and all that ``info.json`` counts."""
        if [row["episode_index"] for row in self._episodes] != list(range(len(self._episodes))):
            raise ValueError(f"{self._path}/meta/episodes must list every episode_index from 0 on once")
        for name, found in (("total_episodes", len(self._episodes)), ("total_frames", sum(self.lengths))):
            if self._info.get(name, found) != found:
                raise ValueError(f"{self._path}/meta/info.json says {name} {self._info[name]!r}, meta/episodes {found}")

    def _found_vectors(self) -> list[str]:
        """The numeric features that the tables have."""
        numeric = ("float", "int", "uint", "bool")
        declared = [name for name, feature in self._features.items() if feature["dtype"].startswith(numeric)]
        used = [index for index, rows in enumerate(self.lengths) if rows]
        file = self._file(self._episodes[used[0]]) if used else None
        there = set(self._tables.read_schema(file).names) if file else set(declared)
        if "episode_index" not in there or ("action" in declared and "action" not in there):
            missing = "action" if "episode_index" in there else "episode_index"
            raise ValueError(f"{file} has no column `{missing}`; it has {', '.join(sorted(there))}")
        if absent := [name for name in declared if name not in there]:
            warnings.warn(
                f"{file} lacks what info.json declares, and it is left out: {', '.join(absent)}", stacklevel=2
            )
        return [name for name in dict.fromkeys([*declared, "action"]) if name in there - {*_BOOKKEEPING}]

    def _file(self, row: dict[str, Any]) -> Path:
        return self._named("data_path", _place(row, "data"))

    def _named(self, template: str, place: dict[str, Any]) -> Path:
        """A file whose name ``info.json`` makes of its place."""
        text = self._info.get(template)
        if not isinstance(text, str):
            raise ValueError(f"{self._path}/meta/info.json has no text {template}, got {text!r}")
        file = inside(self._path, text.format(**place))
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; {self._path}/meta/episodes names it")
        return file

    def _rows(self, row: dict[str, Any]) -> Any:
        """The episode's part of its table; the last file is kept, for it holds many episodes."""
        file = self._file(row)
        if self._table is None or self._table[0] != file:
            self._table = file, self._read(file)
        table, rows, episode = self._table[1], _whole(row, "length"), _whole(row, "episode_index")
        start = _whole(row, "dataset_from_index")
        first = start - int(table["index"][0].as_py()) if "index" in table.column_names else start
        part = table.slice(first, rows) if first >= 0 else table.slice(0, 0)
        owners = part["episode_index"].to_numpy()
        if len(owners) != rows or (owners != episode).any():
            raise ValueError(
                f"rows {first} to {first + rows} of {file} are not those of episode {episode}, as meta/episodes says"
            )
        return part

    def _read(self, file: Path) -> Any:
        """The columns that are used, if what the file says of its size leaves room for them."""
        head = self._tables.ParquetFile(file).metadata
        groups = [head.row_group(group) for group in range(head.num_row_groups)]
        size = sum(group.total_byte_size for group in groups) + 8 * head.num_rows * head.num_columns
        require_memory(size, f"the tables in {file}")
        wanted = [*self._vectors, "episode_index", "index", *self._features.keys() & {self._frames}]
        return self._tables.read_table(file, columns=[n for n in wanted if n in head.schema.to_arrow_schema().names])

    def _pictures(self, table: Any) -> Iterator[NDArray[Any]]:
        if self._frames not in table.column_names:
            raise ValueError(f"{self._path} declares frames {self._frames}, and its tables have none")
        for number in range(len(table)):
            picture = table[self._frames][number].as_py()
            data = picture.get("bytes") if isinstance(picture, dict) else None
            if not data:
                raise ValueError(f"{self._frames} has no picture in row {number}")
            yield _picture(data)

    def _video(self, row: dict[str, Any]) -> Iterator[NDArray[Any]]:
        place = f"videos/{self._frames}"
        file = self._named("video_path", {"video_key": self._frames, **_place(row, place)})
        fps = self._info.get("fps")
        times = fps, row.get(f"{place}/from_timestamp"), row.get(f"{place}/to_timestamp")
        if not all(isinstance(time, int | float) and math.isfinite(time) and time >= 0 for time in times) or not fps:
            raise ValueError(
                f"fps and times of {self._frames} in {file.name} must be numbers of at least 0, got {times}"
            )
        # Frames lie at whole multiples of 1 / fps; half a step of slack on either side hides rounding.
        half = 0.5 / float(times[0])  # type: ignore[arg-type]
        return decoded(file, times[1] - half, times[2] - half)  # type: ignore[operator]


def _info(path: Path) -> dict[str, Any]:
    """``info.json``, if it has features with a type each and is of the right version."""
    file = inside(path, "meta/info.json")
    info = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(info, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(info).__name__}")
    version = str(info.get("codebase_version"))
    if not version.startswith("v3"):
        raise ValueError(f"{path} has LeRobot's layout {version}; convert it to v3 with lerobot first")
    features = info.get("features")
    if not isinstance(features, dict) or not all(
        isinstance(feature, dict) and isinstance(feature.get("dtype"), str) for feature in features.values()
    ):
        raise ValueError(f"{file} must have `features`, each with a text `dtype`")
    return info


def _whole(row: dict[str, Any], name: str) -> int:
    """A count or position in the table of episodes."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"meta/episodes must have a whole number of at least 0 for {name}, got {value!r}")
    return value


def _place(row: dict[str, Any], of: str) -> dict[str, int]:
    return {name: _whole(row, f"{of}/{name}") for name in ("chunk_index", "file_index")}


def _values(table: Any, name: str) -> NDArray[Any]:
    """A column as an array; missing numbers are NaN."""
    if name not in table.column_names:
        raise ValueError(f"{name} is in the first table only")
    try:
        values = np.asarray(table[name].to_pylist())
    except ValueError:
        raise ValueError(f"{name} has rows of different shapes") from None
    return values.astype(np.float64) if values.dtype == object else values


def _picture(data: bytes) -> NDArray[Any]:
    """A picture (H, W) or (H, W, C) of a file's content."""
    with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
        return np.asarray(picture.convert(PICTURE_MODES[picture.mode]) if picture.mode in PICTURE_MODES else picture)
