"""What every foreign dataset is put through: its frames, actions and columns made ours, or refused with a reason."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.shards import INDEX_COLUMNS, check_episode

SMALLEST_PICTURE = 8
"""Sides under which a uint8 matrix per row is not taken for a grey picture."""
REWARDS = ("reward", "next_reward")


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a library raises over foreign content into one sentence that begins with ``what``.

    Libraries that are missing and errors of the operating system are raised as they are.
    """
    try:
        yield
    except (ImportError, FileNotFoundError, PermissionError, BlockingIOError):
        raise
    except Exception as error:  # a foreign library may raise anything
        if isinstance(error, OSError) and error.errno is not None:  # of the system, and not of a library
            raise
        text = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(text if text.startswith(what) else f"{what} cannot be read: {text}") from error


def is_pictures(values: NDArray[Any]) -> bool:
    """Whether a column holds pictures, of whatever channels."""
    grey = values.ndim == 3 and min(values.shape[1:]) >= SMALLEST_PICTURE
    return values.dtype == np.uint8 and (values.ndim == 4 or grey)


def rgb_frames(frames: NDArray[Any], column: str) -> NDArray[np.uint8]:
    """Frames with one meaning as (N, H, W, 3) uint8: grey, RGB and opaque RGBA, channels last or first.

    Raises:
        ValueError: other ones, such as two channels, four stacked pictures or 16 bits; names column, type and shape.
    """
    given = f"{frames.dtype} {frames.shape[1:]}"
    if frames.dtype == np.uint8 and frames.ndim == 3:
        frames = frames[..., None]
    if frames.dtype == np.uint8 and frames.ndim == 4 and 0 not in frames.shape:
        if frames.shape[3] not in (1, 3, 4) and frames.shape[1] in (1, 3, 4):
            frames = frames.transpose(0, 2, 3, 1)
        if frames.shape[3] == 4 and (frames[..., 3] == 255).all():
            frames = frames[..., :3]
        if frames.shape[3] == 1:
            frames = np.repeat(frames, 3, axis=3)
        if frames.shape[3] == 3:
            return np.ascontiguousarray(frames)
    raise ValueError(
        f"{column} has frames {given}: only grey, RGB or opaque RGBA frames of uint8 have one meaning, with channels "
        "last or first"
    )


def collected(frames: Iterable[NDArray[Any]], rows: int, column: str) -> NDArray[Any]:
    """As many frames as there are ``rows``, decoded one after the other, as one array.

    Raises:
        ValueError: more or fewer, one of another shape, or more than half of this machine's memory can hold.
    """
    array: NDArray[Any] = np.empty((0,))
    count = 0
    for count, frame in enumerate(frames, 1):
        if count == 1:
            require_memory(rows * frame.nbytes, f"{rows} frames of {column}")
            array = np.empty((rows, *frame.shape), frame.dtype)
        if count > rows:
            raise ValueError(f"{column} has more than {rows} frames, and the episode so many rows")
        if (frame.shape, frame.dtype) != (array.shape[1:], array.dtype):
            raise ValueError(f"{column} has frames {array.dtype} {array.shape[1:]} and {frame.dtype} {frame.shape}")
        array[count - 1] = frame
    if count < rows:
        raise ValueError(f"{column} has {count} frames for {rows} rows")
    return array


def require_memory(size: int, what: str) -> None:
    """Raise ``ValueError`` if ``size`` bytes are more than half of this machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**34
    if size > memory // 2:
        raise ValueError(f"{what} take {size / 1e9:.1f} GB, more than half of this machine's memory")


def action_rows(actions: Any, rows: int) -> NDArray[np.float32]:
    """Actions (n, A) or (n,) of real numbers as (rows, A) float32, NaN where no action follows the last frame.

    Raises:
        ValueError: whole numbers, which may be choices among unknown many; other shapes; or too many or too few.
    """
    values = np.asarray(actions)
    if values.dtype.kind != "f":
        raise ValueError(
            f"action holds {values.dtype} {values.shape[1:]}, not real numbers, and of how many choices is not said; "
            "store choices as one-hot vectors of floats"
        )
    if values.ndim not in (1, 2) or len(values) not in (rows, rows - 1) or 0 in values.shape[1:]:
        raise ValueError(f"action has shape {values.shape} for {rows} frames; they must be (rows, A) or one row fewer")
    flat = values[:, None] if values.ndim == 1 else values
    missing = np.full((rows - len(flat), flat.shape[1]), np.nan, np.float32)
    return np.concatenate([flat.astype(np.float32), missing])


def no_actions(rows: int) -> NDArray[np.float32]:
    """The actions of an episode that tells of none, (rows, 1): how many numbers one has is told by other data."""
    return np.full((rows, 1), np.nan, np.float32)


def checked_episode(columns: Mapping[str, Any], rows: int) -> dict[str, NDArray[Any]]:
    """Columns of one episode as a shard takes them.

    Raises:
        TypeError, ValueError: frames, actions or rewards that are none, a column that does not have as many ``rows``,
            is not of numbers, or whose name is taken.
    """
    episode: dict[str, NDArray[Any]] = {}
    for given, content in columns.items():
        name, values = given.replace("/", "_"), np.asarray(content)
        if name in episode or name in INDEX_COLUMNS or name in ("", "."):
            raise ValueError(f"a column cannot be called {given!r}: another one has that name, or the index of shards")
        if values.ndim == 0 or len(values) != rows:
            raise ValueError(f"{given} has {len(values) if values.ndim else 'no'} rows, by its index it has {rows}")
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{given} holds {values.dtype} {values.shape[1:]}, not numbers")
        episode[name] = _rewards(values, given) if name in REWARDS else values
    check_episode(episode)
    return episode


def _rewards(values: NDArray[Any], name: str) -> NDArray[Any]:
    """One finite number per row."""
    if values.size != len(values):
        raise ValueError(f"{name} has {values.shape[1:]} numbers per row instead of one")
    bad = np.flatnonzero(~np.isfinite(values.reshape(-1)))
    if bad.size:
        raise ValueError(f"{name} in row {bad[0]} is {values.reshape(-1)[bad[0]]}, no finite number")
    return values.reshape(-1)
