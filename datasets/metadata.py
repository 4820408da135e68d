"""What a dataset folder says about itself: ``metadata.json``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lewm_agent.tools.contained import inside
from lewm_agent.tools.replacing import write_atomically

METADATA_FILE = "metadata.json"
NEXT = ".next"
"""Ends the names of whole files that are not in their places yet."""
FORMAT_VERSION = 1
OF_ATTEMPTS = {"attempts": None, "reached": None}
"""What ``metadata.json`` tells of attempts alone."""


@dataclass(frozen=True)
class ShardRecord:
    """One whole shard.

    Attributes:
        file: File name inside the dataset folder.
        episodes: Number of episodes.
        frames: Number of rows, which is the number of frames.
        bytes: Size of the file.
        sha256: Hash of the file, hexadecimal.
    """

    file: str
    episodes: int
    frames: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DatasetMetadata:
    """Where a dataset comes from and which shards are whole.

    Attributes:
        format_version: Version of the folder layout, 1.
        environment_id: Gymnasium id of the environment.
        environment_kwargs: Keyword arguments it was made with.
        policy: Description of the behavior policy.
        seed: Seed from which every episode's seeds are derived.
        episodes: Number of episodes asked for; fewer are present while a collection is unfinished.
        shard_episodes: Episodes per shard, except the last.
        frame_shape: (height, width, 3).
        frame_interval: Only rows 0, frame_interval, 2 frame_interval, ... of an episode have a frame.
        observation_space: Gymnasium's text form of the space.
        action_space: Gymnasium's text form of the space.
        versions: Versions of Python and of the packages that produced the data.
        git_commit: Commit of the source checkout, with ``-dirty`` for local changes; None for an installed package.
        action_mean: Mean of each action dimension over all actions; None until the collection is finished.
        action_std: Population standard deviation, likewise.
        attempts: Where an agent has made attempts: which model, planner, goals and noise; None for other data.
        reached: How many of these reached their goals; None until the collection is finished.
        shards: The shards that are whole, in order of their episodes.
    """

    environment_id: str
    environment_kwargs: dict[str, Any]
    policy: str
    seed: int
    episodes: int
    shard_episodes: int
    frame_shape: tuple[int, int, int]
    observation_space: str
    action_space: str
    versions: dict[str, str]
    git_commit: str | None = None
    frame_interval: int = 1
    action_mean: tuple[float, ...] | None = None
    action_std: tuple[float, ...] | None = None
    attempts: dict[str, Any] | None = None
    reached: int | None = None
    shards: tuple[ShardRecord, ...] = ()
    format_version: int = FORMAT_VERSION

    def save(self, folder: Path, name: str = METADATA_FILE) -> None:
        """Write ``metadata.json`` into ``folder``, all or nothing."""
        values = {
            key: value for key, value in dataclasses.asdict(self).items() if key not in OF_ATTEMPTS or value is not None
        }
        write_atomically(folder / name, json.dumps(values, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, name: str = METADATA_FILE) -> DatasetMetadata:
        """Read ``metadata.json`` from ``folder``.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not JSON, or its keys or values are not those of this class.
        """
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is not a dataset folder: it has no {name}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged, it is not valid JSON ({error}); collect the dataset again") from None
        return _from_json(content, path)


def _from_json(content: object, path: Path) -> DatasetMetadata:
    """Build the metadata from parsed JSON, checking keys and types."""
    known = {**OF_ATTEMPTS, **content} if isinstance(content, dict) else content
    fields = _checked_keys(known, DatasetMetadata, f"{path}")
    if fields.get("format_version") != FORMAT_VERSION:
        given = fields.get("format_version")
        raise ValueError(f"{path} has format_version {given!r}, this version of lewm-agent reads {FORMAT_VERSION}")
    for name, kinds in _KINDS.items():
        if not isinstance(fields.get(name), kinds) or isinstance(fields.get(name), bool):
            raise ValueError(f"{path}: {name} must be {_kind_name(kinds)}, got {fields.get(name)!r}")
    for name in ("frame_shape", "action_mean", "action_std"):
        fields[name] = _numbers(fields.get(name), name, path)
    if fields["frame_shape"] is None or len(fields["frame_shape"]) != 3:
        raise ValueError(f"{path}: frame_shape must be [height, width, 3], got {fields['frame_shape']!r}")
    fields["shards"] = tuple(_shard_record(item, path) for item in fields["shards"])
    files = [shard.file for shard in fields["shards"]]
    if list(dict.fromkeys(files)) != sorted(set(files)):
        raise ValueError(f"{path}: shards must be listed in order, got {files}")
    return DatasetMetadata(**fields)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "environment_id": str,
    "environment_kwargs": dict,
    "policy": str,
    "seed": int,
    "episodes": int,
    "shard_episodes": int,
    "frame_interval": int,
    "observation_space": str,
    "action_space": str,
    "versions": dict,
    "git_commit": (str, type(None)),
    "shards": list,
    "attempts": (dict, type(None)),
    "reached": (int, type(None)),
}


def _kind_name(kinds: type | tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))


def _numbers(value: object, name: str, path: Path) -> tuple[Any, ...] | None:
    """Turn a JSON list of numbers into a tuple."""
    if value is None:
        return None
    if not isinstance(value, list) or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in value):
        raise ValueError(f"{path}: {name} must be a list of numbers, got {value!r}")
    return tuple(value)


def _shard_record(content: object, path: Path) -> ShardRecord:
    fields = _checked_keys(content, ShardRecord, f"{path}, shards")
    counts = [fields.get(name) for name in ("episodes", "frames", "bytes")]
    texts = [fields.get(name) for name in ("file", "sha256")]
    if any(type(count) is not int for count in counts) or any(type(text) is not str for text in texts):
        raise ValueError(
            f"{path}: a shard needs text file and sha256, whole numbers episodes, frames and bytes: {fields}"
        )
    if Path(fields["file"]).name != fields["file"]:
        raise ValueError(f"{path}: shard file {fields['file']!r} must be a plain file name inside the dataset folder")
    return ShardRecord(**fields)


def _checked_keys(content: object, kind: type[Any], place: str) -> dict[str, Any]:
    """Return ``content`` as a dict if it has exactly the keys of the dataclass ``kind``."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{place} must hold a JSON object, got {type(content).__name__}")
    expected = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(content) - expected):
        raise ValueError(f"{place} has unknown keys {unknown}; known are {sorted(expected)}")
    if missing := sorted(expected - set(content)):
        raise ValueError(f"{place} lacks the keys {missing}; it is not the metadata of a lewm-agent dataset")
    return dict(content)


