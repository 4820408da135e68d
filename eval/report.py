"""One page that shows what evaluations found, how sure it is, and what happened on the failures.

python eval/report.py runs/*.json --output report/
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lewm_agent.eval import command
from lewm_agent.eval.options import Report as Options
from lewm_agent.eval.reporting.rollouts import Shown, for_page, shown
from lewm_agent.eval.reporting.runs import Rate, Run, read
from lewm_agent.evaluation.intervals import Comparison, Interval, compare, of_mean, wilson
from lewm_agent.tools.command import say
from lewm_agent.tools.outputs import reserved
from lewm_agent.tools.replacing import write_atomically

PAGE = "index.html"
MINUS = "\N{MINUS SIGN}"
TEMPLATE = "report.html.jinja"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 300, 46, 20, 14, 46
"""Of a plot and the margins around its axes, in its own units."""


@dataclass(frozen=True)
class Row:
    """A line of the table of successes.

    Attributes:
        kind: run, mean, starts or floor.
        name: of what was measured.
        note: what sets it apart from the others.
        rate: success.
        at_end: percent that still meet the test at the last step.
        at_start: percent that meet it before the first action.
        seconds: per plan.
        number: of the run, if it is one.
    """

    kind: str
    name: str
    note: str
    rate: Rate
    at_end: float | None = None
    at_start: float | None = None
    seconds: float | None = None
    number: int | None = None


@dataclass(frozen=True)
class Group:
    """Runs on the same pairs: their rows of the table, and comparisons of those with another model or planner."""

    runs: list[Run]
    rows: list[Row]
    comparisons: list[tuple[Run, Run, Comparison]]


@dataclass(frozen=True)
class Curve:
    """A run in a plot over time: corners of its line and of the band around it, as SVG writes them."""

    run: Run
    line: str
    band: str


@dataclass(frozen=True)
class Plot:
    """All runs of one world and protocol over time.

    Attributes:
        budget: environment steps from left to right.
        ticks: places and numbers of steps below it.
        curves: one for each run.
    """

    budget: int
    ticks: list[tuple[float, str]]
    curves: list[Curve]


@dataclass(frozen=True)
class Point:
    """A run in a plot over planning time: its place, the ends of its interval and the height of its name."""

    run: Run
    x: float
    y: float
    low: float
    high: float
    name: float


def main(arguments: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, continues="a page that was there is as it was", prog=prog)


def _work(options: Options) -> None:
    runs = read(options.results)
    with reserved(options.output / PAGE):
        write(options.output, runs)
    say(f"{len(runs)} runs in {options.output / PAGE}")


# --- tables ----------------------------------------------------------------------------------------------------------


def _groups(runs: list[Run]) -> list[Group]:
    together = [list(group) for _, group in itertools.groupby(runs, key=lambda run: run.pairs)]
    return [Group(group, _rows(group), _comparisons(group)) for group in together]


def _comparisons(runs: list[Run]) -> list[tuple[Run, Run, Comparison]]:
    return [
        (first, second, compare(first.outcomes, second.outcomes))
        for first, second in itertools.combinations(runs, 2)
        if first.agent != second.agent
    ]


def _rows(runs: list[Run]) -> list[Row]:
    return [*itertools.chain.from_iterable(map(_run_rows, runs)), *_means(runs), *_floors(runs)]


def _run_rows(run: Run) -> list[Row]:
    result, model = run.result, run.result.model
    training = "" if model.seed is None else f"training seed {model.seed}, "
    note = f"planner {run.planner}, seed {result.planner_seed}; {training}weights {model.weights_sha256[:8]}"
    whole = Row(
        "run",
        model.name,
        note,
        result,
        result.success_at_end,
        result.start_solved_percent,
        result.seconds_per_plan,
        run.number,
    )
    kinds = [Row("starts", _words(name), f"{kind.pairs} of the pairs", kind) for name, kind in result.starts.items()]
    return [whole, *kinds]


def _means(runs: list[Run]) -> list[Row]:
    """One row for all runs that differ in their seeds only."""
    recipes: dict[Hashable, list[Run]] = {}
    for run in runs:
        recipes.setdefault(run.recipe, []).append(run)
    return [_mean_row(members) for members in recipes.values() if len(members) > 1]


def _mean_row(runs: list[Run]) -> Row:
    results, count = [run.result for run in runs], len(runs)
    rates, interval = [result.success_rate for result in results], of_mean([run.outcomes for run in runs])
    return Row(
        "mean",
        f"Mean of runs {', '.join(str(run.number) for run in runs)}",
        f"planner {runs[0].planner}; {count} seeds",
        Rate(sum(rates) / count, interval),
        sum(result.success_at_end for result in results) / count,
        sum(result.start_solved_percent for result in results) / count,
        sum(result.seconds_per_plan for result in results) / count,
    )


def _floors(runs: list[Run]) -> list[Row]:
    """Once each; runs whose floors differ, as they can between versions, are named."""
    found: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        for name, floor in run.result.floors.items():
            found.setdefault((name, floor.success_rate), []).append(run)
    variants = Counter(name for name, _ in found)
    rows = []
    for (name, _), measured in found.items():
        of_runs = f"beside run {', '.join(str(run.number) for run in measured)}" if variants[name] > 1 else ""
        rows.append(Row("floor", _words(name), of_runs, measured[0].result.floors[name]))
    return rows


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


# --- plots -----------------------------------------------------------------------------------------------------------


def _across(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _up(percent: float) -> float:
    return round(TOP + (1 - percent / 100) * (HEIGHT - TOP - BOTTOM), 1)


def _corners(heights: list[float]) -> list[str]:
    """Of a line that jumps to the height of every step, from none to the last, at that step."""
    places = [(_across(step / (len(heights) - 1)), _up(height)) for step, height in enumerate(heights)]
    jumps = [[(x, before), (x, y)] for (x, y), (_, before) in zip(places[1:], places, strict=False)]
    return [f"{x},{y}" for x, y in [places[0], *itertools.chain.from_iterable(jumps)]]


def _curve(run: Run, budget: int) -> Curve:
    """Share of pairs solved by every step up to the budget, with Wilson intervals."""
    steps = [record.first_success_step for record in run.result.records]
    solved = [sum(step is not None and step <= now for step in steps) for now in range(budget + 1)]
    bounds = [wilson(count, len(steps)) for count in solved]
    line = _corners([100 * count / len(steps) for count in solved])
    band = _corners([high for _, high in bounds]) + _corners([low for low, _ in bounds])[::-1]
    return Curve(run, " ".join(line), " ".join(band))


def _plots(runs: list[Run]) -> list[Plot]:
    """One for all runs of one world and protocol."""
    return [_plot(list(group)) for _, group in itertools.groupby(runs, key=lambda run: run.pairs[:2])]


def _plot(runs: list[Run]) -> Plot:
    budget = max(run.result.budget for run in runs)
    ticks = [(_across(step / budget), str(step)) for step in range(0, budget + 1, max(1, budget // 5))]
    return Plot(budget, ticks, [_curve(run, budget) for run in runs])


def _span(runs: list[Run]) -> tuple[float, float]:
    """Ends of a logarithmic axis with room for every run's seconds per plan."""
    seconds = [run.result.seconds_per_plan for run in runs]
    return min(seconds) / 2, max(seconds) * 2


