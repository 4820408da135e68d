"""The training loop."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning_fabric
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lewm_agent.datasets.batch import ClipBatch, GoalBatch
from lewm_agent.models.learner import Learner, Loss
from lewm_agent.tools.folder_lock import locked
from lewm_agent.training.settings import TrainingConfig

LOG_EVERY = 20
"""Steps between two lines of ``metrics.jsonl``."""
HELD_OUT_BATCHES = 8
"""Batches of held-out clips looked at every ``checkpoint_every`` steps and at the end."""
CHECKPOINT_SECONDS = 600
"""Training time after which a checkpoint is written even if ``checkpoint_every`` steps have not been taken."""
FIRST_ALARM = 100
"""Steps, beyond the warm-up, before latents are judged: at the start they are small whatever happens later."""
COLLAPSED_RANK = 2.0
"""Effective rank under which latents count as collapsed: fewer directions than the simplest task needs."""
COLLAPSED_VARIANCE = 0.05
"""Mean variance of the latents under which they count as collapsed; SIGReg drives it to 1."""

Batch = ClipBatch[Tensor] | GoalBatch[Tensor]


class Clips(Protocol):
    """Where batches come from (``lewm_agent.datasets``)."""

    def train_batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Batches of the training episodes; the one at a given step is always the same."""

    def held_out_batches(self, count: int) -> Iterator[Batch]:
        """The first batches of the held-out episodes, in an order that never changes."""


class SaveCheckpoint(Protocol):
    """Writes the present weights as a checkpoint folder."""

    def __call__(self, folder: Path, step: int) -> None:
        """Write ``folder``, which does not exist yet."""


@dataclass(frozen=True)
class Schedule:
    """How many steps a run takes and the learning rate at each.

    Linear warm-up from 0, then a cosine to 0 over ``cycle`` steps, which repeats (SGDR, Loshchilov & Hutter 2017);
    the first ``stop`` steps are taken.
    """

    stop: int
    cycle: int
    warmup: int
    peak: float

    @staticmethod
    def of(config: TrainingConfig, steps_per_epoch: int) -> Schedule:
        """The schedule in steps; at least one step."""
        cycle = max(1, round(config.schedule_epochs * steps_per_epoch / config.schedule_cycles))
        stop = max(1, round(config.epochs * steps_per_epoch))
        return Schedule(stop, cycle, round(config.warmup_fraction * cycle), config.learning_rate)

    def learning_rate(self, step: int) -> float:
        """Learning rate of optimisation step ``step``, counted from 0."""
        step %= self.cycle
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.cycle - self.warmup)
        return self.peak * (1 + math.cos(math.pi * progress)) / 2

    def continues(self, other: Schedule) -> bool:
        """Whether a run under ``other`` has taken the same steps as this one, as far as it went."""
        same = (self.peak, self.warmup, self.cycle) == (other.peak, other.warmup, other.cycle)
        return same and self.stop >= other.stop


