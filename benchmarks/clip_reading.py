"""Clips per second from disk: lewm-agent's reader beside stable-worldmodel's HDF5 reader, on the same file and rows.

Run ``python benchmarks/clip_reading.py``. Without ``--dataset``, Two-Room episodes of a random policy are collected
into a temporary folder at every image size. stable-worldmodel is optional: ``pip install "lewm-agent[compare]"``.

Both readers run in torch's DataLoader and give batches of uint8 frames and float32 actions; both keep the actions in
memory and read the frames from disk. The file has been written just before or is read once first, so it lies in the
operating system's page cache: what is measured is the reader's own work.
"""

from __future__ import annotations

import functools
import importlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import record
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch.utils.data import DataLoader

import lewm_agent.envs  # noqa: F401  # registers the environments
from lewm_agent.datasets import Clips, OfflineDataset, ShardWriter, collect
from lewm_agent.eval import command
from lewm_agent.tools.command import console

OURS, THEIRS = "lewm-agent", "stable-worldmodel"
Batches = list[list[int]]


@dataclass(frozen=True)
class Reader:
    """A reader, the numbers it has for the clips to read, and how to use it."""

    dataset: Any
    batches: Batches
    collate: Callable[[Any], Any] | None
    close: Callable[[], None]
    """Close its file: the readers open it with different flags, which HDF5 refuses at the same time."""


@dataclass(frozen=True)
class Arguments:
    """Clips per second from disk: lewm-agent's reader beside stable-worldmodel's, on the same file and rows."""

    dataset: Path | None = None
    """Dataset folder or .h5 file to read; default: collect Two-Room episodes."""
    image_sizes: tuple[int, ...] = (64, 224)
    """Frame sizes in pixels of the collected episodes; unused with --dataset."""
    episodes: int = 40
    """Episodes to collect at each size."""
    num_frames: int = 4
    """Frames per clip."""
    frame_skip: int = 5
    """Environment steps between two frames of a clip."""
    batch_size: int = 64
    """Clips per batch."""
    batches: int = 30
    """Batches per measurement."""
    repeats: int = 5
    """Measurements of each reader, taken in turns; the median is shown."""
    workers: tuple[int, ...] = (0, 1)
    """Numbers of DataLoader worker processes; 0 reads in the main process."""
    output: Path | None = None
    """JSON file for the results."""


class RandomWalk:
    """A policy that keeps a random action for a few steps."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.shape = env.action_space.shape

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self.generator, self.steps = np.random.default_rng(seed), 0

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[Any]:
        """Return the action of this step."""
        if self.steps % 10 == 0:
            self.action = self.generator.uniform(-1, 1, self.shape)
        self.steps += 1
        return self.action


def collected(folder: Path, size: int, episodes: int) -> Path:
    """Return a file of so many Two-Room episodes of a random walk, in frames of ``size`` pixels."""
    kwargs: dict[str, Any] = {"render_mode": "rgb_array", "image_size": size}
    make_env = functools.partial(gym.make, "lewm/TwoRoom-v0", **kwargs)
    path = folder / f"two_room_{size}"
    collect(
        path, make_env, RandomWalk, episodes,
        environment_id="lewm/TwoRoom-v0", environment_kwargs=kwargs, policy="random walk", seed=0,
        shard_episodes=episodes,
    )  # fmt: skip
    return path / "shard-00000.h5"


def single_file(arguments: Arguments, size: int | None, folder: Path) -> Path:
    """Return one ``.h5`` file with all episodes: collected, as given, or joined from the shards that were given."""
    if size is not None:
        return collected(folder, size, arguments.episodes)
    dataset = OfflineDataset(arguments.dataset)
    if dataset.path.is_file():
        return dataset.path
    with ShardWriter(folder / "joined.h5") as writer:
        for index in range(dataset.num_episodes):
            writer.append(dataset.episode(index))
    return folder / "joined.h5"


def to_tensors(arrays: tuple[NDArray[Any], NDArray[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn our reader's arrays into tensors without a copy."""
    return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])


def readers(file: Path, arguments: Arguments) -> dict[str, Reader]:
    """Prepare the readers that are installed, each with its own numbers for the same clips.

    stable-worldmodel's clips span num_frames * frame_skip rows, a few more than ours, so only starts that leave that
    many rows are drawn.
    """
    dataset = OfflineDataset(file)
    clips = Clips(dataset, None, arguments.num_frames, arguments.frame_skip)
    every = np.arange(len(clips))
    episodes, starts = clips.locate(every)
    span = arguments.num_frames * arguments.frame_skip
    fitting = every[starts + span <= dataset.episode_lengths[episodes]]
    wanted = arguments.batches * arguments.batch_size
    if not len(fitting):
        raise ValueError(f"no episode of {file} has the {span} rows that a clip of both readers needs")
    chosen = np.random.default_rng(0).choice(len(fitting), wanted, replace=len(fitting) < wanted)
    ours = in_batches(fitting[chosen], arguments.batch_size)
    found = {OURS: Reader(clips, ours, to_tensors, dataset.close)}
    dataset.close()
    their_dataset: Any = stable_worldmodel_dataset()
    if their_dataset is not None:
        columns = {"keys_to_load": ["pixels", "action"], "keys_to_cache": ["action"]}
        theirs = their_dataset(
            path=file, num_steps=arguments.num_frames, frameskip=arguments.frame_skip, transform=None, **columns
        )
        found[THEIRS] = Reader(
            theirs, in_batches(chosen, arguments.batch_size), None, lambda: setattr(theirs, "h5_file", None)
        )
        check_same_frames(found)
    return found


