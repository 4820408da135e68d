"""Intervals and tests against published figures and independent formulas."""

from __future__ import annotations

import numpy as np
import pytest

from lewm_agent.evaluation.intervals import compare, of_mean, over_runs, rate, wilson


def outcomes(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    kinds = [(True, True)] * both + [(True, False)] * only_first + [(False, True)] * only_second
    kinds += [(False, False)] * neither
    return [first for first, _ in kinds], [second for _, second in kinds]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilson_interval_is_the_published_one(successes: int, trials: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson(successes, trials) == pytest.approx((low, high), abs=0.005)


def test_rate_is_rounded_for_the_json() -> None:
    assert rate(2, 3) == {"success_rate": 66.67, "success_rate_ci95": [20.77, 93.85]}


def test_mcnemar_is_the_tail_of_a_fair_coin() -> None:
    result = compare(*outcomes(30, 1, 9, 10))
    assert (result.both, result.only_first, result.only_second, result.neither) == (30, 1, 9, 10)
    assert result.p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert result.difference == pytest.approx(-16)


def test_equal_outcomes_are_no_evidence() -> None:
    result = compare(*outcomes(5, 0, 0, 5))
    assert (result.difference, result.interval, result.p_value) == (0, (0, 0), 1)


def test_exchanging_the_runs_turns_the_comparison_round() -> None:
    first, second = outcomes(20, 12, 3, 15)
    one, other = compare(first, second), compare(second, first)
    assert one.difference == -other.difference and one.p_value == other.p_value
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]), abs=2)


def test_paired_bootstrap_agrees_with_the_normal_approximation() -> None:
    """Wald's interval of a paired difference, good for many pairs."""
    count, only_first, only_second = 2000, 300, 200
    deviation = 100 * np.sqrt(only_first + only_second - (only_first - only_second) ** 2 / count) / count
    result = compare(*outcomes(1000, only_first, only_second, 500))
    assert result.interval == pytest.approx((5 - 1.96 * deviation, 5 + 1.96 * deviation), abs=0.15)


def test_pairing_matters() -> None:
    """The same two rates, 60 and 50 %: sure when the outcomes agree elsewhere, open when they do not."""
    agreeing, disagreeing = compare(*outcomes(50, 10, 0, 40)), compare(*outcomes(30, 30, 20, 20))
    assert agreeing.difference == disagreeing.difference == 10
    assert agreeing.p_value < 0.01 < 0.05 < disagreeing.p_value
    assert disagreeing.interval[0] < 0 < agreeing.interval[0]


def test_outcomes_of_different_pairs_are_not_compared() -> None:
    with pytest.raises(ValueError):
        compare([True, False], [True])


def test_two_runs_bound_their_own_interval() -> None:
    assert over_runs([90, 100]) == (90, 100)
    assert over_runs([75, 75, 75]) == (75, 75)


def test_the_mean_of_runs_is_as_uncertain_as_pairs_and_runs_make_it() -> None:
    some, all_of_them = [True] * 45 + [False] * 5, [True] * 50
    assert of_mean([some]) == wilson(45, 50)
    assert of_mean([some, some]) == wilson(90, 100)
    assert of_mean([some, all_of_them]) == (wilson(95, 100)[0], 100)
    assert of_mean([some, [False] * 50]) == (0, 90)


def test_bootstrap_over_many_runs_agrees_with_the_normal_approximation() -> None:
    rates = np.random.default_rng(1).normal(80, 5, size=200)
    error = 1.96 * rates.std() / np.sqrt(len(rates))
    assert over_runs(list(rates)) == pytest.approx((rates.mean() - error, rates.mean() + error), abs=0.1)
