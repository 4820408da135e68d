"""One training from beginning to end: prepared, tried out, begun or continued, and finished."""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.metadata import git_commit
from lewm_agent.models import ranks
from lewm_agent.models.clip import ClipConfig
from lewm_agent.models.learner import LatentModel, Learner
from lewm_agent.tools.checks import require, whole_number
from lewm_agent.tools.interruption import interruptible
from lewm_agent.tools.precision import chosen_precision
from lewm_agent.tools.replacing import remove
from lewm_agent.tools.settings import flat
from lewm_agent.training import callbacks as asking
from lewm_agent.training import labelling
from lewm_agent.training.batches import FinishData, TrainingClips
from lewm_agent.training.callbacks import Callback, Moment, Told
from lewm_agent.training.loop import GO_ON, Telling, Trainer
from lewm_agent.training.metrics_log import Logger, read_rows
from lewm_agent.training.record import TrainingRecord
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.schedule import Schedule
from lewm_agent.training.settings import AgentSettings
from lewm_agent.training.sharing.placement import Placement
from lewm_agent.training.sharing.same_run import check_alike, check_shared, fingerprint
from lewm_agent.training.state import TrainingState, UnreadableError

LENGTH = tuple(f"agent.training.{name}" for name in ("epochs", "schedule_epochs", "schedule_cycles"))
"""Settings in which a continued run may differ from what it was, as long as the steps taken are the same."""
PLANNER = "agent.planner."
"""Beginning of settings that no step depends on."""

RESUME_OR_LEAVE = "resume with that, or give another folder"

Identity = dict[str, Any]
"""All that makes an agent the one it is, but for its weights: environment and settings, ready for JSON."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint as it was read."""

    identity: Identity
    settings: AgentSettings
    training: TrainingRecord | None
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Found:
    """The checkpoint that a run goes on from."""

    folder: Path
    saved: Saved
    state: TrainingState


class Trainee(Protocol):
    """What a run asks of the agent whose model it trains."""

    @property
    def model(self) -> Learner:
        """Trained in place."""

    @property
    def config(self) -> AgentSettings:
        """All settings."""

    @property
    def device(self) -> torch.device:
        """Where to train."""

    @property
    def has_learned(self) -> bool:
        """Whether its weights are more than random, and the training goes on from them."""

    @property
    def trained(self) -> TrainingRecord | None:
        """How the weights came about that a new training goes on from."""

    def identity(self) -> Identity:
        """What a run to be continued must agree with."""

    def make_clips(self, dataset: OfflineDataset, episodes: NDArray[np.int64]) -> Any:
        """What the model is trained on."""

    def save_checkpoint(self, folder: Path, record: TrainingRecord) -> None:
        """Write the present weights into a folder that does not exist yet."""

    def read_checkpoint(self, folder: Path) -> Saved:
        """What such a folder holds. Raises ``UnreadableError``."""

    def load_weights(self, weights: dict[str, Tensor], source: Path) -> None:
        """Take over weights. Raises ``ValueError`` naming their source if they do not fit."""

    def stand_ins(
        self, dataset: OfflineDataset, episodes: NDArray[np.int64], progress: bool
    ) -> NDArray[np.float32] | None:
        """What to show the model in place of frames, an entry for every row of the dataset; None for frames."""

    def shown(self, record: TrainingRecord) -> AbstractContextManager[Any]:
        """The agent as it acts with the present weights within the block, in evaluation state."""

    def finish(self, model: Any, data: FinishData, seed: int, *, brief: bool, progress: bool) -> float | None:
        """Fit to the trained model what comes after; if ``brief``, only to see that it can be done.

        Returns:
            The error of an inverse-dynamics head, if there is one.
        """