def stable_worldmodel_dataset() -> Any:
    """Return stable-worldmodel's HDF5 reader, or None with a word on why it is left out."""
    warnings.filterwarnings("ignore", message="lancedb fork")  # its package, imported with it, on every worker
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about environments it cannot offer
            return importlib.import_module("stable_worldmodel.data").HDF5Dataset
    except (ImportError, AttributeError) as error:  # without h5py or hdf5plugin it lacks the class
        message = f'stable-worldmodel is left out ({error}): pip install "lewm-agent[compare]" to see it beside'
        console(stderr=True).print(message)
        return None


def in_batches(indices: NDArray[np.int64], batch_size: int) -> Batches:
    """Cut clip numbers into batches."""
    return indices.reshape(-1, batch_size).tolist()


def check_same_frames(found: dict[str, Reader]) -> None:
    """Make sure that both readers give the same frames."""
    ours, theirs = found[OURS], found[THEIRS]
    frames = torch.from_numpy(ours.dataset.fetch(ours.batches[0]).frames).permute(0, 1, 4, 2, 3)
    ours.close()
    same = torch.equal(frames, torch.stack([theirs.dataset[index]["pixels"] for index in theirs.batches[0]]))
    theirs.close()
    if not same:
        raise ValueError("the readers give different frames for the same clips: nothing to compare")


def seconds(reader: Reader, workers: int) -> float:
    """Time the batches after the first; the first waits for worker processes to start."""
    loader = DataLoader(reader.dataset, batch_sampler=reader.batches, num_workers=workers, collate_fn=reader.collate)
    iterator = iter(loader)
    next(iterator)
    start = time.perf_counter()
    for _ in iterator:
        pass
    elapsed = time.perf_counter() - start
    reader.close()
    return elapsed


def measure(file: Path, arguments: Arguments) -> Iterator[dict[str, Any]]:
    """Measure every reader with every number of workers, in turns."""
    found = readers(file, arguments)
    rates: dict[tuple[str, int], list[float]] = {(name, n): [] for n in arguments.workers for name in found}
    clips = (arguments.batches - 1) * arguments.batch_size
    for _ in range(arguments.repeats):
        for (name, workers), measured in rates.items():
            measured.append(clips / seconds(found[name], workers))
    frame_shape = OfflineDataset(file).frame_shape
    for (name, workers), measured in rates.items():
        median = statistics.median(measured)
        yield {
            "reader": name,
            "image_size": frame_shape[0],
            "workers": workers,
            "clips_per_second": round(median, 1),
            "all_repeats": [round(rate, 1) for rate in measured],
        }


def show(results: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table("pixels", "workers", "reader", "clips/s", "range", "ratio", title="Clips read per second, medians")
    theirs = {(r["image_size"], r["workers"]): r["clips_per_second"] for r in results if r["reader"] == THEIRS}
    for r in sorted(results, key=lambda r: (r["image_size"], r["workers"])):
        base = theirs.get((r["image_size"], r["workers"]))
        ratio = f"{r['clips_per_second'] / base:.1f} x" if base else "not measured"
        spread = f"{min(r['all_repeats']):,.0f} to {max(r['all_repeats']):,.0f}"
        speed = f"{r['clips_per_second']:,.0f}"
        table.add_row(str(r["image_size"]), str(r["workers"]), r["reader"], speed, spread, ratio)
    console().print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Arguments, _work, arguments, writes=("output",))


def _work(arguments: Arguments) -> None:
    """Measure, show and save."""
    command.at_least(arguments, episodes=1, num_frames=1, frame_skip=1, batch_size=1, batches=2, repeats=1)
    if min(arguments.workers, default=-1) < 0 or min(arguments.image_sizes, default=0) < 1:
        raise ValueError("give at least one number of workers, from 0, and one image size, from 1")
    torch.set_num_threads(1)
    sizes: tuple[int | None, ...] = arguments.image_sizes if arguments.dataset is None else (None,)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            results += measure(single_file(arguments, size, Path(folder)), arguments)
    show(results)
    if arguments.output is not None:
        settings = {k: v for k, v in vars(arguments).items() if k not in ("dataset", "output")}
        record.write(arguments.output, settings, results)


if __name__ == "__main__":
    sys.exit(main())
