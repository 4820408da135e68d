"""What all goal-reaching agents share beside acting, files and gathering data: training, and being measured."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lewm_agent import environment
from lewm_agent.acting_agent import ConfigT, ModelT, prepared
from lewm_agent.checkpoints import checkpoint
from lewm_agent.checkpoints.checkpoint import CheckpointError
from lewm_agent.collecting_agent import CollectingAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.mixed import Given, opened, paths_of
from lewm_agent.environment import Environment
from lewm_agent.evaluation import jobs
from lewm_agent.evaluation.goals import RecordedGoals, goals_from
from lewm_agent.evaluation.measuring import Measuring
from lewm_agent.evaluation.success import Judge, Success
from lewm_agent.evaluation.suite import Suite
from lewm_agent.models import ranks
from lewm_agent.models.ranks import LostRankError
from lewm_agent.planning.decider import NO_GOAL_STATES
from lewm_agent.tools.checks import objects, whole_number
from lewm_agent.tools.cluster import Cluster
from lewm_agent.tools.outputs import reserved
from lewm_agent.training.batches import FinishData, TrainingClips
from lewm_agent.training.callbacks import Callback
from lewm_agent.training.metrics_log import Logger
from lewm_agent.training.record import TrainingRecord
from lewm_agent.training.run import Identity, Run, Saved
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.sharing.launch import launch
from lewm_agent.training.sharing.placement import Placement
from lewm_agent.training.sharing.twins import LearnOptions, Twin, learn_as_rank, on_cpu, take_over
from lewm_agent.training.state import UnreadableError


class GoalAgent(CollectingAgent[ConfigT, ModelT]):
    """An agent that learns from offline pixel episodes to reach goal images; arguments as for :class:`ActingAgent`."""

    # --- learn -------------------------------------------------------------------------------------------------------

    def learn(
        self,
        dataset: Given | Sequence[Given],
        output: str | Path,
        *,
        weights: Sequence[float] | None = None,
        labels: float = 1.0,
        labels_by: str = "inverse",
        resume: bool = False,
        seed: int | None = None,
        checkpoint_every: int = 1000,
        workers: int | None = None,
        devices: int | None = None,
        num_nodes: int | None = None,
        epochs: float | None = None,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
        progress: bool = True,
    ) -> Self:
        """Train the model on a dataset, or several; the agent then acts with the final weights.

        An agent that has learned goes on from its present weights, with a fresh schedule; its encoder keeps what it has
        taken from the frames of its first training, such as their mean.

        Several devices share every batch: they are as many processes, which this call starts and ends, so that a script
        that asks for them does so under ``if __name__ == "__main__":``. Under torchrun, or in a job step of SLURM, they
        are there already, and every one of them makes this call (``docs/guide/scaling.md``).

        Args:
            dataset: a dataset or its path; or a list of several of one environment, whose clips are mixed.
            output: folder for ``metrics.jsonl``, TensorBoard files and ``checkpoints/``, whose ``last`` can be given to
                :meth:`from_pretrained`.
            weights: share of the clips that comes from each of several datasets, together 1; by default every clip is
                seen as often as any other. An epoch has as many clips as there are in all.
            labels: share of the training episodes that keep their actions. Those of the others are not looked at: they
                are told from the frames, as are those of episodes that have none (``docs/guide/video.md``).
            labels_by: what tells them: "inverse", an inverse-dynamics model trained on the episodes that keep theirs,
                or "latent", codes of what happens between two frames, learned from all episodes.
            resume: continue the run in ``output`` from its newest whole checkpoint, with the same batches and losses as
                if it had never stopped; a finished run goes on when given more epochs (and, past the schedule, cycles).
            seed: of batch order, dropout and SIGReg; the agent's by default.
            checkpoint_every: steps between checkpoints; after ten minutes one is written in any case.
            workers: processes that read clips for each device; by default none on the CPU, where they only take time
                from training, else 4.
            devices: of each machine, GPUs or processes on the CPU; by default what torchrun or SLURM has started, else
                one. ``batch_size`` is of all together.
            num_nodes: machines; by default likewise.
            epochs: instead of the configuration's.
            callbacks: asked while it trains, such as those of :mod:`lewm_agent.callbacks`; the training is the same.
                With several devices, of rank 0.
            loggers: get all numbers and pictures beside ``metrics.jsonl`` and TensorBoard; likewise.
            progress: show progress: a bar on a terminal, elsewhere a line every half minute.

        Raises:
            ValueError: frames or actions do not fit the model, a dataset has too few episodes that are long enough for
                a clip, no episode has or keeps its actions, datasets are not alike, weights do not add up to 1, the run
                in ``output`` is of another agent or of other data, or devices are not there, do not divide the batch,
                or do not have the same data, settings and output; the message says what differs.
            TypeError: callbacks or loggers are none, or tell what cannot be written down.
            FileExistsError: ``output`` holds a run and ``resume`` is false.
            BlockingIOError: another process is training into ``output``.
            DivergedError: the loss is no longer finite.
            RuntimeError: a process of several was killed.
            OSError: a file cannot be written; the message says what is kept.
            KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint has been written. Several devices leave the agent's
                weights as they were then.
        """
        if epochs is not None:
            self._change(training=dataclasses.replace(self.config.training, epochs=epochs))
        placement, folder = Placement.of(devices, num_nodes, self.device), RunFolder(output)
        options = LearnOptions(
            placement,
            None if weights is None else tuple(weights),
            labels,
            labels_by,
            resume,
            self.seed if seed is None else seed,
            checkpoint_every,
            workers,
            progress,
            objects("callbacks", callbacks, ["__call__"]),
            objects("loggers", loggers, ["begin", "scalars", "picture", "close"]),
        )
        if not placement.starts_processes:
            self.learn_here(dataset, folder, options)
            return self
        placement.check_batch(self.config.training.batch_size)
        paths = paths_of(dataset)
        twin = Twin(type(self), self.description, self.seed, on_cpu(self.model.state_dict()))
        learned, record = launch(placement, functools.partial(learn_as_rank, twin, paths, folder, options), folder.kept)
        take_over(learned, self.model)
        self._learned(record)
        return self

    def learn_here(self, dataset: Given | Sequence[Given], folder: RunFolder, options: LearnOptions) -> None:
        """Train in this process, alone or as one of several ranks; raises as :meth:`learn`."""
        run: Run | None = None
        with options.placement.together(), ranks.first_warns():
            try:
                with ranks.agreed():
                    options.placement.check_batch(self.config.training.batch_size)
                    run = Run(
                        options.placement,
                        self,
                        opened(dataset, options.weights),
                        folder,
                        labels=options.labels,
                        labels_by=options.labels_by,
                        seed=options.seed,
                        workers=options.workers,
                        progress=options.progress,
                        callbacks=options.callbacks,
                        loggers=options.loggers,
                    )
                run.train(resume=options.resume, checkpoint_every=options.checkpoint_every)
            except LostRankError as lost:
                ranks.raise_everywhere(LostRankError(f"{lost}; {folder.kept()}"))
            finally:
                self._learned(None if run is None else run.record)

    def _learned(self, record: TrainingRecord | None) -> None:
        """Be ready to act with the present weights, which came about like that."""
        self.model.to(self.device).eval()
        if record is not None:
            self.description = dataclasses.replace(self.description, training=record)
        self._forget_controller()

    @contextlib.contextmanager
    def shown(self, record: TrainingRecord) -> Iterator[Self]:
        """Within the block, while a training goes on: the agent as it acts with the present weights."""
        self._forget_controller()
        before = self.__dict__.copy()  # whoever is shown it may change how it plans, or act
        self.description = dataclasses.replace(self.description, training=record)
        self.model.eval()
        try:
            yield self
        finally:
            self.__dict__.clear()
            self.__dict__.update(before)
            self.model.train()

    def steps_per_epoch(self, dataset: OfflineDataset) -> int:
        """Optimisation steps in one pass over the training clips. Raises ``ValueError`` as :meth:`learn` does."""
        return TrainingClips(dataset, self.make_clips, self.config.training, self.seed, workers=0).steps_per_epoch

    def stand_ins(
        self, dataset: OfflineDataset, episodes: NDArray[np.int64], progress: bool
    ) -> NDArray[np.float32] | None:
        """What :meth:`learn` shows the model in place of frames, an entry for every row; None for frames."""
        return None

    def finish(self, model: ModelT, data: FinishData, seed: int, *, brief: bool, progress: bool) -> float | None:
        """What :meth:`learn` fits to the trained model; nothing by default. Returns the error of a head, if any."""
        return None

    @property
    def has_learned(self) -> bool:
        """Whether the weights are more than random, so that :meth:`learn` goes on from them."""
        return self.description.learned

    @property
    def trained(self) -> TrainingRecord | None:
        """How the weights came about, if this package has trained them."""
        return self.description.training

    def identity(self) -> Identity:
        """What a run to be continued must agree with: all but the weights and where they come from."""
        return self.description.identity()

    def save_checkpoint(self, folder: Path, record: TrainingRecord) -> None:
        """Write the present weights with a record of how they came about."""
        self._save(folder, dataclasses.replace(self.description, training=record))

    def read_checkpoint(self, folder: Path) -> Saved:
        """A checkpoint of an agent of this kind. Raises ``UnreadableError``, or ``ValueError`` for another kind."""
        try:
            kind = checkpoint.agent_kind(folder)
            if kind == self.kind:
                description, weights = checkpoint.read(folder, self.config_type.from_dict)
                return Saved(description.identity(), description.agent, description.training, weights)
        except CheckpointError as error:
            raise UnreadableError(str(error)) from error
        raise ValueError(f"{folder} was trained as agent {kind}, not {self.kind}: resume with that")

    # --- evaluate ----------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        env: str | Environment | None = None,
        *,
        goals: Any,
        success: str | Judge | Success | None = None,
        episodes: int = 50,
        offset: int = 25,
        budget: int | None = None,
        seed: int = 0,
        goal_state: bool = False,
        floors: bool = True,
        planner_seed: int = 0,
        workers: int = 1,
        cluster: Cluster | None = None,
        output: str | Path | None = None,
        video: str | Path | None = None,
        videos: int = 10,
        progress: bool = True,
    ) -> dict[str, Any]:
        """How often the agent reaches goal images, beside what random and recorded actions reach on the same.

        Args:
            env: as for the agent, whose environment it is by default.
            goals: where starts and goals come from: a dataset or its path, whose episodes that training did not see are
                drawn from; ``task``, the environment's own goals; a list of :class:`Trial`, or a JSON file of them.
            success: when a goal is reached: a key of info (``is_success``), a column with a tolerance (``state:0.05``,
                ``state[0:2]:0.05``) or a function of (unwrapped environment, info, numbers of the goal). By default
                info says so, which it can only of goals of the environment's own.
            episodes: how many trials.
            offset: environment steps from start to goal, of recorded ones.
            budget: steps the agent has; by default twice the offset, or until the environment's time limit.
            seed: of the choice of trials, and of random actions.
            goal_state: tell the agent the goals in numbers (:meth:`act`), in place of pictures.
            floors: also play random and recorded actions.
            planner_seed: of the planner's noise.
            workers: processes that play; the result does not depend on it.
            cluster: has jobs play, each a part of the trials with ``workers`` processes; the result does not depend on
                it either. They write beside ``output``, on a disk that all machines share.
            output: where to write the result; an interrupted evaluation continues from OUTPUT.unfinished.
            video: folder for GIFs of the agent beside its goal, and for what a report lets one step through.
            videos: how many of them, half of them the nearest failures.
            progress: show it.

        Returns:
            What ``docs/reference/results-schema.md`` describes, as ``eval/report.py`` reads it.

        Raises:
            ValueError: the environment is another than the agent's, or does not fit the goals; the message says how.
        """
        target = None if output is None else Path(output)
        if cluster is not None:
            jobs.check(cluster, episodes, target)
        suite = self.suite(
            env,
            goals=goals,
            success=success,
            episodes=episodes,
            offset=offset,
            budget=budget,
            seed=seed,
            goal_state=goal_state,
        )
        suite = suite if floors else dataclasses.replace(suite, floors=lambda env: {})
        shared = target.parent if cluster is not None and target is not None else None
        with reserved(target), tempfile.TemporaryDirectory(dir=shared) as folder:
            load = self.loader(folder) if whole_number("workers", workers, 1) > 1 or cluster is not None else None
            measuring = Measuring(
                suite, self, self.kind, planner_seed, workers=workers, load=load, output=target, progress=progress
            )
            if cluster is not None:
                jobs.play(measuring, cluster)
            result, traces = measuring.run()
            measuring.write(result)
            if video is not None:
                measuring.draw_videos(result, traces, Path(video), videos)
                measuring.write(result)
            measuring.finish()
        return result

    def suite(
        self,
        env: str | Environment | None = None,
        *,
        goals: Any,
        success: str | Judge | Success | None = None,
        episodes: int = 50,
        offset: int = 25,
        budget: int | None = None,
        seed: int = 0,
        goal_state: bool = False,
    ) -> Suite:
        """What :meth:`evaluate` plays; arguments as there."""
        size = self.config.model.image_size
        if goal_state and self.model.goal_states is None:
            raise ValueError(NO_GOAL_STATES)
        given = self.env if env is None else prepared(env, size)
        low, high = environment.action_bounds(given.action_space)
        known = self.description
        same_choices = environment.has_choices(given) == self.config.model.discrete_actions
        if (low, high) != (known.action_low, known.action_high) or not same_choices:
            raise ValueError(f"the agent acts in other spaces than {given.action_space}, which {given} has")
        gymnasium_id, kwargs = environment.identity(given)
        make = environment.same(given) if gymnasium_id is None else environment.factory(gymnasium_id, kwargs, size)
        source = goals_from(goals, offset)
        if isinstance(source, RecordedGoals) and source.episodes is None:
            source = dataclasses.replace(source, episodes=self.unseen_episodes(source.dataset))
        name = environment.name_of(given)
        return source.suite(
            name, make, episodes=episodes, seed=seed, success=success, budget=budget, goal_state=goal_state
        )
