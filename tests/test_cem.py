"""CEM on problems whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lewm_agent.cem import CEM, CostFunction
from lewm_agent.goal_cost import goal_cost


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def quadratic(optimum: Tensor) -> CostFunction:
    return lambda candidates: (candidates - optimum[:, None]).square().sum((-1, -2))


def test_finds_the_minimum_of_a_quadratic_for_several_problems_at_once() -> None:
    optimum = torch.tensor([[[0.5, -1.0], [1.5, 0.0]], [[-0.7, 0.2], [0.0, 1.0]]])
    plan = CEM(300, 30, 20).plan(quadratic(optimum), torch.zeros(2, 2, 2), generators(0, 1))
    torch.testing.assert_close(plan.actions, optimum, atol=0.02, rtol=0)
    assert plan.cost.max() < 1e-3


def test_steers_a_linear_system_almost_as_well_as_least_squares() -> None:
    horizon, goal = 8, torch.tensor([3.0, -1.0])

    def cost(candidates: Tensor) -> Tensor:
        position = torch.zeros(2)
        velocity = torch.zeros(2)
        effort = 0.05 * candidates.square().sum((-1, -2))
        for step in range(horizon):
            velocity = velocity + 0.3 * candidates[:, :, step]
            position = position + velocity
        return (position - goal).square().sum(-1) + effort

    plan = CEM(400, 40, 40).plan(cost, torch.zeros(1, horizon, 2), generators(0))
    weights = 0.3 * torch.arange(horizon, 0, -1.0)  # how much an action at each step moves the final position
    # minimise (w.a - g)^2 + 0.05 |a|^2 in closed form
    best = torch.outer(weights, goal) / (weights.square().sum() + 0.05)
    found, least = (cost(actions.view(1, 1, horizon, 2)).item() for actions in (plan.actions[0], best))
    standing_still = cost(torch.zeros(1, 1, horizon, 2)).item()
    assert least <= found <= least + 0.002 * standing_still


def test_respects_bounds_when_the_minimum_lies_outside() -> None:
    seen: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        seen.append(candidates)
        return (candidates - 5).square().sum((-1, -2))

    low, high = torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 0.5])
    plan = CEM(64, 8, 10, low=low, high=high).plan(cost, torch.zeros(1, 3, 2), generators(0))
    everything = torch.cat(seen, dim=1)
    assert (everything >= low).all() and (everything <= high).all()
    torch.testing.assert_close(plan.actions[0], high.expand(3, 2), atol=0.02, rtol=0)


def test_first_candidate_is_the_present_mean() -> None:
    first: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        first.append(candidates[:, 0])
        return candidates.square().sum((-1, -2))

    start = torch.full((1, 2, 1), 0.3)
    CEM(16, 4, 2).plan(cost, start, generators(0))
    torch.testing.assert_close(first[0], start)


def test_same_generator_same_plan_whatever_is_solved_beside_it() -> None:
    optimum = torch.randn(3, 4, 2)
    search = CEM(32, 8, 3, noise_correlation=0.5)
    together = search.plan(quadratic(optimum), torch.zeros(3, 4, 2), generators(5, 6, 7)).actions
    alone = search.plan(quadratic(optimum[1:2]), torch.zeros(1, 4, 2), generators(6)).actions
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=0)
    other = search.plan(quadratic(optimum[1:2]), torch.zeros(1, 4, 2), generators(8)).actions
    assert not torch.equal(alone, other)


def test_noise_has_unit_variance_and_the_asked_correlation() -> None:
    sampled: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        sampled.append(candidates[0, 1:, :, 0])
        return candidates.square().sum((-1, -2))

    CEM(20_000, 10, 1, noise_correlation=0.8).plan(cost, torch.zeros(1, 6, 1), generators(0))
    correlation = torch.corrcoef(sampled[0].T)
    torch.testing.assert_close(sampled[0].std(0), torch.ones(6), atol=0.02, rtol=0)
    assert correlation[0, 1].item() == pytest.approx(0.8, abs=0.02)
    assert correlation[2, 5].item() == pytest.approx(0.8**3, abs=0.02)


def test_more_elites_than_samples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"elites \(30\) must be at least 2 and at most samples \(20\)"):
        CEM(20, 30, 1)


def test_goal_costs() -> None:
    latents = torch.tensor([[[[3.0], [1.0], [2.0]]]])
    goal = torch.zeros(1, 1)
    assert goal_cost(latents, goal, "terminal").item() == 4
    assert goal_cost(latents, goal, "sum").item() == 14
    assert goal_cost(latents, goal, "best").item() == pytest.approx(1, abs=0.01)