def effective_rank(latents: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values of centred latents (N, D); 1 to min(N, D)."""
    values = torch.linalg.svdvals((latents - latents.mean(0)).float())
    shares = values / values.sum().clamp(min=1e-12)
    rank: Tensor = torch.special.entr(shares).sum().exp()
    return rank


class Trainer:
    """Optimises a model on clips, with logging, checkpoints and exact resumption.

    Args:
        model: trained in place.
        config: optimisation settings.
        output: folder for ``metrics.jsonl``, TensorBoard files and ``checkpoints/``.
        save: writes a checkpoint's weights and configuration; the trainer adds ``training_state/``.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        seed: of dropout and of SIGReg's directions.
        checkpoint_every: steps between checkpoints and looks at held-out episodes; slow trainings are also saved in
            between (``CHECKPOINT_SECONDS``).
        progress: show a progress bar.
    """

    def __init__(
        self,
        model: Learner,
        config: TrainingConfig,
        output: Path,
        save: SaveCheckpoint,
        *,
        device: str = "cpu",
        seed: int = 0,
        checkpoint_every: int = 1000,
        progress: bool = True,
    ) -> None:
        place = torch.device(device)
        rounded = config.precision == "bfloat16" or (config.precision == "auto" and place.type == "cuda")
        precision: Any = "bf16-mixed" if rounded else "32-true"
        devices = [place.index] if place.type == "cuda" and place.index is not None else 1
        self.fabric = lightning_fabric.Fabric(accelerator=place.type, devices=devices, precision=precision)
        self.model = model
        self.config = config
        self.output = output
        self.save = save
        self.seed = seed
        self.checkpoint_every = checkpoint_every
        self.progress = progress

    def fit(self, clips: Clips, schedule: Schedule, *, resume: bool = False) -> None:
        """Run from the beginning, or from the last checkpoint, to ``schedule.stop``.

        Raises:
            BlockingIOError: another process is training into the output folder.
            FileExistsError: the output folder already holds a run and ``resume`` is false.
            RuntimeError: the loss is no longer finite.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        with locked(self.output):
            self._fit(clips, schedule, resume)

    def _fit(self, clips: Clips, schedule: Schedule, resume: bool) -> None:
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        model, optimizer = self.fabric.setup(self.model, optimizer)
        model.mark_forward_method("loss")
        torch.manual_seed(self.seed)
        start = self._restore(optimizer) if resume else self._begin()
        with (
            Metrics(self.output, start, schedule.warmup + FIRST_ALARM) as metrics,
            self._bar(start, schedule.stop) as bar,
        ):
            model.train()
            saved = time.monotonic()
            for step, batch in enumerate(clips.train_batches(start, schedule.stop), start):
                for group in optimizer.param_groups:
                    group["lr"] = schedule.learning_rate(step)
                loss = model.loss(self.fabric.to_device(batch))
                optimizer.zero_grad()
                self.fabric.backward(loss.total)
                gradient_norm = self.fabric.clip_gradients(model, optimizer, max_norm=self.config.gradient_clip)
                optimizer.step()
                self.model.after_step()
                done = step + 1
                bar.update(done)
                if done % LOG_EVERY == 0 or done == schedule.stop:
                    rates = {"learning_rate": schedule.learning_rate(step), "gradient_norm": gradient_norm}
                    metrics.write(done, "train", {**_describe(loss), **rates}, len(batch.frames))
                regular = done % self.checkpoint_every == 0 or done == schedule.stop
                if regular:
                    metrics.write(done, "held_out", self._held_out(model, clips))
                if regular or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    self._checkpoint(optimizer, done)
                    saved = time.monotonic()

    @torch.no_grad()
    def _held_out(self, model: Any, clips: Clips) -> dict[str, Any]:
        model.eval()
        random_state = torch.get_rng_state()
        torch.manual_seed(0)
        batches = [self.fabric.to_device(batch) for batch in clips.held_out_batches(HELD_OUT_BATCHES)]
        described = [_describe(model.loss(batch)) for batch in batches]
        torch.set_rng_state(random_state)
        model.train()
        return {name: sum(float(d[name]) for d in described) / len(described) for name in described[0]}

    def _begin(self) -> int:
        if (self.output / "checkpoints").exists():
            raise FileExistsError(
                f"{self.output} already holds a training run: continue it with resume=True, or give another folder"
            )
        (self.output / "checkpoints").mkdir(parents=True)
        return 0

    def _restore(self, optimizer: Any) -> int:
        last = self.output / "checkpoints" / "last"
        if not last.exists():
            (self.output / "checkpoints").mkdir(parents=True, exist_ok=True)
            return 0
        state = torch.load(last / "training_state" / "state.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random_state"])
        if torch.cuda.is_available() and state["cuda_random_state"] is not None:
            torch.cuda.set_rng_state(state["cuda_random_state"])
        return int(state["step"])

    def _checkpoint(self, optimizer: Any, step: int) -> None:
        """Written beside and renamed, so that a kill at any moment leaves a whole ``last``."""
        checkpoints = self.output / "checkpoints"
        name = f"step-{step:07d}"
        part = checkpoints / f"{name}.part"
        for stale in checkpoints.glob("*.part"):
            shutil.rmtree(stale)
        self.save(part, step)
        (part / "training_state").mkdir()
        state = {
            "step": step,
            "optimizer": optimizer.state_dict(),
            "random_state": torch.get_rng_state(),
            "cuda_random_state": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        torch.save(state, part / "training_state" / "state.pt")
        if (checkpoints / name).exists():
            shutil.rmtree(checkpoints / name)
        part.rename(checkpoints / name)
        link = checkpoints / "last.part"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        os.replace(link, checkpoints / "last")
        for old in sorted(checkpoints.glob("step-*"))[:-2]:
            shutil.rmtree(old)

    def _bar(self, start: int, stop: int) -> _Bar:
        return _Bar(start, stop, disable=not self.progress)


def _describe(loss: Loss) -> dict[str, Tensor]:
    terms = {"total": loss.total.detach(), **{name: term.detach() for name, term in loss.terms.items()}}
    if loss.latents is None:
        return terms
    latents = loss.latents.detach().flatten(0, 1)
    return {**terms, "effective_rank": effective_rank(latents), "latent_variance": latents.var(0).mean()}


class _Bar:
    """A progress bar over optimisation steps, with steps per second."""

    def __init__(self, start: int, stop: int, *, disable: bool) -> None:
        columns = (TextColumn("learn"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=disable)
        self._task = self._progress.add_task("learn", total=stop, completed=start, rate="")
        self._start, self._began = start, time.monotonic()

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def update(self, done: int) -> None:
        rate = (done - self._start) / max(1e-9, time.monotonic() - self._began)
        self._progress.update(self._task, completed=done, rate=f"{rate:.1f} steps/s")


class Metrics:
    """Lines of ``metrics.jsonl`` and TensorBoard scalars; on resumption what came after the checkpoint is dropped."""

    def __init__(self, output: Path, start: int, first_alarm: int) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._path = output / "metrics.jsonl"
        self._keep_until(start)
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=start)
        self._clock = time.monotonic()
        self._last_step = start
        self._first_alarm = first_alarm
        self._warned = False

    def _keep_until(self, start: int) -> None:
        if self._path.exists():
            lines = [line for line in self._path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= start]
            self._path.write_text("".join(line + "\n" for line in kept))

    def write(self, step: int, split: str, values: dict[str, Any], batch_size: int | None = None) -> None:
        """One line. Raises ``RuntimeError`` when the loss is not finite; warns once when the latents collapse."""
        numbers = {name: float(value) for name, value in values.items()}
        if not math.isfinite(numbers["total"]):
            raise RuntimeError(f"the loss is {numbers['total']} at step {step}: lower the learning rate")
        if batch_size is not None:
            now = time.monotonic()
            numbers["clips_per_second"] = batch_size * (step - self._last_step) / max(1e-9, now - self._clock)
            self._clock, self._last_step = now, step
        if split == "train" and "effective_rank" in numbers:
            self._alarm(step, numbers)
        self._file.write(json.dumps({"step": step, "split": split, **numbers}) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def _alarm(self, step: int, numbers: dict[str, float]) -> None:
        collapsed = numbers["effective_rank"] < COLLAPSED_RANK or numbers["latent_variance"] < COLLAPSED_VARIANCE
        numbers["collapsed"] = float(collapsed)
        if collapsed and step > self._first_alarm and not self._warned:
            self._warned = True
            warnings.warn(
                f"the latents are collapsing at step {step}: effective rank {numbers['effective_rank']:.1f}, variance "
                f"{numbers['latent_variance']:.3f}; raise the objective's weight against it (of SIGReg: sigreg_weight)",
                stacklevel=2,
            )

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._board.close()
