"""Lance tables, folders of pictures, videos and HDF5 files of stable-worldmodel, read by that library."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.formats.checking import action_rows, is_pictures, rgb_frames
from lewm_agent.datasets.formats.source import chosen_frames, described, imported
from lewm_agent.datasets.shard_reader import checked_index, row_columns

ADVICE = 'pip install "lewm-agent[compare]"'
ANY_ROWS = 2**62
"""Rows within which an index lies if how many there are is found out by reading them."""
_INDEX_COLUMNS = ("ep_idx", "step_idx", "episode_idx", "ep_len", "ep_offset")


class StableWorldModelSource:
    """Any format in stable-worldmodel's registry. See :class:`EpisodeSource` and :func:`open_source`."""

    def __init__(self, path: Path, frames: str | None = None) -> None:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            library = imported("stable_worldmodel.data", f"reading {path}", ADVICE)
            if path.suffix in (".h5", ".hdf5"):  # without it, the library does not know the format
                imported("hdf5plugin", f"reading {path}", ADVICE)
            kind = library.detect_format(str(path))
            if kind is None:
                known = ", ".join(library.list_formats())
                raise ValueError(
                    f"{path} is no dataset in a format known here: stable-worldmodel's ({known}), LeRobot's version 3, "
                    "Minari's"
                )
            chosen = {"keys_to_load": row_columns(path)} if kind.name == "hdf5" else {}
            self._dataset = kind.open_reader(str(path), **chosen)
        self.description = f"{path.name}, stable-worldmodel {kind.name}"
        index = np.asarray(self._dataset.lengths), np.asarray(self._dataset.offsets)
        self.lengths: list[int] = checked_index(path, *index, ANY_ROWS)[0].tolist()
        first = self._columns(next((index for index, rows in enumerate(self.lengths) if rows), 0))
        if "action" not in first:
            raise ValueError(f"{path} has no column `action`; it has {', '.join(sorted(first))}")
        pictures = [name for name, values in first.items() if is_pictures(values)]
        self._frames = chosen_frames(pictures, frames, str(path), described(first))
        self._others = [n for n in first if n not in (*pictures, "action") and first[n].dtype.kind in "biuf"]

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """One episode. See :class:`EpisodeSource`."""
        columns = self._columns(index)
        others = {name: columns[name] for name in self._others}
        pixels = rgb_frames(columns[self._frames], self._frames)
        return {**others, "pixels": pixels, "action": action_rows(columns["action"], len(pixels))}

    def _columns(self, index: int) -> dict[str, NDArray[Any]]:
        episode = self._dataset.load_episode(index)
        return {name: np.asarray(values) for name, values in episode.items() if name not in _INDEX_COLUMNS}
