"""What all goal-reaching agents share beside acting: gathering data, training, and files."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.acting_agent import ActingAgent, ConfigT, ModelT
from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.checkpoints import checkpoint, hub
from lewm_agent.checkpoints.checkpoint import CheckpointError, Description
from lewm_agent.checkpoints.hub import HubOptions
from lewm_agent.checkpoints.model_card import About, model_card, read_results
from lewm_agent.datasets import Clips, OfflineDataset
from lewm_agent.datasets.collection import collect
from lewm_agent.models.learner import STATISTICS
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.tools.checks import whole_number
from lewm_agent.training.batches import TrainingClips
from lewm_agent.training.record import TrainingRecord
from lewm_agent.training.run import FinishData, Identity, Run, Saved
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.state import UnreadableError


class GoalAgent(ActingAgent[ConfigT, ModelT]):
    """An agent that learns from offline pixel episodes to reach goal images; arguments as for :class:`ActingAgent`."""

    # --- collect -----------------------------------------------------------------------------------------------------

    def collect(
        self,
        path: str | Path,
        policy: Any = "expert",
        episodes: int = 1000,
        *,
        num_envs: int = 1,
        frame_interval: int = 1,
        families: int | None = None,
        seed: int | None = None,
        overwrite: bool = False,
        progress: bool = True,
    ) -> OfflineDataset:
        """Gather episodes of a behavior policy; an interrupted collection continues where it stopped.

        Args:
            path: folder of the dataset.
            policy: ``expert``, ``random``, a Stable-Baselines3 model or a path to one, or a callable
                ``(observation, info) -> action``.
            episodes: how many in all.
            num_envs: processes that gather at the same time; the data do not depend on it.
            frame_interval: record the frame of every so many steps only; the model's ``frame_skip`` must be a multiple.
            families: let episodes begin in so many ways only, of which training and held-out ones share none.
            seed: the agent's by default.
            overwrite: replace the dataset in the folder; it stays until its successor is whole.
            progress: show a progress bar.
        """
        return collect(
            path,
            self._environment_factory(),
            functools.partial(behavior_policy, policy),
            episodes,
            seed=whole_number("seed", self.seed if seed is None else seed),
            num_envs=num_envs,
            frame_interval=frame_interval,
            families=families,
            environment_id=self.description.environment or "unregistered",
            environment_kwargs=self.description.environment_kwargs,
            policy=_name_of(policy),
            overwrite=overwrite,
            progress=progress,
        )

    # --- learn -------------------------------------------------------------------------------------------------------

    def learn(
        self,
        dataset: OfflineDataset | str | Path,
        output: str | Path,
        *,
        resume: bool = False,
        seed: int | None = None,
        checkpoint_every: int = 1000,
        workers: int | None = None,
        progress: bool = True,
    ) -> Self:
        """Train the model on a dataset; the agent then acts with the final weights.

        Args:
            dataset: a dataset or its path.
            output: folder for ``metrics.jsonl``, TensorBoard files and ``checkpoints/``, whose ``last`` can be given to
                :meth:`from_pretrained`.
            resume: continue the run in ``output`` from its newest whole checkpoint, with the same batches and losses as
                if it had never stopped; a finished run goes on when given more epochs (and, past the schedule, cycles).
            seed: of batch order, dropout and SIGReg; the agent's by default.
            checkpoint_every: steps between checkpoints; after ten minutes one is written in any case.
            workers: processes that read clips; by default none on the CPU, where they only take time from training,
                else 4.
            progress: show progress: a bar on a terminal, elsewhere a line every half minute.

        Raises:
            ValueError: frames or actions do not fit the model, the dataset has no clip long enough, or the run in
                ``output`` is of another agent; the message says what differs.
            FileExistsError: ``output`` holds a run and ``resume`` is false.
            BlockingIOError: another process is training into ``output``.
            DivergedError: the loss is no longer finite.
            OSError: a file cannot be written; the message says what is kept.
            KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint has been written.
        """
        dataset = dataset if isinstance(dataset, OfflineDataset) else OfflineDataset(dataset)
        seed = self.seed if seed is None else seed
        run = Run(self, dataset, RunFolder(output), seed=seed, workers=workers, progress=progress)
        try:
            run.train(resume=resume, checkpoint_every=checkpoint_every)
        finally:
            self.model.to(self.device).eval()
            if run.record is not None:
                self.description = dataclasses.replace(self.description, training=run.record)
            self._forget_controller()
        return self

    def steps_per_epoch(self, dataset: OfflineDataset) -> int:
        """Optimisation steps in one pass over the training clips. Raises ``ValueError`` as :meth:`learn` does."""
        return TrainingClips(dataset, self.make_clips, self.config.training, self.seed, workers=0).steps_per_epoch

    @abstractmethod
    def make_clips(self, dataset: OfflineDataset, episodes: NDArray[np.int64]) -> Clips:
        """What the model is trained on."""

    def stand_ins(
        self, dataset: OfflineDataset, episodes: NDArray[np.int64], progress: bool
    ) -> NDArray[np.float32] | None:
        """What :meth:`learn` shows the model in place of frames, an entry for every row; None for frames."""
        return None

    def finish(self, model: ModelT, data: FinishData, seed: int, *, brief: bool, progress: bool) -> float | None:
        """What :meth:`learn` fits to the trained model; nothing by default. Returns the error of a head, if any."""
        return None

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

    # --- save and load -----------------------------------------------------------------------------------------------

    @abstractmethod
    def about(self) -> About:
        """What sets this agent apart, for its model card and for ``lewm info``."""

    def save_pretrained(
        self, path: str | Path, *, half_precision: bool = False, results: Sequence[str | Path] = ()
    ) -> Path:
        """Write ``config.json``, ``model.safetensors`` and a model card into a folder.

        Args:
            path: the folder.
            half_precision: round trained weights to float16, for a file half as large; statistics stay as they are.
            results: JSON files of ``eval/success_rate.py`` that the card is to show.

        A model that lies there is replaced, all or nothing; other files stay.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
            ValueError: a result that is none, or was measured with other weights; or weights that are not finite.
        """
        return self._save(Path(path), self.description, half_precision=half_precision, results=results)

    def _save(
        self,
        folder: Path,
        description: Description,
        *,
        half_precision: bool = False,
        results: Sequence[str | Path] = (),
    ) -> Path:
        shown = read_results(results, self.weights_sha256()) if results else []
        card = model_card(description, self.about(), shown)
        weights = self._stored_weights()
        if half_precision:
            trained = {name: value.detach().half() for name, value in self.model.named_parameters()}
            weights |= {name: value for name, value in trained.items() if name in weights}
        checkpoint.write(folder, description, weights, card)
        return folder

    def _stored_weights(self) -> dict[str, Tensor]:
        """What checkpoints hold: not what can be fetched anew, and no statistics of actions where they are missing."""
        missing = set() if self.model.knows_actions else STATISTICS
        weights = self.model.state_dict().items()
        return {name: value for name, value in weights if self.model.is_stored(name) and name not in missing}

    def load_weights(self, weights: dict[str, Tensor], source: Path) -> None:
        """Take over the weights of a checkpoint. Raises ``CheckpointError`` naming its folder if they do not fit."""
        self.model.make_room(weights.keys())
        checkpoint.check_weights(self._stored_weights(), weights, source)
        self.model.load_state_dict(weights, strict=False)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        results: Sequence[str | Path] = (),
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Upload to the Hugging Face Hub; returns the commit's URL.

        Args:
            repo_id: ``user/model``; created if it does not exist.
            results: as for :meth:`save_pretrained`.
            private: whether a new repository is.
            token: by default the one that ``hf auth login`` has stored.
            revision: branch to commit to; the main one by default.
        """
        with tempfile.TemporaryDirectory() as folder:
            saved = self.save_pretrained(folder, results=results)
            return hub.push(saved, repo_id, private=private, token=token, revision=revision)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        planner: str | PlannerConfig | None = None,
        device: str = "auto",
        seed: int = 0,
        **options: Unpack[HubOptions],
    ) -> Self:
        """A trained agent, ready to act.

        Args:
            name: a bundled model, a folder, or a Hub id (``user/model``); which of them, if it may be several, says
                :func:`lewm_agent.checkpoints.hub.find_here`.
            planner: other planner settings than the saved ones, for agents that plan.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            seed: of whatever is random when it acts.
            options: how a Hub id is fetched: ``revision``, ``cache_dir``, ``token``, ``local_files_only``
                (:func:`lewm_agent.checkpoints.hub.locate`).

        Raises:
            CheckpointError: nothing by that name, or it is incomplete, damaged, foreign, or another kind of agent.
        """
        folder = hub.locate(name, **options)
        agent = cls._from_folder(folder, device, seed)
        return agent if planner is None else agent.set_planner(planner)

    @classmethod
    def _from_folder(cls, folder: Path, device: str, seed: int) -> Self:
        kind = checkpoint.agent_kind(folder)
        if not cls.accepts(kind):
            raise CheckpointError(f"{folder} holds a `{kind}` agent: load it with lewm_agent.agents.load_agent")
        description, weights = checkpoint.read(folder, cls.config_type.from_dict)
        if cls.kind_of(description.agent) != kind:
            raise CheckpointError(f"{folder} says that it holds a `{kind}` agent, and has the settings of another kind")
        checkpoint.check_model(
            lambda: cls._layout(description.agent, weights), description.agent.to_dict(), weights, folder
        )
        agent = cls(None, description, device=device, seed=seed)
        if not all(map(agent.model.is_stored, agent.model.state_dict())):
            agent.model.fetch()
        agent.load_weights(weights, folder)
        return agent

    @classmethod
    def _layout(cls, config: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a new model that a checkpoint with these weights is to hold."""
        missing = set() if STATISTICS & weights.keys() else STATISTICS
        model = cls.make_model(config)
        model.make_room(weights.keys())
        return {name: t for name, t in model.state_dict().items() if model.is_stored(name) and name not in missing}


def _name_of(policy: Any) -> str:
    return str(policy) if isinstance(policy, str | Path) else getattr(policy, "__qualname__", type(policy).__name__)
