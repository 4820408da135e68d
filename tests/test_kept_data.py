"""What is whole stays: collections that are killed, interrupted or fail, and full disks."""

from __future__ import annotations

import functools
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest

from lewm_agent.datasets import DatasetMetadata, OfflineDataset, collect, collection


class Counter(gym.Env[Any, Any]):
    """Shows its steps; noise in the frames, so that they take room."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = gym.spaces.Box(-1, 1, (2,))
    observation_space = gym.spaces.Box(-1, 1, (2,))
    render_mode = "rgb_array"

    def __init__(self, side: int = 8) -> None:
        self.side = side

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(2), 0.0, self.steps == 4, False, {}

    def render(self) -> Any:
        return self.np_random.integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)


class Large(Counter):
    def __init__(self) -> None:
        super().__init__(32)


class Still:
    def __init__(self, env: Any) -> None:
        self.acts = 0

    def reset(self, seed: int) -> None: ...

    def __call__(self, observation: Any, info: Any) -> Any:
        return np.zeros(2)


class Raises(Still):
    def __call__(self, observation: Any, info: Any) -> Any:
        self.acts += 1
        if self.acts > 10:
            raise KeyError("of the policy")
        return np.zeros(2)


def gather(path: Path, episodes: int = 4, seed: int = 5, **kwargs: Any) -> OfflineDataset:
    request = {"make_env": Counter, "make_policy": Still, "environment_id": "Counter", "policy": "still", **kwargs}
    return collect(path, episodes=episodes, seed=seed, shard_episodes=3, progress=False, **request)


def content(dataset: OfflineDataset, first: int | None = None) -> list[bytes]:
    """Frames of all episodes, or of the first ones: what lies behind them may be damaged."""
    count = dataset.num_episodes if first is None else first
    return [dataset.episode(index)["pixels"].tobytes() for index in range(count)]


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.suffix == ".h5"}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "git_commit", lambda: None)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "data"
    gather(path)
    return path


def killed(renaming: int, do: Callable[[], Any]) -> bool:
    """Do it in a process that dies when it renames for the n-th time, before or, for halves, after; whether it did."""
    child = os.fork()
    if child == 0:
        done, rename = 0.0, os.replace

        def replace(*names: Any) -> None:
            nonlocal done
            for act in (lambda: None, lambda: rename(*names)):
                act()
                done += 0.5
                if done * 2 == renaming:
                    os._exit(9)

        os.replace = replace  # type: ignore[assignment]
        try:
            do()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("way", ["growing", "overwriting", "repairing", "new"])
def test_killed_at_any_renaming_all_that_was_whole_is_readable(way: str, whole: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    if way != "new":
        gather(before, 2 if way == "growing" else 4, seed=6 if way == "overwriting" else 5)
    there = content(OfflineDataset(before)) if way != "new" else []
    if way == "repairing":
        damage(before / "shard-00001.h5")
        there = there[:3]
    renaming, path = 0, before
    while True:
        renaming += 1
        path = tmp_path / str(renaming)
        if way != "new":
            shutil.copytree(before, path)
        again = functools.partial(gather, path, overwrite=way == "overwriting")
        if not killed(renaming, again):
            break
        if way == "overwriting":
            assert content(OfflineDataset(path)) in (there, content(OfflineDataset(whole)))
        elif way != "new" or ((path / "metadata.json").exists() and DatasetMetadata.load(path).shards):
            assert content(OfflineDataset(path), len(there)) == there
        again()
        assert files(path) == files(whole)
        assert sorted(os.listdir(path)) == sorted(os.listdir(whole))
    assert renaming > 4
    assert files(path) == files(whole)


def damage(file: Path) -> None:
    """Change one byte of the last frames; the size stays."""
    with h5py.File(file) as shard:
        frames = shard["pixels"].id
        last = frames.get_chunk_info(frames.get_num_chunks() - 1)
    data = bytearray(file.read_bytes())
    data[last.byte_offset + last.size // 2] ^= 255
    file.write_bytes(data)


def test_damage_that_leaves_the_size_is_repaired(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "data"
    gather(path)
    damage(path / "shard-00001.h5")
    gather(path)
    assert files(path) == files(whole)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_policy_that_raises_leaves_the_data_and_the_error_says_so(overwrite: bool, tmp_path: Path) -> None:
    path = tmp_path / "data"
    before = content(gather(path, 4))
    with pytest.raises(KeyError, match="of the policy") as raised:
        gather(path, 40, make_policy=Raises, overwrite=overwrite)
    kept = "the dataset in .* is as it was" if overwrite else "episodes are kept in"
    assert re.search(kept, raised.value.__notes__[0])
    assert content(OfflineDataset(path))[:3] == before[:3]
    assert not list(path.glob("*.part"))


def test_an_interrupted_replacement_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "data"
    gather(path, seed=6)
    acted = []

    class Counted(Still):
        def __call__(self, observation: Any, info: Any) -> Any:
            acted.append(0)
            if len(acted) == 16:
                raise KeyboardInterrupt
            return np.zeros(2)

    with pytest.raises(KeyboardInterrupt, match="is as it was, 3 episodes of its successor are kept"):
        gather(path, make_policy=Counted, overwrite=True)
    acted = [0] * 16
    gather(path, make_policy=Counted, overwrite=True)
    assert len(acted) == 16 + 4  # the first three episodes were there


def test_a_damaged_dataset_can_be_replaced(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "data"
    gather(path)
    (path / "metadata.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        gather(path)
    gather(path, overwrite=True)
    assert files(path) == files(whole)


SCRIPT = """
import sys
sys.path.insert(0, {place!r})
import test_kept_data as t
from pathlib import Path
from lewm_agent.datasets.conversion import convert
if __name__ == "__main__":
    {call}
