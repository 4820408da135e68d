"""What is written down while a model trains: ``metrics.jsonl``, and what goes to TensorBoard and other loggers."""

from __future__ import annotations

import functools
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.models import ranks
from lewm_agent.models.learner import Loss
from lewm_agent.tools.replacing import write_atomically, write_json
from lewm_agent.training.callbacks import Told
from lewm_agent.training.run_folder import RunFolder

FIRST_ALARM = 100
"""Steps, beyond the warm-up, before latents are judged: at the start they are small whatever happens later."""
COLLAPSED_RANK = 2.0
"""Effective rank under which latents count as collapsed: fewer directions than the simplest task needs."""
COLLAPSED_VARIANCE = 0.05
"""Mean variance of the latents under which they count as collapsed; SIGReg drives it to 1."""

Row = dict[str, Any]
"""One line of ``metrics.jsonl``: ``step``, ``split`` (train, held_out or a callback's name) and numbers by name."""


def read_rows(file: Path) -> list[Row]:
    """The lines that are whole; none where there is no file. A line that a kill or a power cut broke is left out."""
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def effective_rank(latents: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values of centred latents (N, D); 1 to min(N, D).

    On the CPU: Apple's GPUs lack both functions.
    """
    values = torch.linalg.svdvals((latents - latents.mean(0)).float().cpu())
    shares = values / values.sum().clamp(min=1e-12)
    return torch.special.entr(shares).sum().exp()


def described(loss: Loss) -> dict[str, float]:
    """Of the whole batch: the loss, its terms, and of the latents, if they learn, effective rank and mean variance."""
    terms = {"total": loss.total, **loss.terms}
    numbers = dict(zip(terms, ranks.means([float(term.detach()) for term in terms.values()]), strict=True))
    if loss.latents is None:
        return numbers
    latents = ranks.gathered(loss.latents.detach()).flatten(0, 1)
    rank = float(effective_rank(latents)) if latents.isfinite().all() else math.nan
    return {**numbers, "effective_rank": rank, "latent_variance": float(latents.var(0).mean())}


class MetricsLog:
    """Writes lines of ``metrics.jsonl`` and TensorBoard scalars; a context manager.

    What an earlier part of the run has written after its checkpoint is dropped; where the training starts at 0 and yet
    there are lines, they are kept as ``metrics.before.jsonl``.

    Args:
        folder: of the run.
        start: steps taken before.
        first_alarm: step before which latents are not judged.
        loggers: get the same, beside TensorBoard.
        settings: of the run, ready for JSON; they are written to ``settings.json`` too.
    """

    def __init__(
        self,
        folder: RunFolder,
        start: int,
        first_alarm: int,
        loggers: Sequence[Logger] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        _keep_until(folder, start)
        write_json(folder.settings, settings or {})
        self._loggers: list[Logger] = [TensorBoard()]
        self._each(lambda logger: logger.begin(folder, start, settings or {}))  # TensorBoard may be missing
        for logger in loggers:
            logger.begin(folder, start, settings or {})
            self._loggers.append(logger)
        self._file = folder.metrics.open("ab", buffering=0)
        self._clock = time.monotonic()
        self._last_step = start
        self._first_alarm = first_alarm
        self._warned = False

    def write(self, step: int, split: str, numbers: dict[str, float], batch_size: int | None = None) -> None:
        """One line; warns once when the latents of training collapse. Raises ``OSError`` when the disk is full."""
        if batch_size is not None:
            now = time.monotonic()
            speed = batch_size * (step - self._last_step) / max(1e-9, now - self._clock)
            numbers = {**numbers, "clips_per_second": speed}
            self._clock, self._last_step = now, step
        if split == "train" and "effective_rank" in numbers:
            numbers = {**numbers, "collapsed": float(self._alarm(step, numbers))}
        self._write(step, split, numbers)

    def write_told(self, step: int, name: str, told: Told) -> None:
        """What a callback has told: its numbers are a line whose ``split`` is its name, null where not finite."""
        pictures = {key: value for key, value in told.items() if isinstance(value, np.ndarray) and value.ndim}
        self._write(step, name, {key: float(value) for key, value in told.items() if key not in pictures})
        for key, picture in pictures.items():
            self._each(functools.partial(_show, step, f"{name}/{key}", picture))

    def _write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        line = {"step": step, "split": split, **{name: finite.get(name) for name in numbers}}
        self._file.write((json.dumps(line) + "\n").encode())
        self._each(lambda logger: logger.scalars(step, {f"{split}/{name}": value for name, value in finite.items()}))

    def _each(self, use: Callable[[Logger], None]) -> None:
        """Have every logger do something; whichever cannot is left out from then on, and training goes on."""
        for logger in list(self._loggers):
            try:
                use(logger)
            except Exception as error:
                self._loggers.remove(logger)
                warnings.warn(
                    f"nothing more is written to {type(logger).__name__} ({error}); training goes on, and "
                    "metrics.jsonl holds the same numbers",
                    stacklevel=5,
                )

    def _alarm(self, step: int, numbers: dict[str, float]) -> bool:
        collapsed = numbers["effective_rank"] < COLLAPSED_RANK or numbers["latent_variance"] < COLLAPSED_VARIANCE
        if collapsed and step > self._first_alarm and not self._warned:
            self._warned = True
            warnings.warn(
                f"the latents are collapsing at step {step}: effective rank {numbers['effective_rank']:.1f}, variance "
                f"{numbers['latent_variance']:.3f}; raise the objective's weight against it (of SIGReg: sigreg_weight)",
                stacklevel=3,
            )
        return collapsed

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._each(lambda logger: logger.close())


def _keep_until(folder: RunFolder, start: int) -> None:
    rows = read_rows(folder.metrics)
    if rows and start == 0:
        os.replace(folder.metrics, folder.metrics_before)
    elif folder.metrics.exists():
        kept = [row for row in rows if row["step"] <= start]
        write_atomically(folder.metrics, "".join(json.dumps(row) + "\n" for row in kept))


class Logger(Protocol):
    """Where numbers and pictures of a training go beside ``metrics.jsonl``; one that fails later is left out."""

    def begin(self, folder: RunFolder, start: int, settings: Mapping[str, Any]) -> None:
        """Get ready for a run that has taken ``start`` steps; an error here ends it before it has begun."""

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers by name: ``train/total``, ``held_out/total``, ``success/rate``."""

    def picture(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """A picture (H, W, 3)."""

    def close(self) -> None:
        """Write what is left."""


def _show(step: int, name: str, picture: NDArray[np.uint8], logger: Logger) -> None:
    logger.picture(step, name, picture)


class TensorBoard:
    """Event files in the folder of the run, for ``tensorboard --logdir``."""

    def begin(self, folder: RunFolder, start: int, settings: Mapping[str, Any]) -> None:
        """Make the writer; what an earlier part of the run has written after ``start`` is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder.tensorboard), purge_step=start)
        self._writer.add_text("settings", f"```json\n{json.dumps(settings, indent=2)}\n```", start)

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Curves."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """Pictures over steps."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


def not_finite(numbers: dict[str, float]) -> str:
    """Names and values of those that are not finite, such as "prediction nan"; empty if all are."""
    return ", ".join(f"{name} {value}" for name, value in numbers.items() if not math.isfinite(value))
