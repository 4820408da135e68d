"""Episodes of an evaluation, to be looked through step by step: what was seen, how near it was, what was planned."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lewm_agent.acting_agent import ActingAgent
from lewm_agent.environment import Environment
from lewm_agent.evaluation.playing import Player, Trace
from lewm_agent.evaluation.trials import Trial, begin, picture_if_any
from lewm_agent.evaluation.videos import Film
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning.episodes import EpisodeMemory, Frames
from lewm_agent.planning.imagination import imagine
from lewm_agent.tools.frames import as_rgb, resized

Latents = NDArray[np.float64]
Draws = Callable[[Latents], Frames]
"""From latents (P, D) to frames (P, H, W, 3)."""
LARGEST, PIXELS = 160, 2_500_000
"""Longest side of a kept frame, px, and what all frames of an episode may have: long ones are kept in less detail."""
QUALITY = 82
"""Of WebP, of 100: the thin lines of Two-Room stay clear, and 51 frames of 64 px take some 30 KB."""
ENCODED_AT_ONCE = 64


@dataclass(frozen=True)
class Strip:
    """Frames of one size in one picture, row by row.

    Attributes:
        image: WebP in base64.
        width: of a frame, px.
        height: of a frame, px.
        columns: frames in a row.
        count: frames.
    """

    image: str
    width: int
    height: int
    columns: int
    count: int

    @staticmethod
    def of(frames: Frames) -> Strip:
        """The strip of frames (N, H, W, 3), N > 0."""
        longest = min(LARGEST, math.isqrt(PIXELS // len(frames)))
        small = np.stack([_reduced(frame, longest) for frame in frames])
        count, height, width, _ = small.shape
        columns = math.ceil(math.sqrt(count))
        rows = math.ceil(count / columns)
        sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
        sheet[:count] = small
        tiled = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
        file = io.BytesIO()
        Image.fromarray(tiled).save(file, "WEBP", quality=QUALITY, method=4)
        return Strip(base64.b64encode(file.getvalue()).decode(), width, height, columns, count)


def _reduced(frame: Frames, longest: int) -> Frames:
    """A frame with sides up to so many px, in its own proportions."""
    height, width, _ = frame.shape
    share = min(1.0, longest / max(height, width))
    size = max(1, round(share * width)), max(1, round(share * height))
    picture = Image.fromarray(frame)
    return np.asarray(picture if share == 1.0 else picture.resize(size, Image.Resampling.BOX))


@dataclass(frozen=True)
class Look:
    """How far the latent of the frame at a step is from the goal's, as the planner judges."""

    step: int
    distance: float


@dataclass(frozen=True)
class Plan:
    """A plan made at a step, and how many of the imagined frames are what it expects, one after each block."""

    step: int
    frames: int


@dataclass(frozen=True)
class Rollout:
    """One episode.

    Attributes:
        frames: of the steps 0 to T.
        goal: its picture, if there is one.
        first_success_step: of the episode, or None.
        distances: (T + 1,) from the goal in the environment's units, None where nothing tells.
        looks: what the planner looked at, in order; none of an agent without latents.
        plans: in order; none of an agent that does not imagine.
        imagined: frames of all plans, one after the other.
        drawn_by: what draws them, for people.
        block: environment steps from one imagined frame to the next.
        fault: why there are no looks and no plans, if something went wrong; else empty.
    """

    frames: Strip
    goal: Strip | None
    first_success_step: int | None
    distances: list[float | None]
    looks: list[Look]
    plans: list[Plan]
    imagined: Strip | None
    drawn_by: str
    block: int
    fault: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


@dataclass
class Thoughts:
    """What an agent looks at and imagines in one episode; a watcher of :class:`Player`.

    Attributes:
        looks: steps and distances.
        plans: steps, and latents (P, D) after each block.
        fault: as of :class:`Rollout`.
    """

    agent: ActingAgent[Any, Any]
    looks: list[Look] = field(default_factory=list)
    plans: list[tuple[int, Latents]] = field(default_factory=list)
    fault: str = ""
    _steps: int = 0
    _last: Tensor | None = None

    def __call__(self, memory: EpisodeMemory, planned: bool) -> None:
        """Take note of one decision."""
        apart = self.agent.controller.goal_distance(memory)
        if apart is not None and memory.latents[-1] is not self._last:
            self._last = memory.latents[-1]
            self.looks.append(Look(self._steps, round(apart, 4)))
        if planned and isinstance(self.agent.model, WorldModel):
            latents = imagine(self.agent.model, self.agent.config.planner, memory)[1]
            self.plans.append((self._steps, latents))
        self._steps += 1


