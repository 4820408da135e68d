"""Datasets of other libraries, read episode by episode; :mod:`lewm_agent.datasets.conversion` makes them ours.

Each library is imported when a dataset of its kind is opened, and not before.
"""

from __future__ import annotations

from pathlib import Path

from lewm_agent.datasets.formats.checking import reading
from lewm_agent.datasets.formats.source import EpisodeSource

__all__ = ["EpisodeSource", "open_source"]


def open_source(place: str | Path, frames: str | None = None) -> EpisodeSource:
    """Open a dataset by what it looks like.

    Args:
        place: file or folder of stable-worldmodel (Lance, HDF5, folder of pictures, videos), folder of LeRobot v3,
            folder of plain videos, or id of a dataset in the local Minari store (``D4RL/door/human-v2``).
        frames: which column has the frames, if there are several; by default the one called ``pixels``, or the only
            one.

    Raises:
        FileNotFoundError: nothing there.
        ImportError: the library that reads it is not installed.
        ValueError: none of these formats, damaged, with an index that cannot be true, or no such frames.
    """
    with reading(str(place)):
        return _opened(place, frames)


def _opened(place: str | Path, frames: str | None) -> EpisodeSource:
    from lewm_agent.datasets.formats import lerobot, minari, stable_worldmodel, video

    path = Path(place)
    if not path.exists():
        if minari.is_id(str(place)):
            return minari.MinariSource(str(place), frames)
        raise FileNotFoundError(f"there is no dataset at {place}, and it is not the id of a Minari dataset either")
    if (path / "meta" / "info.json").is_file():
        return lerobot.LeRobotSource(path, frames)
    if video.VideoFolderSource.is_at(path):
        return video.VideoFolderSource(path, frames)
    if video.plain_videos(path):
        return video.PlainVideoSource(path, frames)
    return stable_worldmodel.StableWorldModelSource(path, frames)
