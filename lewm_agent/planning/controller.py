"""Model-predictive control for a batch of environments: history, replanning, warm start."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lewm_agent.models.inverse_dynamics import InverseDynamics
from lewm_agent.models.learner import LatentModel
from lewm_agent.planning import ActionSet, Bounds, Choices, CostFunction
from lewm_agent.planning.decider import Decider, require_finite
from lewm_agent.planning.episodes import Actions, EpisodeMemory, Memories
from lewm_agent.planning.fast_rollout import Rollout, fast_rollout
from lewm_agent.planning.goal_cost import Distance, LatentCost, goal_cost, squared_distance
from lewm_agent.planning.search import cheapest
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.planning.waypoints import NOT_FITTED, Waypoints

WITHIN_REACH = 2.0
"""A goal is within a plan's reach if the nearest that a plan comes is at most so many times as far as proposals ever
come: chosen on validation pairs of the Cube (docs/findings/far_goals.md)."""


class Controller(Decider):
    """Turns frames and goal frames into actions by planning in latent space.

    Args:
        world_model: trained, in evaluation mode.
        planner: settings of the search and of its execution.
        low: lower action bounds (action_dim,), in the environment's units.
        high: upper action bounds (action_dim,).
        cost: of imagined latents, instead of the one that ``planner`` names.
        rollout: what candidates lead to, instead of what the world model imagines.
    """

    def __init__(
        self,
        world_model: LatentModel,
        planner: PlannerConfig,
        low: Actions,
        high: Actions,
        cost: LatentCost | None = None,
        rollout: Rollout | None = None,
    ) -> None:
        super().__init__(world_model, low, high)
        self.world_model = world_model
        self.planner = planner
        self.with_gradient = planner.search.needs_gradient
        self.apart = self._distance()
        self.cost = cost or functools.partial(goal_cost, kind=planner.cost, apart=self.apart)
        self.rollout = rollout or fast_rollout(world_model, planner)
        self.waypoints = None if planner.waypoints == "none" else Waypoints(world_model, planner)
        if self.device.type != "cpu":  # where batching gains nothing
            self.problems_at_once = world_model.problems_at_once
        self.allowed = self._action_set()
        self.sampling = planner.sampling(self.allowed)

    def _distance(self) -> Distance:
        model, metric = self.world_model, self.planner.metric
        if metric == "steps":
            if model.far_goals is None:
                raise ValueError(NOT_FITTED)
            return model.far_goals.steps
        if metric == "slow" and model.metric is None:
            raise ValueError("planner.metric `slow` is fitted when training ends, and this model's has not ended")
        return squared_distance(model.metric if metric == "slow" else None)

    def _action_set(self) -> ActionSet | None:
        model = self.world_model
        if model.config.discrete_actions:
            search = self.planner.search
            if search.needs_gradient:
                raise ValueError(f"planner.search `{search.kind}` cannot choose among discrete actions; use another")
            return Choices(model.action_mean, model.action_std)
        limits = [model.codec.normalize(torch.as_tensor(bound, device=self.device)) for bound in (self.low, self.high)]
        return Bounds(*limits) if self.planner.clip_actions else None

    def needs_frame(self, memory: EpisodeMemory) -> bool:
        """Whether the next decision looks at the frame; between action blocks it does not."""
        at_boundary = len(memory.executing) % self.world_model.config.frame_skip == 0
        return at_boundary and (not memory.queue or self.planner.history > 1)

    def goal_distance(self, memory: EpisodeMemory) -> float | None:
        """Distance of the latents, in the planner's metric."""
        if memory.goal_latent is None or not memory.latents:
            return None
        return float(self._length(self.apart(memory.latents[-1], memory.goal_latent).detach()))

    def _length(self, apart: Tensor) -> Tensor:
        """Distances as they are: blocks to go, or roots of squares."""
        return apart if self.planner.metric == "steps" else apart.sqrt()

    def queued(self, memories: Memories, seen: dict[int, Tensor]) -> Memories:
        """Frames at the ends of blocks become history; who has no actions left gets a plan."""
        memories = [self._with_frame(m, seen[i]) if i in seen else m for i, m in enumerate(memories)]
        if self.waypoints is not None:
            memories = [m if m.queue else self.waypoints.aimed(m) for m in memories]
        due = [i for i, memory in enumerate(memories) if not memory.queue]
        if self.planner.proposals == "approach":
            memories = self._together(memories, [i for i in due if not memories[i].arrival], self._aiming)
        return self._together(memories, due, self._search)

    def _together(self, memories: Memories, rows: list[int], change: Callable[[Memories], Memories]) -> Memories:
        """The memories, of which some are changed: as many at a time as are alike."""
        alike = defaultdict(list)
        for i in rows:
            memory = memories[i]
            left, ways = (-1 if way is None else len(way) for way in (memory.rest, memory.recorded))
            state = len(memory.latents), left, memory.arrival > 0, self._walking(memory), ways
            alike[state].append(i)
        changed = list(memories)
        for numbers in alike.values():
            for start in range(0, len(numbers), self.problems_at_once):
                chunk = numbers[start : start + self.problems_at_once]
                for i, memory in zip(chunk, change([memories[i] for i in chunk]), strict=True):
                    changed[i] = memory
        return changed

    def _with_frame(self, memory: EpisodeMemory, latent: Tensor) -> EpisodeMemory:
        executed = self.world_model.codec.joined(torch.stack(memory.executing)) if memory.executing else ()
        blocks = (*memory.blocks, *executed)
        keep = self.planner.history
        latents = (*memory.latents, latent)[-keep:]
        blocks = blocks[-(keep - 1) :] if keep > 1 else ()
        return dataclasses.replace(memory, latents=latents, blocks=blocks, executing=())

    def _known(self, memories: Memories) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (N, H, D), blocks between them (N, H - 1, block_dim), and what is aimed at (N, D)."""
        latents = torch.stack([torch.stack(m.latents) for m in memories])
        nothing = latents.new_zeros(0, self.world_model.config.block_dim)
        past = torch.stack([torch.stack(m.blocks) if m.blocks else nothing for m in memories])
        aims = [m.goal_latent if m.target is None else m.target for m in memories]
        return latents, past, torch.stack([aim for aim in aims if aim is not None])

    def _search(self, memories: Memories) -> Memories:
        """New plans for environments with equally long histories and as much left of plans, if all or none follow."""
        codec = self.world_model.codec
        latents, past, goals = self._known(memories)
        not_finite = torch.zeros((), device=self.device)  # NaN once a cost was not finite; a GPU need not be waited for

        def cost(actions: Tensor) -> Tensor:
            costs = self.cost(self.rollout(latents, past, codec.joined(actions)), goals)
            not_finite.add_((0 * costs.detach()).sum())
            return costs

        guesses = torch.stack([self._guesses(m) for m in memories])
        if self.planner.proposals != "none":
            arrivals, proposed = self._follow_proposals(memories, latents, past, goals, cost)
            memories = [dataclasses.replace(m, arrival=a) for m, a in zip(memories, arrivals, strict=True)]
            if self.planner.proposals == "follow" or self._walking(memories[0]):
                require_finite(not_finite, "the cost of a plan")
                return [self._adopt(m, plan[None]) for m, plan in zip(memories, proposed, strict=True)]
            guesses = self._begun(cost, guesses, proposed[:, None])
        if recorded := [m.recorded for m in memories if m.recorded is not None]:
            guesses = self._begun(cost, guesses, torch.stack([self._recorded(ways) for ways in recorded]))
        found = self.planner.search.plan(cost, guesses, [self._generator(m) for m in memories], self.sampling)
        require_finite(not_finite, "the cost of a plan")
        plans = found.actions.unsqueeze(1)
        plans = plans if found.spares is None else torch.cat([plans, found.spares], dim=1)
        return [self._adopt(m, plan) for m, plan in zip(memories, plans, strict=True)]

    def _begun(self, cost: CostFunction, guesses: Tensor, others: Tensor) -> Tensor:
        """Guesses (N, G, T, A) with the two cheapest of the first and some others (N, K, T, A) in front."""
        starts = torch.cat([guesses[:, :1], others], dim=1)
        return torch.cat([cheapest(starts, cost(starts), 2)[0], guesses[:, 1:]], dim=1)

    def _recorded(self, ways: Tensor) -> Tensor:
        """Recorded actions (K, k, action_dim) as long as a plan, with zeros at the end."""
        steps = self.planner.horizon * self.world_model.config.frame_skip
        return self._executable(functional.pad(ways[:, :steps], (0, 0, 0, max(0, steps - ways.shape[1]))))

    def _follow_proposals(
        self, memories: Memories, latents: Tensor, past: Tensor, goals: Tensor, cost: CostFunction
    ) -> tuple[list[int], Tensor]:
        """The arrival that each environment keeps to, chosen by the cost where it has none, and the plan for it.

        Choosing it anew at every plan would put the arrival off each time.

        Returns:
            Blocks until arrival, and plans (N, T, action_dim).
        """
        head, planner = self._head(), self.planner
        following = memories[0].arrival > 0
        known = [[m.arrival] if following else list(range(1, head.furthest + 1)) for m in memories]
        choices = torch.tensor(known, device=self.device)
        horizon = planner.execute if following and planner.proposals == "follow" else planner.horizon
        blocks = self.world_model.propose(latents, past, goals, choices, horizon)
        plans = self._executable(self.world_model.codec.split(blocks))
        rows = torch.arange(len(plans), device=self.device)
        best = torch.zeros_like(rows) if following else cost(plans).argmin(dim=1)
        return choices[rows, best].tolist(), plans[rows, best]

    def _head(self) -> InverseDynamics:
        if self.world_model.inverse_dynamics is None:
            raise ValueError("planner.proposals needs a model with an inverse-dynamics head")
        return self.world_model.inverse_dynamics

    def _walking(self, memory: EpisodeMemory) -> bool:
        """Whether a proposal is followed to a goal that is out of the search's reach."""
        return self.planner.proposals == "approach" and memory.arrival > self.planner.horizon

    def _aiming(self, memories: Memories) -> Memories:
        """Choose when to arrive: within the horizon if a proposal gets near by then, or else as late as is best."""
        latents, past, goals = self._known(memories)
        furthest, horizon = self._head().furthest, self.planner.horizon
        arrivals = torch.arange(1, furthest + 1, device=self.device).expand(len(memories), -1)
        blocks = self.world_model.propose(latents, past, goals, arrivals, max(furthest, horizon))
        plans = self._executable(self.world_model.codec.split(blocks))
        imagined = self.rollout(latents, past, self.world_model.codec.joined(plans))
        apart = self._length(self.apart(imagined, goals[:, None, None]))
        require_finite(apart, "the cost of a plan")
        soon, best = apart[:, :horizon, :horizon].amin(-1), apart.amin(-1)
        within = soon.amin(1) <= WITHIN_REACH * best.amin(1)
        best[:, :horizon] = torch.inf
        chosen = torch.where(within, soon.argmin(1), best.argmin(1)) + 1
        return [dataclasses.replace(m, arrival=a) for m, a in zip(memories, chosen.tolist(), strict=True)]

    def _executable(self, plans: Tensor) -> Tensor:
        """Plans (..., A), choices made where actions are choices; vectors are clipped when they are executed."""
        return self.allowed.project(plans) if isinstance(self.allowed, Choices) else plans

    def _guesses(self, memory: EpisodeMemory) -> Tensor:
        """Where the search starts (G, T, action_dim): from nothing, or from what is left of the last plan."""
        config = self.world_model.config
        rest = memory.rest if self.planner.warm_start else None
        count = 1 if rest is None else len(rest)
        guesses = torch.zeros(count, self.planner.horizon * config.frame_skip, config.action_dim, device=self.device)
        if rest is not None:
            guesses[:, : rest.shape[1]] = rest
        return guesses

    def _generator(self, memory: EpisodeMemory) -> torch.Generator:
        state = np.random.SeedSequence([memory.seed, memory.plans]).generate_state(1, np.uint64)
        return torch.Generator(self.device).manual_seed(int(state[0] >> np.uint64(1)))

    def _adopt(self, memory: EpisodeMemory, plans: Tensor) -> EpisodeMemory:
        """Execute the first of the plans (G, T, action_dim); remember what is left of all."""
        executed = self.planner.execute * self.world_model.config.frame_skip
        require_finite(plans[0, :executed], "a planned action")
        actions = self.world_model.codec.denormalize(self._executable(plans[0, :executed])).cpu().numpy()
        queue = tuple(np.clip(actions, self.low, self.high).astype(np.float32))
        arrival = max(0, memory.arrival - self.planner.execute)
        if self._walking(memory) and arrival <= self.planner.horizon:
            arrival = 0  # look again what is within reach
        return dataclasses.replace(
            memory,
            plans=memory.plans + 1,
            queue=queue,
            rest=plans[:, executed:],
            arrival=arrival,
            patience=max(0, memory.patience - self.planner.execute),
            recorded=None if memory.recorded is None else memory.recorded[:, executed:],
        )

    def instead(self, memory: EpisodeMemory, action: Actions) -> EpisodeMemory:
        """The block under way is of what was executed."""
        executed = self.world_model.codec.normalize(torch.as_tensor(action, device=self.device))
        return dataclasses.replace(memory, executing=(*memory.executing[:-1], executed))

    def advanced(self, memory: EpisodeMemory) -> EpisodeMemory:
        """The executed action is part of the block under way."""
        action = torch.as_tensor(memory.queue[0], device=self.device)
        executing = (*memory.executing, self.world_model.codec.normalize(action))
        if len(executing) > self.world_model.config.frame_skip:  # the frame at the block boundary was not needed
            executing = executing[-1:]
        return dataclasses.replace(memory, executing=executing, queue=memory.queue[1:])