"""
FULL = r"OSError: no space left in .*full \(File too large\); "


def on_full_disk(tmp_path: Path, call: str, limit: int) -> str:
    """Run a script whose files must not be larger than ``limit``; returns what it says."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(place=str(Path(__file__).parent), call=call))
    command = [sys.executable, str(script)]
    limits = (limit, resource.RLIM_INFINITY)
    finished = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
        check=False,
    )
    assert finished.returncode == 1 and "Exception ignored" not in finished.stderr
    return finished.stderr


@pytest.mark.parametrize(("limit", "num_envs"), [(300, 1), (3000, 1), (42000, 1), (20000, 2)])
def test_full_while_collecting(limit: int, num_envs: int, tmp_path: Path) -> None:
    call = f"t.gather(Path({str(tmp_path / 'full')!r}), make_env=t.Large, num_envs={num_envs})"
    said = on_full_disk(tmp_path, call, limit)
    assert re.search(FULL + "nothing is kept", said.splitlines()[-1]), said
    assert os.listdir(tmp_path) == ["script.py"]


def test_full_while_growing(tmp_path: Path) -> None:
    path = tmp_path / "full"
    before = content(gather(path, 4))
    said = on_full_disk(tmp_path, f"t.gather(Path({str(path)!r}), 60)", 9000)
    assert re.search(FULL + r"\d+ episodes are kept in .* \(60 were asked for\)", said), said
    assert content(OfflineDataset(path))[:4] == before
    assert not [file for file in path.iterdir() if file.suffix in (".part", ".next")]


class Source:
    """A foreign dataset of twenty episodes."""

    description = "source"
    lengths = [5] * 20

    def episode(self, index: int) -> dict[str, Any]:
        frames = np.random.default_rng(index).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
        return {"pixels": frames, "action": np.zeros((5, 2), np.float32)}


def test_full_while_converting(tmp_path: Path) -> None:
    call = f"convert(t.Source(), {str(tmp_path / 'full')!r}, progress=False)"
    said = on_full_disk(tmp_path, call, 3000)
    assert re.search(FULL + "nothing is kept", said), said
    assert os.listdir(tmp_path) == ["script.py"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 600 kB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    try:
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_file_system(small_disk: Path) -> None:
    with pytest.raises(OSError, match=r"no space left in .*data \(No space left on device\); nothing is kept"):
        collect(
            small_disk / "data",
            Large,
            Still,
            300,
            environment_id="Large",
            policy="still",
            seed=0,
            shard_episodes=150,
            progress=False,
        )
    assert not list(small_disk.iterdir())