def shard_path(folder: Path, shard: ShardRecord) -> Path:
    """Where a recorded shard lies: NAME, or NAME.next if a collection was stopped before it could rename it.

    As long as there is a ``metadata.json.next``, the files NAME.next belong to that. Raises ``ValueError`` for a link
    that leads out of the folder.
    """
    place, coming = inside(folder, shard.file), inside(folder, shard.file + NEXT)
    if coming.is_file() and coming.stat().st_size == shard.bytes and not (folder / (METADATA_FILE + NEXT)).exists():
        return coming
    return place


def file_sha256(path: Path) -> str:
    """Hash of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape the data."""
    versions = {"python": platform.python_version()}
    for name in ("numpy", "gymnasium", "h5py", "lewm-agent"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # a checkout on the path without its distribution
            versions[name] = "not installed"
    return versions


def git_commit() -> str | None:
    """Commit of the source checkout this file lies in, with ``-dirty`` for local changes, else None."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # an installed package: a repository further up is somebody else's
        return None
    # `git describe --dirty` would leave an index.lock when it is killed, and block whoever works there
    question = ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    command = ["git", "--no-optional-locks", "-C", str(root), *question]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    first, *lines = finished.stdout.splitlines()
    changed = any(not line.startswith("#") for line in lines)
    return first.removeprefix("# branch.oid ") + "-dirty" * changed
