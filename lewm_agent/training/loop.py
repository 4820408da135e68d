"""The training loop."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from lewm_agent.datasets.batch import ClipBatch, GoalBatch
from lewm_agent.models import ranks, whole_batch
from lewm_agent.models.learner import Learner, Loss
from lewm_agent.tools.freed_memory import keep_freed
from lewm_agent.tools.interruption import Interruption
from lewm_agent.tools.load_order import load_triton
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.training.callbacks import Told
from lewm_agent.training.metrics_log import FIRST_ALARM, Logger, MetricsLog, described, not_finite
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.schedule import Schedule
from lewm_agent.training.settings import TrainingConfig
from lewm_agent.training.state import (
    TrainingState,
    other_random_numbers,
    random_fingerprint,
    random_states,
    set_random_states,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

load_triton()  # now, as somebody may draw before lightning_fabric is imported

LOG_EVERY = 20
"""Steps between two lines of ``metrics.jsonl``."""
HELD_OUT_BATCHES, LOOKS = 8, 5
"""Batches of held-out clips looked at, and how often at least, unless a run is so short that it logs less."""
CHECKPOINT_SECONDS = 600
"""Training time after which a checkpoint is written even if ``checkpoint_every`` steps have not been taken."""
GO_ON = "the same call with resume=True (lewm learn, learn-online, adapt: --resume; lewm reproduce: as it was) goes on"

Batch = ClipBatch[Tensor] | GoalBatch[Tensor]


class BatchSource(Protocol):
    """Where batches come from (:class:`lewm_agent.training.batches.TrainingClips`)."""

    def train_batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """This rank's rows of the batches of training episodes; the one at a given step is always the same."""

    def held_out_batches(self, count: int) -> Iterator[Batch]:
        """The first batches of the held-out episodes, in an order that never changes."""


class SaveCheckpoint(Protocol):
    """Writes the present weights as a checkpoint folder."""

    def __call__(self, folder: Path, step: int) -> None:
        """Write ``folder``, which does not exist yet."""


Tell = Callable[[int, bool], Iterator[tuple[str, Told]]]
"""What callbacks have to tell after a step, by name; the second argument: whether held-out episodes are looked at."""


def never(step: int, look: bool) -> bool:
    """Without callbacks."""
    return False


def nothing_told(step: int, look: bool) -> Iterator[tuple[str, Told]]:
    """Without callbacks."""
    yield from ()


@dataclass(frozen=True)
class Telling:
    """Who is told how a training goes.

    Attributes:
        tell: asks the callbacks.
        due: whether there are any to be asked after a step.
        loggers: beside TensorBoard.
        settings: that loggers are given, ready for JSON.
    """

    tell: Tell = nothing_told
    due: Callable[[int, bool], bool] = never
    loggers: Sequence[Logger] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


class DivergedError(RuntimeError):
    """What is trained is no longer finite."""


