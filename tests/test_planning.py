"""Searches over action sequences on problems whose answer is known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.config import configured
from lewm_agent.planning import CEM, ICEM, MPPI, Bounds, CostFunction, Gradient, Mixture, Plan, Sampling, Search
from lewm_agent.planning import search as searches
from lewm_agent.planning.goal_cost import goal_cost
from lewm_agent.planning.presets import planner_name
from lewm_agent.planning.settings import PlannerConfig

SEARCHES: list[tuple[Search, Sampling]] = [
    (CEM(), Sampling(samples=300, elites=30, iterations=20)),
    (ICEM(), Sampling(samples=300, elites=30, iterations=20)),
    (MPPI(temperature=0.05), Sampling(samples=2000, elites=2, iterations=20, initial_std=0.2)),
    (Gradient(learning_rate=0.1), Sampling(samples=4, elites=2, iterations=200)),
    (Mixture(components=4), Sampling(samples=1200, elites=120, iterations=20)),
]
every_search = pytest.mark.parametrize(("search", "sampling"), SEARCHES, ids=[search.kind for search, _ in SEARCHES])


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def quadratic(optimum: Tensor) -> CostFunction:
    return lambda candidates: (candidates - optimum[:, None]).square().sum((-1, -2))


@every_search
def test_finds_the_minimum_of_a_quadratic_for_several_problems_at_once(search: Search, sampling: Sampling) -> None:
    optimum = torch.tensor([[[0.5, -1.0], [1.5, 0.0]], [[-0.7, 0.2], [0.0, 1.0]]])
    plan = search.plan(quadratic(optimum), torch.zeros(2, 1, 2, 2), generators(0, 1), sampling)
    torch.testing.assert_close(plan.actions, optimum, atol=0.05, rtol=0)
    assert plan.cost.max() < 5e-3


@every_search
def test_steers_a_linear_system_almost_as_well_as_least_squares(search: Search, sampling: Sampling) -> None:
    horizon, goal = 8, torch.tensor([3.0, -1.0])

    def cost(candidates: Tensor) -> Tensor:
        position = torch.zeros(2)
        velocity = torch.zeros(2)
        effort = 0.05 * candidates.square().sum((-1, -2))
        for step in range(horizon):
            velocity = velocity + 0.3 * candidates[:, :, step]
            position = position + velocity
        return (position - goal).square().sum(-1) + effort

    longer = dataclasses.replace(sampling, iterations=2 * sampling.iterations)
    plan = search.plan(cost, torch.zeros(1, 1, horizon, 2), generators(0), longer)
    weights = 0.3 * torch.arange(horizon, 0, -1.0)  # how much an action at each step moves the final position
    # minimise (w.a - g)^2 + 0.05 |a|^2 in closed form
    best = torch.outer(weights, goal) / (weights.square().sum() + 0.05)
    found, least = (cost(actions.view(1, 1, horizon, 2)).item() for actions in (plan.actions[0], best))
    standing_still = cost(torch.zeros(1, 1, horizon, 2)).item()
    assert least - 1e-6 <= found <= least + 0.005 * standing_still


@every_search
def test_respects_bounds_when_the_minimum_lies_outside(search: Search, sampling: Sampling) -> None:
    seen: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        seen.append(candidates.detach().clone())
        return (candidates - 5).square().sum((-1, -2))

    bounds = Bounds(torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 0.5]))
    bounded = dataclasses.replace(sampling, allowed=bounds)
    plan = search.plan(cost, torch.zeros(1, 1, 3, 2), generators(0), bounded)
    everything = torch.cat(seen, dim=1)
    assert (everything >= bounds.low).all() and (everything <= bounds.high).all()
    torch.testing.assert_close(plan.actions[0], bounds.high.expand(3, 2), atol=0.05, rtol=0)


@every_search
def test_the_guess_itself_is_a_candidate(search: Search, sampling: Sampling) -> None:
    first: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        first.append(candidates.detach()[:, 0].clone())
        return candidates.square().sum((-1, -2))

    start = torch.full((1, 1, 2, 1), 0.3)
    search.plan(cost, start, generators(0), sampling)
    torch.testing.assert_close(first[0], start[:, 0])


@every_search
def test_same_generator_same_plan_whatever_is_solved_beside_it(search: Search, sampling: Sampling) -> None:
    optimum = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    few = dataclasses.replace(sampling, noise_correlation=0.5, iterations=3)
    start = torch.full((3, 1, 4, 2), 3.0)
    together = search.plan(quadratic(optimum), start, generators(5, 6, 7), few).actions
    alone = search.plan(quadratic(optimum[1:2]), start[:1], generators(6), few).actions
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=0)
    other = search.plan(quadratic(optimum[1:2]), start[:1], generators(8), few).actions
    assert not torch.equal(alone, other)


def test_noise_has_unit_variance_and_the_asked_correlation() -> None:
    sampled: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        sampled.append(candidates[0, 1:, :, 0])
        return candidates.square().sum((-1, -2))

    sampling = Sampling(samples=20_000, elites=10, iterations=1, noise_correlation=0.8)
    CEM().plan(cost, torch.zeros(1, 1, 6, 1), generators(0), sampling)
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
    search, sampling = CEM(stop_std=0.01), Sampling(samples=64, elites=8, iterations=50)
    together = search.plan(counted(quadratic(optimum), calls), torch.zeros(2, 1, 1, 1), generators(0, 1), sampling)
    assert 2 < len(calls) < 20
    torch.testing.assert_close(together.actions, optimum, atol=0.02, rtol=0)
    for i in range(2):
        alone = search.plan(quadratic(optimum[i : i + 1]), torch.zeros(1, 1, 1, 1), generators(i), sampling)
        torch.testing.assert_close(together.actions[i : i + 1], alone.actions, rtol=0, atol=0)


def test_icem_draws_fewer_samples_each_time_and_begins_with_the_spares_of_the_last_plan() -> None:
    optimum = torch.full((1, 3, 2), 0.8)
    search, sampling = ICEM(), Sampling(samples=64, elites=8, iterations=4)
    calls: list[int] = []
    first = search.plan(counted(quadratic(optimum), calls), torch.zeros(1, 1, 3, 2), generators(0), sampling)
    assert calls == [64, 51 + 2, 41 + 2, 33 + 2]
    assert first.spares is not None
    seen: list[Tensor] = []

    def cost(candidates: Tensor) -> Tensor:
        seen.append(candidates)
        return quadratic(optimum)(candidates)

    guesses = torch.cat([torch.zeros(1, 1, 3, 2), first.spares], dim=1)
    second = search.plan(cost, guesses, generators(1), sampling)
    torch.testing.assert_close(seen[0][:, -first.spares.shape[1] :], first.spares)
    assert second.cost.item() <= first.cost.item()


def test_a_mixture_does_not_settle_between_two_ways() -> None:
    """Two narrow valleys at -1 and 1; the one at 1 is a little deeper, and the ridge between them is a wall."""

    def cost(candidates: Tensor) -> Tensor:
        x = candidates[..., 0, 0]
        return torch.minimum((x - 1).square(), (x + 1).square() + 0.01) + (x.abs() < 0.5).float()

    sampling = Sampling(samples=128, elites=16, iterations=10)
    plan = Mixture(components=4).plan(cost, torch.zeros(1, 1, 1, 1), generators(0), sampling)
    assert plan.actions.item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("deeper", [-2.0, 2.0])
def test_a_mixture_searches_around_every_guess(deeper: float) -> None:
    """Valleys around both guesses, too far apart for one Gaussian; the deeper one wins, whichever guess it is."""

    def cost(candidates: Tensor) -> Tensor:
        x = candidates[..., 0, 0]
        return torch.minimum((x - deeper).square(), (x + deeper).square() + 0.01)

    sampling = Sampling(samples=64, elites=8, iterations=6, initial_std=0.1)
    guesses = torch.tensor([-1.8, 1.8]).view(1, 2, 1, 1)
    plan = Mixture(components=2).plan(cost, guesses, generators(0), sampling)
    assert plan.actions.item() == pytest.approx(deeper, abs=0.05)


@pytest.mark.parametrize(("wide_std", "found"), [(0.0, 3.0), (1.0, -1.0)])
def test_a_wide_component_looks_far_from_a_good_guess(wide_std: float, found: float) -> None:
    """A valley at the guess, 3, and a deeper one at -1, which only a search around doing nothing comes upon."""

    def cost(candidates: Tensor) -> Tensor:
        x = candidates[..., 0, 0]
        return torch.minimum((x + 1).square(), (x - 3).square() + 0.01)

    sampling = Sampling(samples=64, elites=8, iterations=6, initial_std=0.1)
    search = Mixture(components=2, wide_std=wide_std)
    plan = search.plan(cost, torch.full((1, 1, 1, 1), 3.0), generators(0), sampling)
    assert plan.actions.item() == pytest.approx(found, abs=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlannerConfig(CEM(), samples=20, elites=30), r"elites \(30\) must be at most samples \(20\)"),
        (lambda: PlannerConfig(ICEM(), samples=20, elites=11), r"elites \(11\) must be .* half the samples \(20\)"),
        (lambda: PlannerConfig(Mixture(), samples=20, elites=4), r"elites \(4\) must be .* 4 components"),
        (lambda: Sampling(samples=0, elites=2, iterations=1), "samples must be at least 1, got 0"),
        (lambda: Mixture(components=0), "components must be at least 1, got 0"),
        (lambda: Mixture(wide_std=-1), "wide_std must not be negative, got -1"),
        (lambda: Mixture(stop_std=-1), "stop_std must not be negative, got -1"),
        (lambda: MPPI(temperature=0), "temperature must be positive, got 0"),
        (lambda: Gradient(learning_rate=0), "learning_rate must be positive, got 0"),
        (lambda: PlannerConfig("cme"), r"search must be a search .* such as CEM\(\) or MPPI.* got 'cme'"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("search", [CEM(0.1), ICEM(), MPPI(0.1), Gradient(0.3), Mixture(0.1, components=2)])
def test_an_agent_keeps_a_search_with_its_settings_and_acts_with_it(tiny_config: AgentConfig, search: Search) -> None:
    planner = dataclasses.replace(tiny_config.planner, search=search, elites=4, execute=1)
    frames = np.random.default_rng(0).integers(0, 255, (2, 12, 16, 16, 3), dtype=np.uint8)
    actions = []
    for _ in range(2):
        agent = LeWMAgent("two_room", tiny_config).set_planner(planner)
        actions.append([agent.act(frame, frames[1, 0]) for frame in frames[0]])
    np.testing.assert_array_equal(*actions)
    assert np.isfinite(actions[0]).all()
    assert len(np.unique(actions[0], axis=0)) > 6
    values = json.loads(json.dumps(agent.config.to_dict()))
    assert values["planner"]["search"]["kind"] == search.kind and AgentConfig.from_dict(values) == agent.config


def test_settings_of_a_search_are_those_of_that_search_alone(tiny_config: AgentConfig) -> None:
    colder = configured(configured(tiny_config, {"planner.search": "mppi"}), {"temperature": 0.1})
    assert colder.planner.search == MPPI(0.1) == configured(tiny_config, {"search": MPPI(0.1)}).planner.search
    for name in ("planner.search.components", "components", "planner.search.kind.x", "planner.components"):
        with pytest.raises(ValueError, match=f"there is no setting {name}"):
            configured(colder, {name: 3})
    values = colder.to_dict()
    for search, sentence in (
        ({"kind": "mppi", "components": 4}, "search `mppi` has no setting components; it has temperature"),
        ({"kind": "icem", "stop_std": 0.1}, "search `icem` has no setting stop_std; it has none"),
        ({"kind": "mppl"}, "no search `mppl` .* did you mean `mppi`"),
        ({"temperature": 0.1}, "search must be an object of settings with its name under `kind`"),
        (3, "search must be an object of settings with its name under `kind`, got 3"),
    ):
        with pytest.raises(ValueError, match=sentence):
            AgentConfig.from_dict({**values, "planner": {**values["planner"], "search": search}})


@dataclasses.dataclass(frozen=True)
class Guess(Search):
    """Does what it began with."""

    doubt: float = 0.5

    def plan(
        self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator], sampling: Sampling
    ) -> Plan:
        return Plan(guesses[:, 0], cost(guesses)[:, 0])


def test_a_registered_search_is_one_like_the_others(
    tiny_config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="Guess belongs to no registered search"):
        LeWMAgent("two_room", tiny_config, search=Guess()).save_pretrained(tmp_path)
    monkeypatch.setattr(searches, "_searches", dict(Search.kinds()))
    searches.register("guess", Guess)
    agent = LeWMAgent("two_room", tiny_config, search=Guess(0.1))
    again = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path), device="cpu")
    assert again.config.planner.search == Guess(0.1)
    assert {"search guess", "doubt 0.1"} <= set(planner_name(again.planner_settings).split(", "))


def test_goal_costs() -> None:
    latents = torch.tensor([[[[3.0], [1.0], [2.0]]]])
    goal = torch.zeros(1, 1)
    assert goal_cost(latents, goal, "terminal").item() == 4
    assert goal_cost(latents, goal, "sum").item() == 14
    assert goal_cost(latents, goal, "best").item() == pytest.approx(1, abs=0.01)
