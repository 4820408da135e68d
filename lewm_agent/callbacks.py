"""Callbacks and loggers that are ready to be given to ``learn``.

    from lewm_agent.callbacks import DecodedFrames, Diagnosis, SuccessRate, Wandb

    told = [SuccessRate(data, success="state:0.05"), Diagnosis()]
    agent.learn(data, "runs/mine", callbacks=told, loggers=[Wandb("mine")])

A callback of one's own is a function of a :class:`Moment` that returns numbers and pictures by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent.evaluation.success import Judge, Success
from lewm_agent.models.thumbnail_decoder import SIDE
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.training.callbacks import Callback as Callback
from lewm_agent.training.callbacks import Moment as Moment
from lewm_agent.training.callbacks import Told
from lewm_agent.training.metrics_log import Logger as Logger
from lewm_agent.training.metrics_log import effective_rank
from lewm_agent.training.run_folder import RunFolder


class SuccessRate:
    """How often goals are reached with the present weights, in percent; from the untrained model on.

    Args:
        goals: as for ``agent.evaluate``; of the dataset that is learned from, held-out episodes alone are drawn from.
        success: likewise.
        episodes: how many trials, the same every time.
        offset: as for ``agent.evaluate``, as are ``budget`` and ``seed``.
        planner: other settings than the agent's: those that need what is fitted when training ends, metric ``slow`` and
            proposals of a head, cannot be used before.
        every: steps between two measurements; by default as often as held-out episodes are looked at.
        name: under which the numbers appear.
    """

    def __init__(
        self,
        goals: Any,
        *,
        success: str | Judge | Success | None = None,
        episodes: int = 10,
        offset: int = 25,
        budget: int | None = None,
        seed: int = 0,
        planner: str | PlannerConfig | None = None,
        every: int | None = None,
        name: str = "success",
    ) -> None:
        self.asked = {"goals": goals, "success": success, "episodes": episodes, "offset": offset, "budget": budget}
        self.seed, self.planner, self.every, self.name = seed, planner, every, name

    def __call__(self, moment: Moment) -> Told:
        """Success in percent, and steps to the goal where it was reached."""
        if self.planner is not None:
            moment.agent.set_planner(self.planner)
        result = moment.agent.evaluate(**self.asked, seed=self.seed, floors=False, progress=False)
        steps = [record["first_success_step"] for record in result["records"] if record["success"]]
        return {"rate": result["success_rate"], **({"steps": float(np.mean(steps))} if steps else {})}


class Diagnosis:
    """Whether the model is getting good enough to plan with: figures of ``lewm diagnose`` on held-out episodes.

    Args:
        episodes: held-out episodes, at most.
        every: steps between two looks; by default as often as held-out episodes are looked at.
        name: under which the numbers appear.
    """

    def __init__(self, episodes: int = 10, *, every: int | None = None, name: str = "diagnosis") -> None:
        self.episodes, self.every, self.name = episodes, every, name

    @torch.inference_mode()
    def __call__(self, moment: Moment) -> Told:
        """Effective rank of latents, and error of what is imagined, as a share of what standing still would leave."""
        from lewm_agent.eval.diagnose import errors, gather

        paths = gather(moment.agent, moment.dataset, moment.held_out[: self.episodes], progress=False)
        found = errors(moment.agent.world_model, paths, np.random.default_rng(0))
        told = {"effective_rank": float(effective_rank(torch.cat(paths.latents)))}
        for ahead, (model, still) in enumerate(zip(found["model"], found["nothing_changes"], strict=True), start=1):
            told[f"error_after_{ahead}"] = model
            told[f"of_standing_still_after_{ahead}"] = model / max(still, 1e-9)
        return told


class DecodedFrames:
    """Held-out frames above what the model's decoder makes of them.

    Only models with ``objective.reconstruction_weight`` have one.

    Args:
        frames: how many.
        every: steps between two pictures; by default as often as held-out episodes are looked at.
        name: under which they appear.
    """

    def __init__(self, frames: int = 8, *, every: int | None = None, name: str = "decoded") -> None:
        self.frames, self.every, self.name = frames, every, name

    @torch.inference_mode()
    def __call__(self, moment: Moment) -> Told:
        """One picture. Raises ``ValueError`` if the model has no decoder."""
        model = moment.agent.world_model
        if model.decoder is None:
            raise ValueError("DecodedFrames needs a model with a decoder: set objective.reconstruction_weight")
        rows = moment.dataset.frame_rows(moment.held_out)
        chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), self.frames)).round().astype(np.int64)]
        frames = torch.as_tensor(moment.dataset.read_frames(chosen), device=moment.agent.device)
        pictures = model.encoder.thumbnails(frames, SIDE), model.decoder(model.encode(frames))
        rows_shown = [model.encoder.as_pixels(row) for row in pictures]
        shown = torch.cat([torch.cat(list(row), dim=2) for row in rows_shown], dim=1)
        shown = shown.repeat_interleave(4, 1).repeat_interleave(4, 2)
        return {"frames": shown.clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy()}


class Wandb:
    """Weights & Biases, which ``pip install 'lewm-agent[wandb]'`` brings; a resumed run goes on as the same.

    Args:
        project: there.
        options: of ``wandb.init``: ``name``, ``entity``, ``mode="offline"``, ...

    Raises:
        ImportError: it is not installed.
    """

    def __init__(self, project: str, **options: Any) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ImportError("Weights & Biases is not installed: pip install 'lewm-agent[wandb]'")
        self._options = {"project": project, **options}

    def begin(self, folder: RunFolder, start: int, settings: Mapping[str, Any]) -> None:
        """Start a run there, or go on with the one that this folder's training began."""
        wandb = importlib.import_module("wandb")
        known = folder.path / "wandb.id"
        if start == 0 or not known.is_file():
            known.write_text(secrets.token_hex(8))
        kept = {"dir": str(folder.path), "id": known.read_text().strip(), "resume": "allow"}
        self._run = wandb.init(config=dict(settings), **kept, **self._options)
        self._image = wandb.Image

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Curves."""
        self._run.log(dict(numbers), step=step)

    def picture(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """Pictures over steps."""
        self._run.log({name: self._image(picture)}, step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