def thoughts_on(player: Player, number: int, trial: Trial, trace: Trace) -> Thoughts:
    """What the agent thought in an episode: it is played once more, and has to go as it went."""
    thoughts = Thoughts(player.agent)
    (again,) = dataclasses.replace(player, watcher=thoughts).play([number], [trial])
    told = [round(apart, 4) for apart in trace.latent_distances]
    same = len(again.actions) == len(trace.actions) and np.allclose(again.actions, trace.actions, atol=1e-5)
    if not same or told != [look.distance for look in thoughts.looks]:
        fault = "Played once more, this episode went otherwise, so that its plans and latent distances are not shown."
        return Thoughts(player.agent, fault=fault)
    return thoughts


class NearestFrames:
    """Shows latents as the known frames whose latents are nearest: for worlds without a decoder.

    Args:
        known: latents (N, D) of the known frames.
        frames: from places (P,) among these to frames (P, H, W, 3).
    """

    def __init__(self, known: Tensor, frames: Callable[[NDArray[np.int64]], Frames]) -> None:
        self._known, self._frames = known.cpu().double(), frames

    def __call__(self, latents: Latents) -> Frames:
        """Frames (P, H, W, 3) of latents (P, D)."""
        return self._frames(torch.cdist(torch.as_tensor(latents), self._known).argmin(dim=1).numpy())


def nearest_seen(model: WorldModel, env: Environment, trials: Sequence[Trial], films: Sequence[Film]) -> NearestFrames:
    """Shows latents as frames of films in the model's size, or of the starts and goals of trials that begin at once."""
    side = model.config.image_size
    pictures = [frame for film in films for frame in (*film.frames, film.goal) if frame is not None]
    for trial in trials:
        if not len(trial.actions):
            situation = begin(env, trial)
            goal = picture_if_any(situation, trial)
            pictures += [resized(as_rgb(np.asarray(seen)), side) for seen in (env.render(), goal) if seen is not None]
    frames = np.stack(pictures)
    return NearestFrames(_encoded(model, frames), lambda rows: frames[rows])


@torch.inference_mode()
def _encoded(model: WorldModel, frames: Frames) -> Tensor:
    chunks = torch.as_tensor(frames).to(model.action_mean.device).split(ENCODED_AT_ONCE)
    return torch.cat([model.encode(chunk) for chunk in chunks])


def rollout(film: Film, thoughts: Thoughts, record: Mapping[str, Any], distances: Sequence[float | None]) -> Rollout:
    """An episode as it is kept, without its plans.

    Args:
        film: what was seen.
        thoughts: of the agent.
        record: what the result says of it.
        distances: from the goal, at every step.
    """
    return Rollout(
        frames=Strip.of(film.frames),
        goal=None if film.goal is None else Strip.of(film.goal[None]),
        first_success_step=record["first_success_step"],
        distances=[None if distance is None else round(distance, 4) for distance in distances],
        looks=thoughts.looks,
        plans=[],
        imagined=None,
        drawn_by="",
        block=thoughts.agent.config.model.frame_skip,
        fault=thoughts.fault,
    )


def with_plans(kept: Rollout, thoughts: Thoughts, draws: Draws | None) -> Rollout:
    """A rollout with what plans expect; as it is where nothing draws that, or nothing was planned."""
    if draws is None or not thoughts.plans:
        return kept
    drawn = [draws(latents) for _, latents in thoughts.plans]
    return dataclasses.replace(
        kept,
        plans=[Plan(step, len(frames)) for (step, _), frames in zip(thoughts.plans, drawn, strict=True)],
        imagined=Strip.of(np.concatenate(drawn)),
        drawn_by="the nearest of all frames seen here" if isinstance(draws, NearestFrames) else "the decoder",
    )