class Run:
    """One training of one agent, by this process or by several that share every batch.

    Args:
        placement: on which devices.
        trainee: the agent.
        dataset: to learn from.
        folder: of the run.
        labels: share of the training episodes that keep their actions.
        labels_by: what tells those of the others.
        seed: of batch order, dropout and SIGReg.
        workers: processes that read clips for each device; None for none on the CPU, else 4.
        progress: show progress.
        callbacks: asked while it trains.
        loggers: beside TensorBoard.

    Raises:
        ValueError: frames or actions do not fit the model, there are too few clips, or none keeps its actions.

    Attributes:
        record: How the model's weights came about; None until something has been learned.
    """

    def __init__(
        self,
        placement: Placement,
        trainee: Trainee,
        dataset: OfflineDataset,
        folder: RunFolder,
        *,
        labels: float = 1.0,
        labels_by: str = "inverse",
        seed: int = 0,
        workers: int | None = None,
        progress: bool = True,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
    ) -> None:
        asking.check(callbacks)
        self.callbacks, self.loggers = callbacks, loggers
        self.placement, self.trainee, self.folder = placement, trainee, folder
        self.progress = progress
        self.seed = whole_number("seed", seed)
        if workers is None:
            workers = 0 if trainee.device.type == "cpu" else 4
        config = trainee.config
        labelling.check(dataset, labels, labels_by)
        check_fits(dataset, config.model)
        encoder = trainee.model.trained_encoder
        require(
            trainee.has_learned or encoder is None or encoder.backbone != "learned_masks",
            "an encoder of learned masks is taught by another: learn with encoder `moments`, then adapt the model "
            "(lewm adapt)",
        )
        workers = whole_number("workers", workers)
        pinned = placement.device.type == "cuda"
        dataset = dataset.with_actions(dataset.actions, dataset.without_actions)
        self.clips = TrainingClips(dataset, trainee.make_clips, config.training, self.seed, workers, pinned=pinned)
        self.labelled = labelling.chosen(dataset, self.clips.train_episodes, labels, self.seed)
        self.dataset = dataset.without(np.setdiff1d([*self.clips.train_episodes, *dataset.awaited], self.labelled))
        self.clips.read_from(self.dataset)
        self.schedule = Schedule.of(config.training, self.clips.steps_per_epoch)
        self.record: TrainingRecord | None = None
        self._begun = TrainingRecord.begun(dataset, config.training.batch_size, self.seed)
        if self.dataset.awaited.size:
            self._begun = replace(self._begun, labelled=len(self.labelled), labels_by=labels_by)
        elif labels_by != "inverse":
            warnings.warn(
                f"labels_by {labels_by!r} has nothing to tell, for all training episodes keep their actions: give "
                "labels below 1, or a dataset without actions beside this one",
                stacklevel=4,
            )

    def train(self, *, resume: bool, checkpoint_every: int) -> None:
        """Begin, or continue what the folder holds, and go on to the end.

        Raises:
            FileExistsError: the folder holds a run and ``resume`` is false.
            ValueError: what it holds was trained with other settings, or is damaged.
            BlockingIOError: another process is training into it.
            KeyboardInterrupt: Ctrl-C or SIGTERM; the message says how to go on.
        """
        with ranks.agreed():
            checkpoint_every = whole_number("checkpoint_every", checkpoint_every, 1)
            if not resume:
                self._refuse_to_overwrite()
        if ranks.count() > 1:
            check_alike(self._facts() | {"resume": resume, "checkpoint_every": checkpoint_every})
        with interruptible() as interruption, self._held():
            with ranks.agreed():
                found = self._continued() if resume else None
            ranks.from_first(self._rehearse)
            ranks.from_first(lambda: self._prepare(self.trainee.model))
            _forget_fitted(self.trainee.model)
            if found is not None:
                self.trainee.load_weights(found.saved.weights, found.folder)
                self.record = found.saved.training
            precision = ranks.from_first(lambda: self._precision(found))
            before = self.trainee.trained if found is None else found.saved.training and found.saved.training.before
            self._begun = replace(self._begun, precision=precision, before=before)
            stand_ins = ranks.from_first(
                lambda: self.trainee.stand_ins(self.dataset, self.clips.train_episodes, self.progress)
            )
            if stand_ins is not None:
                self.clips.show(stand_ins)
            self._label(stand_ins)
            trainer = Trainer(
                self.placement.fabric(precision),
                self.trainee.model,
                self.trainee.config.training,
                self.folder,
                self._save,
                seed=self.seed,
                checkpoint_every=checkpoint_every,
                telling=Telling(self._told, self._due, self.loggers, self._settings()),
                progress=self.progress,
            )
            trainer.fit(self.clips, self.schedule, found.state if found else None, interruption)
            self._finish(stand_ins)

    def _precision(self, found: Found | None) -> str:
        """What the run began with, or what the settings come to on this machine."""
        if found is not None and found.saved.training is not None and found.saved.training.precision:
            return found.saved.training.precision
        return chosen_precision(self.trainee.config.training.precision, self.trainee.device)

    def _facts(self) -> dict[str, Any]:
        """In which all ranks are to be alike."""
        begun = self._begun
        facts = {**fingerprint(self.dataset), "versions": begun.versions}
        return dict(flat(self.trainee.identity())) | _origin(begun) | facts

    def _refuse_to_overwrite(self) -> None:
        if self.folder.has_checkpoints():
            raise FileExistsError(
                f"{self.folder.path} already holds a training run: continue it with resume=True (--resume), or give "
                "another folder"
            )

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Let nobody else write into the folder, and see that all ranks have the same one."""
        with contextlib.ExitStack() as held:
            with ranks.agreed():
                if ranks.is_first():
                    held.enter_context(self.folder.held())
            check_shared(self.folder.path)
            yield

    # --- prepare -----------------------------------------------------------------------------------------------------

    def _prepare(self, model: Learner) -> None:
        """Give the model the statistics of the training data; an encoder that has learned keeps its own."""
        episodes = self.clips.train_episodes
        mean, std = self.dataset.action_statistics(episodes)
        require(
            bool(np.isfinite([mean, std]).all()),
            f"mean or standard deviation of the actions of {self.dataset.path} is not finite",
        )
        model.action_mean.copy_(torch.as_tensor(mean))
        model.action_std.copy_(torch.as_tensor(np.maximum(std, 1e-6)))
        encoder = None if self.trainee.has_learned else model.trained_encoder
        if encoder is not None and encoder.config.pixel_normalization == "mean_frame":
            mean_frame, deviation = self.dataset.pixel_statistics(episodes)
            encoder.set_pixel_statistics(torch.as_tensor(mean_frame), torch.as_tensor(deviation))
        if encoder is not None and encoder.starts_from_frames:
            encoder.start_from(torch.as_tensor(self.dataset.sample_frames(episodes), device=model.action_mean.device))
        model.before_training()

    def _rehearse(self) -> None:
        """Save and finish once, on next to no data and without a trace: what cannot be done at the end fails now."""
        remove(self.folder.rehearsal)
        try:
            self.trainee.save_checkpoint(self.folder.rehearsal, self._begun)
        except OSError as error:
            raise OSError(f"nothing was begun, for a checkpoint cannot be written: {error}") from error
        finally:
            remove(self.folder.rehearsal)
        model = copy.deepcopy(self.trainee.model).eval()
        self._prepare(model)
        _forget_fitted(model)
        skip = self.trainee.config.model.frame_skip
        whole = FinishData(self.dataset, self.clips.train_episodes, self.clips.held_out_episodes)
        train, held_out = (_shortest_usable(self.dataset, some, skip) for some in (self.labelled, whole.held_out))
        data = FinishData(self.dataset, train, held_out, rehearsed=whole)
        self.trainee.finish(model, data, self.seed, brief=True, progress=False)

    def _label(self, stand_ins: NDArray[np.float32] | None) -> None:
        """Have the actions told that are awaited; where the run was begun before, they are those of then."""
        by = self._begun.labels_by
        if by is None:
            return
        request = {**_origin(self._begun), "settings": _shaping(self.trainee.identity())}
        labels = ranks.from_first(
            lambda: labelling.kept_or_told(
                self.folder.labels,
                json.dumps(request),
                self.trainee.model,
                self.trainee.config,
                FinishData(self.dataset, self.labelled, self.clips.held_out_episodes, stand_ins),
                self.seed,
                by,
                progress=self.progress,
            )
        )
        self.dataset = self.dataset.with_actions(labels.actions)
        self.clips.read_from(self.dataset)
        self._begun = replace(self._begun, label_error=labels.error)

    # --- continue ----------------------------------------------------------------------------------------------------

    def _continued(self) -> Found | None:
        """The newest checkpoint that can be read; None where training has not come to one."""
        found = newest_readable(self.folder, self.trainee.read_checkpoint)
        if found is not None:
            self._check_same(found)
            return found
        if rows := read_rows(self.folder.metrics):
            warnings.warn(
                f"{self.folder.path} has no checkpoint, though its metrics reach step {rows[-1]['step']}: training "
                f"begins at step 0, and they are kept as {self.folder.metrics_before.name}",
                stacklevel=5,
            )
        return None

    def _check_same(self, found: Found) -> None:
        """Raise ``ValueError``, which says what differs, unless the steps taken would have been the same."""
        now, before = (dict(flat(identity)) for identity in (self.trainee.identity(), found.saved.identity))
        if found.saved.training is not None:
            now, before = now | _origin(self._begun), before | _origin(found.saved.training)
        differing = {
            name: f"{name.removeprefix('agent.')} {before.get(name)!r}, not {now.get(name)!r}"
            for name in {**before, **now}
            if now.get(name) != before.get(name) and not name.startswith(PLANNER)
        }
        if others := [text for name, text in differing.items() if name not in LENGTH]:
            raise ValueError(f"{found.folder} was trained with {'; '.join(others)}; {RESUME_OR_LEAVE}")
        before_now = Schedule.of(found.saved.settings.training, self.clips.steps_per_epoch)
        if not self.schedule.continues(before_now):
            raise ValueError(
                f"{found.folder} was trained with {'; '.join(differing.values())}, which changes the learning rates of "
                f"steps already taken; {RESUME_OR_LEAVE}, or make epochs, schedule_epochs and schedule_cycles "
                "longer by the same whole factor"
            )

    # --- tell --------------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """All that tells this run from others."""
        return {**self.trainee.identity(), **self._begun.values(), "git_commit": git_commit()}

    def _due(self, step: int, look: bool) -> bool:
        """Whether any callback is to be asked."""
        return bool(asking.due(self.callbacks, step, look, last=step == self.schedule.stop))

    def _told(self, step: int, look: bool) -> Iterator[tuple[str, Told]]:
        """What the callbacks that are due have to tell, by name."""
        stop = self.schedule.stop
        for callback in asking.due(self.callbacks, step, look, last=step == stop):
            record = replace(self._begun, steps=step)
            with asking.nothing_drawn(self.trainee.device), self.trainee.shown(record) as agent:
                told = asking.answer(callback, Moment(step, stop, agent, self.dataset, self.clips.held_out_episodes))
            if told:
                yield asking.name_of(callback), told

    # --- train and finish --------------------------------------------------------------------------------------------

    def _save(self, folder: Path, step: int) -> None:
        record = replace(self._begun, steps=step)
        self.trainee.save_checkpoint(folder, record)
        self.record = record

    def _finish(self, stand_ins: NDArray[np.float32] | None) -> None:
        model, clips = self.trainee.model.to(self.trainee.device).eval(), self.clips
        data = FinishData(self.dataset, clips.train_episodes, clips.held_out_episodes, stand_ins)
        try:
            error = ranks.from_first(
                lambda: self.trainee.finish(model, data, self.seed, brief=False, progress=self.progress)
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "stopped while metric and inverse-dynamics head were fitted to the trained world model, which is kept "
                f"in {self.folder.checkpoints}; {GO_ON}"
            ) from None
        if ranks.count() > 1:
            fitted = ranks.from_first(lambda: {name: value.cpu() for name, value in model.state_dict().items()})
            model.make_room(fitted)
            model.load_state_dict(fitted, strict=False)
        self.record = replace(self._begun, steps=self.schedule.stop, finished=True, inverse_dynamics_error=error)


def newest_readable(run: RunFolder, read: Callable[[Path], Saved]) -> Found | None:
    """The newest checkpoint of a run that can be read; None where training has not come to one.

    Args:
        run: may have damaged checkpoints, which a warning names.
        read: reads all but the state of one. Raises :class:`UnreadableError`.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    for folder in run.whole():
        try:
            return Found(folder, read(folder), TrainingState.read(folder))
        except UnreadableError as error:
            warnings.warn(f"{error}; an older checkpoint is looked for", stacklevel=6)
    if run.has_checkpoints():
        raise ValueError(
            f"no checkpoint in {run.checkpoints} is whole, so that the run cannot be continued: copy it anew, or begin "
            "another one in another folder"
        )
    return None


