"""How far a success rate can be trusted: intervals of one run, of several, and of the difference between two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Of every bootstrap; its random numbers are the same each time."""
BOUNDS = (2.5, 97.5)
"""Percentiles between which 95 % lie."""

Interval = tuple[float, float]


def wilson(successes: int, trials: int) -> Interval:
    """Wilson 95 % interval of a success rate, in percent."""
    interval = _binomial(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def rate(successes: int, trials: int) -> dict[str, Any]:
    """Success rate in percent with its Wilson 95 % interval, rounded to what a result's JSON holds."""
    bounds = [round(bound, 2) for bound in wilson(successes, trials)]
    return {"success_rate": round(100 * successes / trials, 2), "success_rate_ci95": bounds}


def over_runs(rates: Sequence[float]) -> Interval:
    """Bootstrap 95 % interval of the mean over runs: runs are drawn with replacement, the pairs stay as they are."""
    values, rng = np.asarray(rates, float), np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    return _percentiles(means)


def of_mean(runs: Sequence[Sequence[bool]]) -> Interval:
    """95 % interval of the mean success of runs, each with its outcomes pair by pair.

    Wilson's over all pairs does not know that runs differ, and :func:`over_runs` takes each rate for exact: what either
    allows is inside.
    """
    outcomes = [solved for run in runs for solved in run]
    low, high = wilson(sum(outcomes), len(outcomes))
    if len(runs) == 1:
        return low, high
    lowest, highest = over_runs([100 * float(np.mean(run)) for run in runs])
    return min(low, lowest), max(high, highest)


def _binomial(successes: int, trials: int) -> Any:
    from scipy.stats import binomtest  # a second to import, which whoever acts does without

    return binomtest(successes, trials)


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same pairs.

    Attributes:
        both: Pairs that both solved.
        only_first: Pairs that only the first solved.
        only_second: Pairs that only the second solved.
        neither: Pairs that none solved.
        difference: First minus second success rate, in points.
        interval: Bootstrap 95 % interval of the difference: pairs are drawn with replacement.
        p_value: Exact McNemar test, two-sided: how often a fair coin, thrown for every pair that only one of them
            solved, gives a split at least this uneven.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float
    interval: Interval
    p_value: float


def compare(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """Compare the outcomes of two runs, pair by pair. Raises ``ValueError`` if they are not equally many."""
    outcomes = list(zip(first, second, strict=True))
    both, only_first, only_second = (outcomes.count(kind) for kind in ((True, True), (True, False), (False, True)))
    count, apart = len(outcomes), only_first + only_second
    return Comparison(
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=count - both - apart,
        difference=100 * (only_first - only_second) / count,
        interval=_paired_bootstrap(only_first, only_second, count),
        p_value=float(_binomial(only_first, apart).pvalue) if apart else 1.0,
    )


def _paired_bootstrap(only_first: int, only_second: int, count: int) -> Interval:
    """Drawing pairs with replacement draws the counts of the three kinds of pairs from a multinomial distribution."""
    kinds = np.array([only_first, only_second, count - only_first - only_second])
    drawn = np.random.default_rng(0).multinomial(count, kinds / count, size=RESAMPLES)
    return _percentiles(100 * (drawn[:, 0] - drawn[:, 1]) / count)


def _percentiles(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, BOUNDS)
    return float(low), float(high)