class _LossOf(nn.Module):
    """A model's loss as a forward pass; it is the total alone that has a gradient, whatever else is told."""

    def __init__(self, model: Learner) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Total, terms and latents (B, T, latent_dim)."""
        loss = self.model.loss(batch)
        latents = None if loss.latents is None else loss.latents.detach()
        return loss.total, {name: term.detach() for name, term in loss.terms.items()}, latents


class Trainer:
    """Optimises a model on batches, with logging, checkpoints and exact resumption.

    Where several ranks share the batches, rank 0 looks at held-out episodes, asks callbacks and writes; all agree on
    when to stop.

    Args:
        fabric: moves to the device, and has gradients averaged.
        model: trained in place.
        config: optimisation settings.
        folder: gets metrics, TensorBoard files and checkpoints.
        save: writes a checkpoint's weights and configuration; the trainer adds its own state.
        seed: of dropout and of SIGReg's directions.
        checkpoint_every: steps between checkpoints, and at most between looks at held-out episodes; slow trainings are
            also saved in between (``CHECKPOINT_SECONDS``).
        telling: callbacks and loggers.
        progress: show progress.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: Learner,
        config: TrainingConfig,
        folder: RunFolder,
        save: SaveCheckpoint,
        *,
        seed: int = 0,
        checkpoint_every: int = 1000,
        telling: Telling = Telling(),
        progress: bool = True,
    ) -> None:
        self.fabric = fabric
        self.model = model
        self.config = config
        self.folder = folder
        self.save = save
        self.device = fabric.device
        self.seed = seed
        self.checkpoint_every = checkpoint_every
        self.telling = telling
        self.progress = progress

    def fit(
        self, batches: BatchSource, schedule: Schedule, state: TrainingState | None, interruption: Interruption
    ) -> None:
        """Run to ``schedule.stop``, from the beginning or from ``state``.

        Raises:
            DivergedError: the loss is no longer finite; the weights are those of the step before.
            KeyboardInterrupt: asked to stop, after a checkpoint has been written.
            OSError: a file cannot be written; the message says what is kept.
        """
        peak, decay = self.config.learning_rate, self.config.weight_decay
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=peak, weight_decay=decay, fused=True)
        keep_freed()
        model, optimizer = self.fabric.setup(_LossOf(self.model), optimizer)
        torch.manual_seed(self.seed)
        start = 0 if state is None else self._restore(state, optimizer)
        with (
            self._log(start, schedule) as log,
            ProgressShown("learn", schedule.stop, start=start, shown=self.progress and ranks.is_first()) as progress,
            interruption.between_steps(),
            whole_batch.seen_by(self.model),
            ranks.lost_told(),
        ):
            model.train()
            look_every = min(self.checkpoint_every, max(LOG_EVERY, -(-schedule.stop // LOOKS)))
            self._tell(log, start, True, kept=start == 0)
            saved = time.monotonic()
            for step, batch in enumerate(batches.train_batches(start, schedule.stop), start):
                rate = schedule.learning_rate(step)
                loss, gradient_norm = self._step(model, optimizer, batch, rate, step)
                done = step + 1
                self.model.after_step(schedule.progress(done))
                last = done == schedule.stop
                overdue = time.monotonic() - saved >= CHECKPOINT_SECONDS
                total, overdue, stopping = self._agreed(loss, overdue, interruption.requested, done)
                progress.update(done, f"loss {total:.4f}")
                if done % LOG_EVERY == 0 or last:
                    numbers = {**described(loss), "learning_rate": rate, "gradient_norm": gradient_norm}
                    numbers |= self._memory() if last else {}
                    self._write(log, done, "train", numbers, len(batch.frames) * ranks.count())
                look = done % look_every == 0 or last
                if look:
                    self._write(log, done, "held_out", ranks.from_first(lambda: self._held_out(batches)))
                if done % self.checkpoint_every == 0 or last or overdue or stopping:
                    self._checkpoint(optimizer, done)
                    saved = time.monotonic()
                self._tell(log, done, look)
                if stopping or (last and ranks.totals([interruption.requested])[0]):
                    where = f"after step {done} of {schedule.stop}; the checkpoint is in {self.folder.checkpoints}"
                    ranks.raise_everywhere(KeyboardInterrupt(f"stopped {where}; {GO_ON}"))

    @contextlib.contextmanager
    def _log(self, start: int, schedule: Schedule) -> Iterator[MetricsLog | None]:
        """Of rank 0 alone."""
        if not ranks.is_first():
            yield None
            return
        telling, alarm = self.telling, schedule.warmup + FIRST_ALARM
        with MetricsLog(self.folder, start, alarm, telling.loggers, telling.settings) as log:
            yield log

    def _agreed(self, loss: Loss, overdue: bool, stopping: bool, step: int) -> tuple[float, bool, bool]:
        """Loss of the whole batch, whether rank 0 finds a checkpoint overdue, whether any rank is asked to stop."""
        total = loss.total.item()
        if ranks.count() == 1:
            return total, overdue, stopping
        state = random_fingerprint(self.device)
        numbers = [total, overdue and ranks.is_first(), stopping, state, state**2]
        total, late, asked, drawn, squares = ranks.totals(numbers)
        if drawn**2 != ranks.count() * squares:
            ranks.raise_everywhere(
                RuntimeError(
                    f"the random numbers of the ranks are no longer the same at step {step}: model and objective must "
                    f"draw as many on each, whatever its clips are; {self.folder.kept()}"
                )
            )
        return total / ranks.count(), late > 0, asked > 0

    def _memory(self) -> dict[str, float]:
        """Most memory that a GPU had to have at a time, of all ranks, in GiB."""
        if self.device.type != "cuda":
            return {}
        return {"peak_memory": max(ranks.all_have(torch.cuda.max_memory_allocated(self.device) / 2**30))}

    def _step(self, model: Any, optimizer: Any, batch: Batch, rate: float, step: int) -> tuple[Loss, float]:
        """One step; the loss and the norm of its gradient before clipping."""
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = Loss(*model(self.fabric.to_device(batch)))
        optimizer.zero_grad()
        self.fabric.backward(loss.total)
        largest = self.config.gradient_clip
        clipped: Any = self.fabric.clip_gradients(model, optimizer, max_norm=largest, error_if_nonfinite=False)
        norm = float(clipped)
        if not math.isfinite(norm):
            self._diverged(step + 1, not_finite(described(loss)) or f"gradient {norm}")
        optimizer.step()
        return loss, norm

    @torch.no_grad()
    def _held_out(self, batches: BatchSource) -> dict[str, float]:
        self.model.eval()
        with other_random_numbers(0, self.device), self.fabric.autocast():
            moved = (self.fabric.to_device(batch) for batch in batches.held_out_batches(HELD_OUT_BATCHES))
            losses = [described(self.model.loss(batch)) for batch in moved]
        self.model.train()
        return {name: sum(one[name] for one in losses) / len(losses) for name in losses[0]}

    def _write(
        self, log: MetricsLog | None, step: int, split: str, numbers: dict[str, float], batch_size: int | None = None
    ) -> None:
        if wrong := not_finite(numbers):
            self._diverged(step, f"{split.replace('_', '-')} {wrong}")
        with ranks.agreed(), self._kept("metrics"):
            if log is not None:
                log.write(step, split, numbers, batch_size)

    def _tell(self, log: MetricsLog | None, step: int, look: bool, kept: bool = True) -> None:
        """Ask the callbacks, and write what they tell; where a run goes on, it has been written before."""
        if self.telling.due(step, look):
            ranks.from_first(lambda: self._ask(log if kept else None, step, look))

    def _ask(self, log: MetricsLog | None, step: int, look: bool) -> None:
        for name, told in self.telling.tell(step, look):
            if log is not None:
                with self._kept(f"what {name} told"):
                    log.write_told(step, name, told)

    def _restore(self, state: TrainingState, optimizer: Any) -> int:
        optimizer.load_state_dict(state.optimizer)
        set_random_states(state.random, self.device)
        return state.step

    def _checkpoint(self, optimizer: Any, step: int) -> None:
        state = TrainingState(step, optimizer.state_dict(), random_states(self.device))

        def write(folder: Path) -> None:
            self.save(folder, step)
            state.write(folder)

        with ranks.agreed(), self._kept(f"the checkpoint of step {step}"):
            if ranks.is_first():
                self.folder.save(step, write)

    @contextlib.contextmanager
    def _kept(self, what: str) -> Iterator[None]:
        """Have an ``OSError`` of writing say what could not be written, and what is there all the same."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            where = f"{self.folder.path} ({reason})"
            raise OSError(f"{what} could not be written to {where}; {self.folder.kept()}") from error

    def _diverged(self, step: int, what: str) -> NoReturn:
        ranks.raise_everywhere(
            DivergedError(
                f"the loss is not finite at step {step} ({what}): lower the learning rate (training.learning_rate), in "
                f"another folder if this one is to be kept; {self.folder.kept()}"
            )
        )
