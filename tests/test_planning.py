"""Searches over action sequences on problems whose answer is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.planning import CEM, ICEM, MPPI, Bounds, CostFunction, GradientDescent, Mixture, Search, make_search
from lewm_agent.planning.goal_cost import goal_cost
from lewm_agent.planning.settings import PlannerConfig, SearchName

SEARCHES: dict[SearchName, Search] = {
    "cem": CEM(samples=300, elites=30, iterations=20),
    "icem": ICEM(samples=300, elites=30, iterations=20),
    "mppi": MPPI(samples=2000, iterations=20, temperature=0.05, initial_std=0.2),
    "gradient": GradientDescent(samples=4, iterations=200, learning_rate=0.1),
    "mixture": Mixture(samples=1200, elites=120, iterations=20, components=4),
}
every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def quadratic(optimum: Tensor) -> CostFunction:
    return lambda candidates: (candidates - optimum[:, None]).square().sum((-1, -2))


@every_search
def test_finds_the_minimum_of_a_quadratic_for_several_problems_at_once(search: Search) -> None:
    optimum = torch.tensor([[[0.5, -1.0], [1.5, 0.0]], [[-0.7, 0.2], [0.0, 1.0]]])
    plan = search.plan(quadratic(optimum), torch.zeros(2, 1, 2, 2), generators(0, 1))
    torch.testing.assert_close(plan.actions, optimum, atol=0.05, rtol=0)
    assert plan.cost.max() < 5e-3


@every_search
def test_steers_a_linear_system_almost_as_well_as_least_squares(search: Search) -> None:
    horizon, goal = 8, torch.tensor([3.0, -1.0])

    def cost(candidates: Tensor) -> Tensor:
        position = torch.zeros(2)
        velocity = torch.zeros(2)
        effort = 0.05 * candidates.square().sum((-1, -2))
        for step in range(horizon):
            velocity = velocity + 0.3 * candidates[:, :, step]
            position = position + velocity
        return (position - goal).square().sum(-1) + effort

    longer = dataclasses.replace(search, iterations=2 * search.iterations)
    plan = longer.plan(cost, torch.zeros(1, 1, horizon, 2), generators(0))
    weights = 0.3 * torch.arange(horizon, 0, -1.0)  # how much an action at each step moves the final position
    # minimise (w.a - g)^2 + 0.05 |a|^2 in closed form
    best = torch.outer(weights, goal) / (weights.square().sum() + 0.05)
    found, least = (cost(actions.view(1, 1, horizon, 2)).item() for actions in (plan.actions[0], best))
    standing_still = cost(torch.zeros(1, 1, horizon, 2)).item()
    assert least - 1e-6 <= found <= least + 0.005 * standing_still


@every_search
def test_respects_bounds_when_the_minimum_lies_outside(search: Search) -> None:
    seen: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        seen.append(candidates.detach().clone())
        return (candidates - 5).square().sum((-1, -2))

    bounds = Bounds(torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 0.5]))
    bounded = dataclasses.replace(search, allowed=bounds)
    plan = bounded.plan(cost, torch.zeros(1, 1, 3, 2), generators(0))
    everything = torch.cat(seen, dim=1)
    assert (everything >= bounds.low).all() and (everything <= bounds.high).all()
    torch.testing.assert_close(plan.actions[0], bounds.high.expand(3, 2), atol=0.05, rtol=0)


@every_search
def test_the_guess_itself_is_a_candidate(search: Search) -> None:
    first: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        first.append(candidates.detach()[:, 0].clone())
        return candidates.square().sum((-1, -2))

    start = torch.full((1, 1, 2, 1), 0.3)
    search.plan(cost, start, generators(0))
    torch.testing.assert_close(first[0], start[:, 0])


@every_search
def test_same_generator_same_plan_whatever_is_solved_beside_it(search: Search) -> None:
    optimum = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    search = dataclasses.replace(search, noise_correlation=0.5, iterations=3)
    start = torch.full((3, 1, 4, 2), 3.0)
    together = search.plan(quadratic(optimum), start, generators(5, 6, 7)).actions
    alone = search.plan(quadratic(optimum[1:2]), start[:1], generators(6)).actions
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=0)
    other = search.plan(quadratic(optimum[1:2]), start[:1], generators(8)).actions
    assert not torch.equal(alone, other)


def test_noise_has_unit_variance_and_the_asked_correlation() -> None:
    sampled: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        sampled.append(candidates[0, 1:, :, 0])
        return candidates.square().sum((-1, -2))

    search = CEM(samples=20_000, elites=10, iterations=1, noise_correlation=0.8)
    search.plan(cost, torch.zeros(1, 1, 6, 1), generators(0))
    correlation = torch.corrcoef(sampled[0].T)
    torch.testing.assert_close(sampled[0].std(0), torch.ones(6), atol=0.02, rtol=0)
    assert correlation[0, 1].item() == pytest.approx(0.8, abs=0.02)
    assert correlation[2, 5].item() == pytest.approx(0.8**3, abs=0.02)


def counted(cost: CostFunction, calls: list[int]) -> CostFunction:
    def count(candidates: Tensor) -> Tensor:
        calls.append(candidates.shape[1])
        return cost(candidates)

    return count


def test_a_collapsed_search_stops_early_and_alone() -> None:
    optimum = torch.tensor([[[0.5]], [[1.5]]])
    calls: list[int] = []
    search = CEM(samples=64, elites=8, iterations=50, stop_std=0.01)
    together = search.plan(counted(quadratic(optimum), calls), torch.zeros(2, 1, 1, 1), generators(0, 1))
    assert 2 < len(calls) < 20
    torch.testing.assert_close(together.actions, optimum, atol=0.02, rtol=0)
    for i in range(2):
        alone = search.plan(quadratic(optimum[i : i + 1]), torch.zeros(1, 1, 1, 1), generators(i))
        torch.testing.assert_close(together.actions[i : i + 1], alone.actions, rtol=0, atol=0)


def test_icem_draws_fewer_samples_each_time_and_begins_with_the_spares_of_the_last_plan() -> None:
    optimum = torch.full((1, 3, 2), 0.8)
    search = ICEM(samples=64, elites=8, iterations=4)
    calls: list[int] = []
    first = search.plan(counted(quadratic(optimum), calls), torch.zeros(1, 1, 3, 2), generators(0))
    assert calls == [64, 51 + 2, 41 + 2, 33 + 2]
    assert first.spares is not None
    seen: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        seen.append(candidates)
        return quadratic(optimum)(candidates)

    guesses = torch.cat([torch.zeros(1, 1, 3, 2), first.spares], dim=1)
    second = search.plan(cost, guesses, generators(1))
    torch.testing.assert_close(seen[0][:, -first.spares.shape[1] :], first.spares)
    assert second.cost.item() <= first.cost.item()


def test_a_mixture_does_not_settle_between_two_ways() -> None:
    """Two narrow valleys at -1 and 1; the one at 1 is a little deeper, and the ridge between them is a wall."""

    def cost(candidates: Tensor) -> Tensor:
        x = candidates[..., 0, 0]
        return torch.minimum((x - 1).square(), (x + 1).square() + 0.01) + (x.abs() < 0.5).float()

    plan = Mixture(samples=128, elites=16, iterations=10, components=4).plan(
        cost, torch.zeros(1, 1, 1, 1), generators(0)
    )
    assert plan.actions.item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CEM(samples=20, elites=30, iterations=1),
            r"elites \(30\) must be .* at most samples \(20\)",
        ),
        (
            lambda: ICEM(samples=20, elites=11, iterations=1),
            r"elites \(11\) must be .* half the samples \(20\)",
        ),
        (lambda: Mixture(samples=20, elites=4, components=4, iterations=1), r"elites \(4\) must be at least 2"),
        (lambda: MPPI(samples=20, iterations=1, temperature=0), "temperature must be positive, got 0"),
        (lambda: GradientDescent(samples=2, iterations=1, learning_rate=0), "learning_rate must be positive, got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: type[Search], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", SEARCHES)
def test_an_agent_acts_with_every_search(tiny_config: AgentConfig, name: SearchName) -> None:
    planner = dataclasses.replace(tiny_config.planner, search=name, elites=4, components=2, execute=1)
    assert isinstance(make_search(planner), type(SEARCHES[name]))
    frames = np.random.default_rng(0).integers(0, 255, (2, 12, 16, 16, 3), dtype=np.uint8)
    actions = []
    for _ in range(2):
        agent = LeWMAgent("two_room", tiny_config).set_planner(planner)
        actions.append([agent.act(frame, frames[1, 0]) for frame in frames[0]])
    np.testing.assert_array_equal(*actions)
    assert np.isfinite(actions[0]).all()
    assert len(np.unique(actions[0], axis=0)) > 6


def test_an_unknown_search_is_refused() -> None:
    with pytest.raises(ValueError, match="search must be cem or icem or mppi or gradient or mixture, got 'cme'"):
        PlannerConfig(search="cme")  # type: ignore[arg-type]


def test_goal_costs() -> None:
    latents = torch.tensor([[[[3.0], [1.0], [2.0]]]])
    goal = torch.zeros(1, 1)
    assert goal_cost(latents, goal, "terminal").item() == 4
    assert goal_cost(latents, goal, "sum").item() == 14
    assert goal_cost(latents, goal, "best").item() == pytest.approx(1, abs=0.01)
