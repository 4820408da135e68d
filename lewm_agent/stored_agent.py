"""An agent that is saved and loaded: folders, the Hub, weights."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, Unpack

from torch import Tensor

from lewm_agent.acting_agent import ActingAgent, ConfigT, ModelT
from lewm_agent.checkpoints import checkpoint, hub
from lewm_agent.checkpoints.checkpoint import CheckpointError, Description
from lewm_agent.checkpoints.hub import HubOptions
from lewm_agent.checkpoints.model_card import About, model_card, read_results
from lewm_agent.models.learner import STATISTICS
from lewm_agent.planning.settings import PlannerConfig


class StoredAgent(ActingAgent[ConfigT, ModelT]):
    """An agent that acts, with its files; arguments as for :class:`ActingAgent`."""

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
            results: JSON files of ``eval/success_rate.py`` that the card is to show, measured with the weights as they
                are saved: rounded ones must be measured after rounding.

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
        weights, read = self._stored_weights(), self.model.state_dict()
        if half_precision:
            trained = {name: value.detach().half() for name, value in self.model.named_parameters()}
            weights |= {name: value for name, value in trained.items() if name in weights}
            read |= {name: value.float() for name, value in trained.items()}
        shown = read_results(results, checkpoint.weights_sha256(read)) if results else []
        card = model_card(description, self.about(), shown)
        checkpoint.write(folder, description, weights, card)
        return folder

    def _stored_weights(self) -> dict[str, Tensor]:
        """What checkpoints hold: not what can be fetched anew, and no statistics of actions where they are missing."""
        missing = set() if self.model.knows_actions else STATISTICS
        weights = self.model.state_dict().items()
        return {name: value for name, value in weights if self.model.is_stored(name) and name not in missing}

    def load_weights(self, weights: dict[str, Tensor], source: Path) -> None:
        """Take over the weights of a checkpoint. Raises ``CheckpointError`` naming its folder if they do not fit."""
        self.model.make_room(weights)
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
        model.make_room(weights)
        return {name: t for name, t in model.state_dict().items() if model.is_stored(name) and name not in missing}
