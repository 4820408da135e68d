"""What lies where in the folder of a training run; nothing else knows.

``checkpoints/step-0001000`` and its like are whole whenever they exist. ``checkpoints/last`` is there for people and
other programs: a symbolic link to the newest, or a file with its name where there are no such links. It is never
trusted: runs are copied through archives and drives that make a folder of it, or a file, or nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors

from lewm_agent.tools.folder_lock import locked
from lewm_agent.tools.replacing import PART, remove, replacing
from lewm_agent.training.state import step_in

KEPT = 2
"""So many checkpoints stay, the newest."""
LAST = "last"
_NUMBERED = re.compile(r"step-(\d+)")


class OutputFolder:
    """What ``lewm learn``, ``adapt`` and ``reproduce`` are given: data, the runs that learn from them, and the model.

    Args:
        path: of the folder.

    Raises:
        NotADirectoryError: something else than a folder is where one is to be.
    """

    def __init__(self, path: str | Path) -> None:
        names = ("data", "training", "looks", "model")
        self.data, self.training, self.looks, self.model = (Path(path) / name for name in names)
        for folder in (Path(path), self.data, self.training, self.looks, self.model):
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(f"{folder} is to be a folder, and is a file: give another output")


class RunFolder:
    """The folder that one training writes to.

    Args:
        path: of the folder, which need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics = self.path / "metrics.jsonl"
        self.metrics_before = self.path / "metrics.before.jsonl"
        self.settings = self.path / "settings.json"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / LAST
        self.labels = self.path / "labels.npz"
        self.rehearsal = self.path / f"rehearsal{PART}"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and let no other process write into it. Raises ``BlockingIOError`` if one does."""
        for folder in (self.path, self.checkpoints):
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(f"{folder} is to be a folder of a training, and is a file")
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            yield

    def is_run(self) -> bool:
        """Whether a training has written here, if only the beginning."""
        return self.checkpoints.is_dir()

    def has_checkpoints(self) -> bool:
        """Whether there is anything that was trained, whole or not."""
        return bool(self._numbered()) or self.last.is_dir()

    def newest(self) -> Path | None:
        """The newest whole checkpoint to act with; None if there is none."""
        return next(iter(self.whole()), None)

    def kept(self) -> str:
        """What a failure leaves behind, in words."""
        newest = self.newest()
        if newest is None:
            return "no checkpoint had been written"
        return f"the checkpoint {newest.name} is kept, and resume=True (--resume) goes on from it"

    def whole(self) -> list[Path]:
        """Whole checkpoints, the newest first; where a copy made a folder of ``last``, that is one of them."""
        steps = {folder: step_of(folder) for folder in self._numbered()}
        if self.last.is_dir() and not self.last.is_symlink():
            steps[self.last] = step_in(self.last)
        return [folder for folder in sorted(steps, key=steps.__getitem__, reverse=True) if _is_whole(folder)]

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Have a checkpoint written: beside, and then in its place, so that a kill at any moment leaves a whole one.

        Args:
            step: that it was taken after.
            write: fills a folder that does not exist yet.

        Raises:
            OSError: it could not be written; what stood there is untouched.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for stale in self.checkpoints.glob(f"*{PART}"):
            remove(stale)
        for folder in self._numbered():  # what could not be read, else the run would have gone on from there
            if step_of(folder) >= step:
                remove(folder)
        target = self.checkpoints / f"step-{step:07d}"
        with replacing(target) as part:
            write(part)
        self._point_to(target)
        for old in self._numbered()[KEPT:]:
            remove(old)

    def _point_to(self, target: Path) -> None:
        if self.last.is_dir() and not self.last.is_symlink():
            remove(self.last)
        with replacing(self.last) as part:
            try:
                part.symlink_to(target.name)
            except (OSError, NotImplementedError):
                part.write_text(target.name + "\n")

    def _numbered(self) -> list[Path]:
        found = [folder for folder in self.checkpoints.glob("step-*") if _NUMBERED.fullmatch(folder.name)]
        return sorted(found, key=step_of, reverse=True)


def meant_by(path: Path) -> Path:
    """What to load: of ``RUN`` and ``RUN/checkpoints/last``, whatever became of it, the newest whole checkpoint."""
    run = path.parent.parent if path.name == LAST and path.parent.name == "checkpoints" else path
    return RunFolder(run).newest() or path


def step_of(checkpoint: Path) -> int:
    """After how many steps a numbered checkpoint was taken."""
    return int(checkpoint.name.removeprefix("step-"))


def _is_whole(folder: Path) -> bool:
    try:
        with safetensors.safe_open(folder / "model.safetensors", "pt"):
            json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, safetensors.SafetensorError):
        return False
    return True
