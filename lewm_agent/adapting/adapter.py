"""Adapting a trained agent's encoder to other looks: one run on a dataset, which leaves everything else as it is."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.adapting.teaching import AdaptConfig, Adapting, student_of
from lewm_agent.checkpoints import checkpoint
from lewm_agent.checkpoints.checkpoint import Adaptation, CheckpointError, Description
from lewm_agent.config import AgentConfig
from lewm_agent.datasets import Clips, OfflineDataset
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning_agent import PlanningAgent
from lewm_agent.tools.settings import settings_to_dict
from lewm_agent.training.batches import FinishData, TrainingClips
from lewm_agent.training.record import TrainingRecord
from lewm_agent.training.run import Identity, Run, Saved
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.settings import TrainingConfig
from lewm_agent.training.sharing.placement import Placement
from lewm_agent.training.state import UnreadableError

CHECKPOINT_EVERY = 500
ENCODER = "encoder."
"""Beginning of the names of a model's tensors that adapting changes."""

Agent = PlanningAgent[AgentConfig, WorldModel]


@dataclass(frozen=True)
class _Settings:
    """What a run asks of settings."""

    model: Any
    training: TrainingConfig

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries."""
        return settings_to_dict(self)


class Adapter:
    """Trains the encoder of an agent, and makes the agent that has it.

    Args:
        agent: trained; it is not changed.
        make: makes an agent of the same kind from a description, untrained.
        config: how.
        seed: of weights, order of frames and looks; also says which episodes are held out.

    Attributes:
        adapted: The agent with the encoder as it now is.

    Raises:
        ValueError: the agent has learned nothing.
    """

    def __init__(self, agent: Agent, make: Callable[[Description], Agent], config: AdaptConfig, seed: int) -> None:
        if not agent.description.learned:
            raise ValueError("this agent has learned nothing that an encoder could be adapted to: learn, or load one")
        self._source, self._settings, self._seed = agent.weights_sha256(), config, seed
        self._told = settings_to_dict(config)
        settings = dataclasses.replace(agent.config, model=config.model(agent.config.model))
        self.adapted = make(dataclasses.replace(agent.description, agent=settings))
        weights = agent.model.state_dict()
        kept = {name: value for name, value in weights.items() if not name.startswith(ENCODER)}
        self.adapted.model.make_room(kept)
        self.adapted.model.load_state_dict(kept, strict=False)
        torch.manual_seed(seed)
        teacher = agent.model.encoder
        self.adapted.model.encoder = student_of(teacher, settings.model)
        self._learner = Adapting(settings.model, teacher, self.adapted.model.encoder, agent.model.metric, config.clean)
        self._learner.to(agent.device)
        self._training: TrainingConfig | None = None

    def run(self, dataset: OfflineDataset, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train, or go on; raises as :class:`lewm_agent.training.run.Run` does, and ends as it does on Ctrl-C."""
        fraction = self.adapted.config.training.held_out_fraction
        once = self._settings.training(self.adapted.config.model, fraction, 1)
        per_epoch = TrainingClips(dataset, self.make_clips, once, self._seed, 0).steps_per_epoch
        self._training = self._settings.training(self.adapted.config.model, fraction, per_epoch)
        run = Run(Placement.of(1, 1, self.device), self, dataset, folder, seed=self._seed, progress=progress)
        run.train(resume=resume, checkpoint_every=CHECKPOINT_EVERY)
        self.adapted.model.eval()
        self.adapted.description = self._described(run.record)

    # --- what a run asks -------------------------------------------------------------------------------------------

    @property
    def model(self) -> Adapting:
        """Teacher and student."""
        return self._learner

    @property
    def config(self) -> _Settings:
        """Sizes and optimisation."""
        assert self._training is not None
        return _Settings(self.adapted.config.model, self._training)

    @property
    def device(self) -> torch.device:
        """Where to train."""
        return self.adapted.device

    @property
    def has_learned(self) -> bool:
        """Its encoder keeps its statistics."""
        return True

    @property
    def trained(self) -> None:
        """Nothing: the description keeps the training apart from what is taught after it."""

    def identity(self) -> Identity:
        """The agent that it becomes, and how."""
        return self._described(None).identity()

    def make_clips(self, dataset: OfflineDataset, episodes: NDArray[np.int64]) -> Clips:
        """Single frames."""
        return Clips(dataset, episodes, 1, self.adapted.config.model.frame_skip)

    def save_checkpoint(self, folder: Path, record: TrainingRecord) -> None:
        """Write the adapted agent."""
        self.adapted.description = self._described(record)
        self.adapted.save_pretrained(folder)

    def read_checkpoint(self, folder: Path) -> Saved:
        """What such a folder holds. Raises ``UnreadableError``, or ``ValueError`` if nothing was adapted there."""
        try:
            description, weights = checkpoint.read(folder, AgentConfig.from_dict)
        except CheckpointError as error:
            raise UnreadableError(str(error)) from error
        if description.adaptation is None:
            raise ValueError(f"{folder} is of a training, not of an adaptation: give another folder")
        return Saved(description.identity(), self.config, description.adaptation.record, weights)

    def load_weights(self, weights: dict[str, Tensor], source: Path) -> None:
        """Take over the encoder. Raises ``CheckpointError`` if it does not fit."""
        self.adapted.load_weights(weights, source)

    def stand_ins(self, dataset: OfflineDataset, episodes: NDArray[np.int64], progress: bool) -> None:
        """None: frames are what is changed. What is usual is taken from the training episodes."""
        self._learner.take_usual(dataset, episodes)

    @contextlib.contextmanager
    def shown(self, record: TrainingRecord) -> Iterator[Agent]:
        """The adapted agent, within the block."""
        self._learner.eval()
        try:
            yield self.adapted
        finally:
            self._learner.train()

    def finish(self, model: Any, data: FinishData, seed: int, *, brief: bool, progress: bool) -> None:
        """Nothing comes after."""

    def _described(self, record: TrainingRecord | None) -> Description:
        adaptation = Adaptation(self._source, self._told, record)
        return dataclasses.replace(self.adapted.description, adaptation=adaptation)
