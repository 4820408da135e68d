"""Several datasets as one, such as recorded episodes and an agent's own attempts."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lewm_agent.datasets.offline import OfflineDataset
from lewm_agent.datasets.shards import SOMETIMES_THERE
from lewm_agent.tools.checks import require

Given = OfflineDataset | str | Path
"""A dataset or its path."""
UNNAMED = ("unknown", "unregistered")
"""Environments that say nothing of what they are."""


class MixedDataset(OfflineDataset):
    """The episodes of several datasets, numbered through them all, in their order.

    Whatever is asked of a dataset can be asked of it; it has the columns that all of them have. It is split within
    each part, as that part is by itself.

    Args:
        parts: of one environment, with frames of one size and interval; at least two.
        weights: share of the clips of a training that comes from each part, together 1; None: every clip is seen as
            often as any other.

    Raises:
        ValueError: the parts do not belong together, or the weights are none; the message says which and why.

    Attributes:
        parts: as given.
        weights: as given.
        first_episodes: number of the first episode of each part, (P,).
    """

    def __init__(self, parts: Sequence[OfflineDataset], weights: Sequence[float] | None = None) -> None:
        self.parts, self.weights = tuple(parts), _checked_weights(parts, weights)
        first, *others = self.parts
        for other in others:
            _check_alike(first, other)
        self.path, self.metadata, self.left_out = Path(" + ".join(str(part.path) for part in parts)), None, {}
        self._files = [file for part in parts for file in part._files]
        self._open, self._open_in = OrderedDict(), first._open_in
        self.frame_shape, self.frame_interval = first.frame_shape, first.frame_interval
        self.columns = [name for name in first.columns if all(_has_alike(first, other, name) for other in others)]
        rows = _before([len(part.actions) for part in parts])
        shards = _before([len(part._files) for part in parts])
        self.first_episodes = _before([part.num_episodes for part in parts])
        self.episode_lengths = np.concatenate([part.episode_lengths for part in parts])
        self.episode_starts = _moved([part.episode_starts for part in parts], rows)
        self._episode_shard = _moved([part._episode_shard for part in parts], shards)
        self._shard_starts = _moved([part._shard_starts for part in parts], rows)
        self.actions = np.concatenate(_as_wide(parts))

    def split(
        self, held_out_fraction: float, seed: int, episodes: ArrayLike | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each part as it splits by itself; arguments and errors as there."""
        pairs = []
        for part, first, chosen in by_part(self, self.episode_array(episodes)):
            pairs.append([side + first for side in part.split(held_out_fraction, seed, chosen)])
        train, held_out = zip(*pairs, strict=True)
        return np.concatenate(train), np.concatenate(held_out)

    def verify(self) -> None:
        """Compare every shard of every part with its hash. Raises ``ValueError`` as for one dataset."""
        for part in self.parts:
            part.verify()


def opened(given: Given | Sequence[Given], weights: Sequence[float] | None = None) -> OfflineDataset:
    """One dataset from what somebody names: a dataset, a path, or several, which are mixed.

    Args:
        given: what to open.
        weights: for several, as :class:`MixedDataset` takes them.

    Raises:
        ValueError: none is given, or as for :class:`MixedDataset`.
        FileNotFoundError: nothing lies at a path.
    """
    several = [given] if isinstance(given, OfflineDataset | str | Path) else list(given)
    require(bool(several), "give a dataset to learn from (--dataset), or several")
    datasets = [one if isinstance(one, OfflineDataset) else OfflineDataset(one) for one in several]
    if len(datasets) > 1:
        return MixedDataset(datasets, weights)
    _checked_weights(datasets, weights)
    return datasets[0]


def paths_of(given: Given | Sequence[Given]) -> list[Path]:
    """Where what :func:`opened` takes lies, for another process."""
    several = [given] if isinstance(given, OfflineDataset | str | Path) else given
    return [path for one in several for path in _paths(one)]


def _paths(one: Given) -> list[Path]:
    return [part.path for part in parts_of(one)] if isinstance(one, OfflineDataset) else [Path(one)]


def parts_of(dataset: OfflineDataset) -> tuple[OfflineDataset, ...]:
    """What a dataset is made of: the parts of a mixed one, else itself."""
    return dataset.parts if isinstance(dataset, MixedDataset) else (dataset,)