def _origin(record: TrainingRecord) -> dict[str, Any]:
    """Data and seed of a training, in which a continued run is to be what it was."""
    return {"data": record.data, "labels": record.labelled, "labels_by": record.labels_by, "seed": record.seed}


def _shaping(identity: Identity) -> dict[str, Any]:
    """The settings that the first steps of a training depend on."""
    return {k: v for k, v in flat(identity) if k not in LENGTH and not k.startswith(PLANNER)}


def _forget_fitted(model: Learner) -> None:
    """Take away what was fitted to another training."""
    if isinstance(model, LatentModel):
        model.metric = None
        model.goal_states = None
        model.far_goals = None


def check_fits(dataset: OfflineDataset, model: ClipConfig) -> None:
    """Raise ``ValueError`` unless a dataset has the frames and the actions of a model."""
    side, actions = model.image_size, model.action_dim
    if dataset.frame_shape != (side, side, 3):
        raise ValueError(
            f"the dataset's frames are {dataset.frame_shape}, the model needs {(side, side, 3)}: collect for this "
            "model, or learn with another model.image_size"
        )
    if dataset.action_dim != actions:
        raise ValueError(f"the dataset's actions have {dataset.action_dim} components, the model needs {actions}")


def _shortest_usable(dataset: OfflineDataset, episodes: NDArray[np.int64], skip: int) -> NDArray[np.int64]:
    """The shortest of the episodes that are longer than an action block, as an array of one."""
    usable = episodes[dataset.episode_lengths[episodes] > skip]
    return usable[np.argsort(dataset.episode_lengths[usable], kind="stable")[:1]]