def _at_time(seconds: float, span: tuple[float, float]) -> float:
    return _across(math.log(seconds / span[0]) / math.log(span[1] / span[0]))


def _points(runs: list[Run]) -> list[Point]:
    """From the fastest to the slowest run; names of neighbours stand at different heights."""
    points: list[Point] = []
    level = 0
    for run in sorted(runs, key=lambda run: run.result.seconds_per_plan):
        low, high = run.result.success_rate_ci95
        x = _at_time(run.result.seconds_per_plan, _span(runs))
        level = (level + 1) % 3 if points and x - points[-1].x < 16 else 0
        name = _up(low) + 15 + 14 * level if low > 30 else _up(high) - 5 - 14 * level
        points.append(Point(run, x, _up(run.result.success_rate), _up(low), _up(high), name))
    return points


def _time_ticks(runs: list[Run]) -> list[tuple[float, str]]:
    """At 1, 2 and 5 times the powers of ten, in milliseconds; powers alone on an axis of more than three."""
    low, high = _span(runs)
    digits = (1, 2, 5) if high < 1000 * low else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    ticks = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
    return [(_at_time(seconds, (low, high)), f"{1000 * seconds:,.10g}") for seconds in ticks]


# --- write -----------------------------------------------------------------------------------------------------------


def write(folder: Path, runs: list[Run]) -> None:
    """Make the page, which holds all that it shows. A page that is there already stays whole until the new one is."""
    page = _page(runs, {run.number: rollouts for run in runs if (rollouts := shown(run))})
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PAGE, page)


def _page(runs: list[Run], rollouts: dict[int, list[Shown]]) -> str:
    loader = FileSystemLoader(Path(__file__).parent / "reporting")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    formats = {"percent": _percent, "points": _points_apart, "interval": _interval}
    environment.filters.update({**formats, "milliseconds": _milliseconds, "p_value": _p_value})
    groups = _groups(runs)
    return environment.get_template(TEMPLATE).render(
        runs=runs,
        groups=groups,
        comparisons=sum(len(group.comparisons) for group in groups),
        plots=_plots(runs),
        points=_points(runs),
        percent_ticks=[(_up(percent), percent) for percent in (0, 25, 50, 75, 100)],
        time_ticks=_time_ticks(runs),
        rollouts=rollouts,
        told=[for_page(run, rollouts[run.number]) for run in runs if run.number in rollouts],
        box=(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
    )


def _percent(value: float) -> str:
    return f"{value:.1f}"


def _points_apart(value: float) -> str:
    return f"{value:+.1f}".replace("-", MINUS) if value else "0.0"


def _interval(bounds: Interval) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}".replace("-", MINUS)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.01 else f"{1000 * seconds:.1f}"


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "under 0.001"


if __name__ == "__main__":
    sys.exit(main())