def weights_of(dataset: OfflineDataset) -> tuple[float, ...] | None:
    """Share of each part in a training; None where every clip counts alike."""
    return dataset.weights if isinstance(dataset, MixedDataset) else None


def part_of(dataset: OfflineDataset, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """In which part each of the episodes (n,) is, from 0."""
    if not isinstance(dataset, MixedDataset):
        return np.zeros(len(episodes), np.int64)
    return np.searchsorted(dataset.first_episodes, episodes, side="right") - 1


def by_part(
    dataset: OfflineDataset, episodes: NDArray[np.int64]
) -> Iterator[tuple[OfflineDataset, int, NDArray[np.int64]]]:
    """Each part, the number of its first episode in the whole, and which of its own are among ``episodes`` (n,)."""
    of = part_of(dataset, episodes)
    firsts = dataset.first_episodes if isinstance(dataset, MixedDataset) else [0]
    for number, (part, first) in enumerate(zip(parts_of(dataset), firsts, strict=True)):
        yield part, int(first), episodes[of == number] - first


def by_turns(dataset: OfflineDataset, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The episodes (n,) in an order whose beginnings have all parts as the whole has; as given where there is one."""
    of = part_of(dataset, episodes)
    place = np.empty(len(episodes))
    for number in np.unique(of):
        own = np.flatnonzero(of == number)
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return episodes[np.argsort(place, kind="stable")]


def _checked_weights(parts: Sequence[OfflineDataset], weights: Sequence[float] | None) -> tuple[float, ...] | None:
    if weights is None:
        return None
    shares = tuple(float(weight) for weight in weights)
    require(
        len(shares) == len(parts),
        f"there are {len(parts)} datasets and {len(shares)} weights: give one weight for each dataset",
    )
    require(
        all(math.isfinite(share) and share > 0 for share in shares),
        f"weights must be above 0, got {list(shares)}: leave a dataset out that is not to be learned from",
    )
    total = sum(shares)
    fitting = ", ".join(f"{share / total:.3g}" for share in shares)
    require(abs(total - 1) < 1e-6, f"weights must add up to 1, and {list(shares)} are {total:g}: such as {fitting}")
    return shares


def _check_alike(first: OfflineDataset, other: OfflineDataset) -> None:
    """Raise ``ValueError``, which says what differs, unless two datasets can be learned from together."""
    ours, theirs = _facts(first), _facts(other)
    for what in [what for what in ours if what in theirs]:
        require(
            ours[what] == theirs[what],
            f"{other.path} has {what} {theirs[what]}, {first.path} has {ours[what]}: what is learned from together "
            "must be of one environment, and recorded alike",
        )


def _facts(dataset: OfflineDataset) -> dict[str, object]:
    """In which datasets that are learned from together agree, as far as they say it."""
    facts: dict[str, object] = {} if not dataset.has_actions else {"action_dim": dataset.action_dim}
    if dataset.metadata is not None:
        said = dataset.metadata
        facts |= {"environment": said.environment_id} if said.environment_id not in UNNAMED else {}
        facts |= {"action space": said.action_space} if said.observation_space not in UNNAMED else {}
    recorded = {"frames": dataset.frame_shape, "frame interval": dataset.frame_interval}
    numbers = [name for name in SOMETIMES_THERE if name in dataset.columns]
    return facts | recorded | {f"numbers in {name}:": _row_shape(dataset, name) for name in numbers}


def _as_wide(parts: Sequence[OfflineDataset]) -> list[NDArray[np.float32]]:
    """Actions of each part; those of parts without any are as many missing numbers as the others have."""
    width = next((part.action_dim for part in parts if part.has_actions), 1)
    return [
        part.actions if part.has_actions else np.full((len(part.actions), width), np.nan, np.float32) for part in parts
    ]


def _has_alike(first: OfflineDataset, other: OfflineDataset, column: str) -> bool:
    return column in other.columns and (column == "action" or _row_shape(first, column) == _row_shape(other, column))


def _row_shape(dataset: OfflineDataset, column: str) -> tuple[int, ...]:
    return dataset._reader(0).row_shape(column)


def _before(counts: Sequence[int]) -> NDArray[np.int64]:
    """How many there are before each part."""
    return np.cumsum([0, *counts[:-1]]).astype(np.int64)


def _moved(pieces: Sequence[NDArray[np.int64]], by: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([piece + shift for piece, shift in zip(pieces, by, strict=True)])
