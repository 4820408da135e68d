"""Dreamer as an agent: it carries a state from look to look, and acts by a policy that learned in imagination."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.agents.rivals.dreamer import Dreamer, DreamerConfig, torchrl
from lewm_agent.agents.rivals.online import RewardedRun
from lewm_agent.agents.rivals.online_agent import OnlineAgent
from lewm_agent.agents.rivals.online_run import STREAM, Replay
from lewm_agent.agents.rivals.repeating import Repeating
from lewm_agent.checkpoints.model_card import About
from lewm_agent.datasets.rollout import episode_seed
from lewm_agent.models.learner import Loss
from lewm_agent.planning.episodes import Actions, EpisodeMemory
from lewm_agent.tools.checks import require
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.state import other_random_numbers

FOLLOWING = 0.02
"""How far the slow critic goes towards the critic after a step."""
APART = ("actor_loss.retnorm.", "value_loss.target_")
"""Tensors of the objective that the model has not."""


class DreamerRun(RewardedRun["DreamerAgent"]):
    """One optimisation step of all parts together, every few decisions."""

    @property
    def _every(self) -> int:
        return self.agent.config.every

    def _begin(self) -> Replay:
        model, training = self.agent.model, self.agent.config.training
        torch.manual_seed(self.seed)
        self._objective = model.objective()
        self._following = torchrl("torchrl.objectives").SoftUpdate(self._objective.value_loss, tau=FOLLOWING)
        self._optimizer = torchrl("torchrl.trainers.algorithms").DreamerV3Optimizer(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=training.learning_rate,
            agc=training.gradient_clip,
            warmup_steps=self.agent.config.warmup,
        )
        carried = model.config.drawn + model.config.belief
        return Replay(self.folder.path / "replay", self._kind_of_sight(), model.config.action_dim, carried)

    def _moments(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict(), "apart": self._apart()}

    def _go_on_with(self, moments: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(moments["optimizer"])
        for name, tensor in self._apart().items():
            tensor.copy_(moments["apart"][name])

    def _apart(self) -> dict[str, Tensor]:
        return {name: t.detach() for name, t in self._objective.state_dict().items() if name.startswith(APART)}

    @torch.no_grad()
    def _keep(self, rows: list[dict[str, Any]], goal: NDArray[Any]) -> None:
        """Write down an episode, with the states that the present weights carry through it."""
        model = self.agent.model
        before: tuple[Tensor, ...] = ()
        with other_random_numbers(episode_seed(self.seed, self._replay.episodes, STREAM), self.agent.device):
            for row in rows:
                seen = torch.as_tensor(np.stack([row["seen"], goal]), device=self.agent.device)
                state = model.state(seen if seen.is_floating_point() else model.encode(seen), before)
                row["carried"] = torch.cat(state).cpu().numpy()
                before = (*state, torch.as_tensor(row.get("action", ()), device=self.agent.device))
        super()._keep(rows, goal)

    def _drawn(self, rng: np.random.Generator) -> Any:
        """Sequences of rows, through the ends of episodes, as TorchRL takes them.

        A transition ends in its row: with the action and the reward before, none where an episode begins.
        """
        config, replay, length = self.agent.config, self._replay, self.agent.config.sequence
        require(replay.rows >= length, f"{replay.rows} frames were seen, fewer than sequence ({length}): shorten it")
        rows = rng.integers(0, replay.rows - length + 1, (config.training.batch_size, 1)) + np.arange(length)
        begins, before = replay.column("begins"), np.maximum(rows - 1, 0)
        first = begins[rows] == rows
        last = (rows == replay.rows - 1) | (begins[np.minimum(rows + 1, replay.rows - 1)] == rows + 1)
        carried = np.where(first[:, :1], 0, replay.column("carried")[before[:, 0]])
        seen = np.stack([replay.column("seen")[rows], replay.column("goals")[replay.column("episode")[rows]]], axis=2)
        after = {
            "pixels": seen,
            "reward": np.where(first, 0, replay.column("rewards")[before])[..., None],
            "done": last[..., None],
            "terminated": (replay.column("ended")[before] & ~first)[..., None],
        }
        action = np.where(first[..., None], 0, replay.column("actions")[before])
        states = np.repeat(carried[:, None], length, 1)
        found = {"carried": states, "action": action, "is_init": first[..., None], "next": after}
        sample = torchrl("tensordict").TensorDict(found, rows.shape).to(self.agent.device)
        drawn = config.model.drawn
        both = sample.pop("carried")
        return sample.set("state", both[..., :drawn]).set("belief", both[..., drawn:])

    def _step(self) -> tuple[Loss, float]:
        told = self._objective(self._drawn(np.random.default_rng([self.seed, self._learned_steps])))
        terms = {name.removeprefix("loss_"): value for name, value in told.items() if name.startswith("loss_")}
        total = torch.stack([*terms.values()]).sum()
        self._optimizer.zero_grad()
        total.backward()
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, math.inf))
        self._optimizer.step()
        self._following.step()
        return Loss(total, terms), norm


class DreamerController(Repeating[Dreamer]):
    """Takes the state further and acts by the policy: by its mean, or exploring by what it draws."""

    def decided(self, memory: EpisodeMemory, seen: Tensor) -> EpisodeMemory:
        """With the state that comes after the one before, and the action since."""
        seed = int(np.random.SeedSequence([memory.seed, memory.plans]).generate_state(1)[0])
        with other_random_numbers(seed, self.device):
            looked = torch.stack([seen, cast(Tensor, memory.goal_latent)])
            state = self.model.state(looked, (*memory.latents, *memory.executing))
            mean, std = self.model.policy(*state)
            action = (mean + std * torch.randn_like(mean) if self.exploring else mean).clamp(-1, 1)
        carried = dataclasses.replace(memory, plans=memory.plans + 1, latents=state, executing=(action,))
        return dataclasses.replace(carried, queue=self.repeated(action))

    def instead(self, memory: EpisodeMemory, action: Actions) -> EpisodeMemory:
        """The next state comes after the action that was taken; of those of one decision, the last."""
        taken = self.model.codec.normalize(torch.as_tensor(action, device=self.device))
        return dataclasses.replace(memory, executing=(taken,))


class DreamerAgent(OnlineAgent[DreamerConfig, Dreamer]):
    """DreamerV3 (:mod:`lewm_agent.agents.rivals.dreamer`), which learns in its environment.

    Checkpoints hold a frozen encoder too. Arguments as for :class:`OnlineAgent`.

    Raises:
        ImportError: TorchRL is not installed.
    """

    config_type = DreamerConfig

    def online_run(self, folder: RunFolder, *settings: Any) -> DreamerRun:
        """A training in its environment."""
        return DreamerRun(self, folder, *settings)

    def exploring(self) -> DreamerController:
        """Acts with the present weights, and noise."""
        return DreamerController(self.model, *self._bounds, exploring=True)

    @staticmethod
    def make_model(config: DreamerConfig) -> Dreamer:
        """World model, policy and values."""
        return Dreamer(config)

    @staticmethod
    def kind_of(config: DreamerConfig) -> str:
        """``dreamer``."""
        return "dreamer"

    @classmethod
    def accepts(cls, kind: str) -> bool:
        """Whether it is ``dreamer``."""
        return kind == "dreamer"

    @functools.cached_property
    def controller(self) -> DreamerController:
        """Acts with the present weights."""
        return DreamerController(self.model, *self._bounds)

    def about(self) -> About:
        """What sets this agent apart, for its model card and for ``lewm info``."""
        model, frozen = self.config.model, self.config.frozen
        own = f"{len(model.stages)} convolutions of {model.channels} to {model.channels * max(model.stages)} channels"
        traits = {
            "encoder": own if frozen is None else f"frozen, of {frozen}",
            "state": f"{model.belief} numbers, and {model.categoricals} of {model.classes} classes",
            "policy": f"3 layers of {model.width}, learned over {self.config.imagined} imagined decisions",
        }
        sentence = "DreamerV3 (arXiv 2301.04104) with a goal image: it learned in its environment, from rewards."
        load = 'from lewm_agent.agents import load_agent\n\nagent = load_agent("PATH_OR_HUB_ID")'
        return About(sentence, load, traits)
