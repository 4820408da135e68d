"""Lance tables, folders of pictures, videos and HDF5 files of stable-worldmodel, read by that library."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.formats.source import chosen_frames, imported, with_last_row

ADVICE = 'pip install "lewm-agent[compare]"'
_INDEX_COLUMNS = ("ep_idx", "step_idx", "episode_idx", "ep_len", "ep_offset")


class StableWorldModelSource:
    """Any format in stable-worldmodel's registry. See :class:`EpisodeSource` and :func:`open_source`."""

    def __init__(self, path: Path, frames: str | None = None) -> None:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            library = imported("stable_worldmodel.data", f"reading {path}", ADVICE)
            kind = library.detect_format(str(path))
            if kind is None:
                known = ", ".join(library.list_formats())
                raise ValueError(
                    f"{path} is no dataset in a format known here: stable-worldmodel's ({known}), LeRobot's version 3, "
                    "Minari's"
                )
            self._dataset = kind.open_reader(str(path))
        self.description = f"{path.name}, stable-worldmodel {kind.name}"
        self.lengths = [int(length) for length in self._dataset.lengths]
        first = self._columns(0)
        pictures = [name for name, values in first.items() if values.ndim == 4 and values.dtype == np.uint8]
        self._frames = chosen_frames(pictures, frames, str(path))
        self._others = [n for n in first if n not in (*pictures, "action") and first[n].dtype.kind in "biuf"]
        if "action" not in first:
            raise ValueError(f"{path} has no column `action`; it has {', '.join(sorted(first))}")

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """One episode. See :class:`EpisodeSource`."""
        columns = self._columns(index)
        pixels, action = columns[self._frames], columns["action"]
        others = {name: columns[name] for name in self._others}
        return {**others, "pixels": pixels, "action": with_last_row(action, len(pixels))}

    def _columns(self, index: int) -> dict[str, NDArray[Any]]:
        episode = self._dataset.load_episode(index)
        columns = {name: np.asarray(values) for name, values in episode.items() if name not in _INDEX_COLUMNS}
        return {name: _channels_last(values) for name, values in columns.items()}


def _channels_last(values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim == 4 and values.dtype == np.uint8 and values.shape[1] == 3 and values.shape[3] != 3:
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    return values
