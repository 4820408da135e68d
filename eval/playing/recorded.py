"""Recorded episodes of any environment, for commands that look into a model: those which its training did not see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lewm_agent import LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.shards import FAMILY
from lewm_agent.eval.playing.views import Matrix, Views

LEFT_OUT = ("pixels", "action", "reward", "terminated", "truncated", FAMILY)
"""Columns that are no targets of a probe unless somebody names them."""


@dataclass(frozen=True)
class Clip:
    """Frames (n + 1, H, W, 3) between action blocks, and the actions (n * frame_skip, A) taken from each to the next.

    A clip is one episode's throughout, or goes on with another's.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]


def check_fits(agent: LeWMAgent, dataset: OfflineDataset) -> None:
    """Raise ``ValueError`` unless the dataset is of the model's environment, frames and actions."""
    model, known, of = agent.config.model, agent.description.environment, dataset.metadata
    if not agent.model.knows_actions:
        raise ValueError("this model lacks the statistics of its actions; convert it with --dataset first")
    world = None if known is None else known.rpartition(":")[2]  # data do not name the module that registers it
    if of is not None and world is not None and of.environment_id not in (world, "unknown", "unregistered"):
        raise ValueError(f"{dataset.path} is of {of.environment_id}, the model of {known}")
    has, needs = (*dataset.frame_shape[:2], dataset.action_dim), (model.image_size, model.image_size, model.action_dim)
    if has != needs:
        said = ["frames of {} x {} and actions of {} numbers".format(*sizes) for sizes in (has, needs)]
        raise ValueError(f"{dataset.path} has {said[0]}, the model needs {said[1]}")
    if model.frame_skip % dataset.frame_interval:
        raise ValueError(
            f"{dataset.path} has one frame for every {dataset.frame_interval} steps, the model looks at every "
            f"{model.frame_skip}th"
        )


def unseen(agent: LeWMAgent, dataset: OfflineDataset, seed: int) -> NDArray[np.int64]:
    """Indices (n,) of the episodes that training has not seen, in an order of the seed. Raises ``ValueError``."""
    check_fits(agent, dataset)
    episodes = agent.unseen_episodes(dataset)
    return np.random.default_rng(seed).permutation(episodes)


def views(agent: LeWMAgent, dataset: OfflineDataset, count: int, columns: Sequence[str], seed: int = 0) -> Views:
    """Every ``frame_skip``-th frame of unseen episodes, until there are ``count``, with what columns say of each.

    Args:
        agent: whose frames these are.
        dataset: of any environment.
        count: how many frames, at most.
        columns: names of numeric columns, each of whose components is a quantity; empty for all that may be of use.
        seed: of the order of the episodes.

    Raises:
        ValueError: there is no such column, or none of numbers; or the dataset is of another kind.
    """
    skip, rows, numbers = agent.config.model.frame_skip, [], []
    order = unseen(agent, dataset, seed)
    for episode in order:
        rows.append(dataset.episode_starts[episode] + np.arange(0, dataset.episode_lengths[episode], skip))
        numbers.append(np.full(len(rows[-1]), episode))
        if sum(map(len, rows)) >= count:
            break
    chosen, episodes = np.concatenate(rows)[:count], np.concatenate(numbers)[:count]
    every = {name: dataset.column(name) for name in columns or _of_numbers(dataset)}
    quantities: dict[str, Matrix] = {}
    for name, values in every.items():
        quantities |= _components(name, values[chosen])
    return Views(dataset.read_frames(chosen), quantities, episodes, np.stack(list(quantities.values()), axis=1))


def _of_numbers(dataset: OfflineDataset) -> list[str]:
    """Columns that may say where the environment is."""
    names = [name for name in dataset.columns if name not in LEFT_OUT and not name.startswith("goal")]
    found = [name for name in names if _is_vector(dataset.column(name, [0]))]
    if not found:
        raise ValueError(f"{dataset.path} has no column of numbers to probe for; it has {', '.join(dataset.columns)}")
    return found


def _is_vector(values: NDArray[np.generic]) -> bool:
    return values.dtype.kind in "fiub" and values.ndim in (1, 2)


def _components(name: str, values: NDArray[np.generic]) -> dict[str, Matrix]:
    """The column itself if it is one number, else each of its numbers by its place: ``state[0]``."""
    if not _is_vector(values):
        raise ValueError(f"column {name} holds {values.dtype} of shape {values.shape[1:]} in a row, not a few numbers")
    numbers = values.astype(np.float64)
    if numbers.ndim == 1 or numbers.shape[1] == 1:
        return {name: numbers.reshape(-1)}
    return {f"{name}[{i}]": numbers[:, i] for i in range(numbers.shape[1])}


def clips(agent: LeWMAgent, dataset: OfflineDataset, blocks: int, seed: int = 0) -> Iterator[Clip]:
    """The beginnings of unseen episodes that have so many action blocks."""
    steps, skip = blocks * agent.config.model.frame_skip, agent.config.model.frame_skip
    for episode in unseen(agent, dataset, seed):
        first = int(dataset.episode_starts[episode])
        if dataset.episode_lengths[episode] > steps:
            rows = first + np.arange(0, steps + 1, skip)
            yield Clip(dataset.read_frames(rows), dataset.actions[first : first + steps])


def jumped(one: Clip, other: Clip, block: int) -> Clip:
    """One clip up to before a frame, the other from this frame on."""
    step = block * len(one.actions) // (len(one.frames) - 1)
    return Clip(
        np.concatenate([one.frames[:block], other.frames[block:]]),
        np.concatenate([one.actions[:step], other.actions[step:]]),
    )


def recolored(clip: Clip, block: int) -> Clip:
    """A clip whose colors change from a frame on: hues turn by a third of the circle, and all is a quarter darker."""
    changed = np.rint(0.75 * np.roll(clip.frames[block:], 1, axis=-1)).astype(np.uint8)
    return Clip(np.concatenate([clip.frames[:block], changed]), clip.actions)
