"""What the figures of a diagnosis say, and what to do: verdicts, advice and the page."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lewm_agent.tools.replacing import write_atomically

TEMPLATE = "diagnosis.html.jinja"


class Verdict(Enum):
    """Of one figure."""

    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    UNKNOWN = "cannot be told"


@dataclass(frozen=True)
class Line:
    """A figure as it is shown.

    Attributes:
        name: what it is.
        value: the number that was judged; None where the data tell none.
        measured: it and its company.
        verdict: what it is worth.
        advice: a sentence of what that means, and of what to do.
    """

    name: str
    value: float | None
    measured: str
    verdict: Verdict
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**dataclasses.asdict(self), "verdict": self.verdict.value}


@dataclass(frozen=True)
class Rule:
    """How a figure is judged.

    Attributes:
        name: what it is.
        good: up to where it is good, or, if it is larger than ``poor``, from where.
        poor: from where it is poor, or up to where.
        fine: said of a good one.
        advice: said of others.
        absent: said where there is none.
    """

    name: str
    good: float
    poor: float
    fine: str
    advice: str
    absent: str = "Nothing changes in these episodes, or nothing that the latents show: see what the pictures show."

    def verdict(self, value: float) -> Verdict:
        """Of a number."""
        sign = 1 if self.good < self.poor else -1
        if sign * value <= sign * self.good:
            return Verdict.GOOD
        return Verdict.POOR if sign * value >= sign * self.poor else Verdict.FAIR


# Good is what the bundled models of Two-Room and Reacher reach, which solve 97 % and more, with a margin; earlier
# models of Push-T and Cube, which did not, set no bar (docs/guide/measuring.md has the numbers of all four). Poor is
# where a figure says next to nothing: an error near that of standing still, an order near that of chance, collapsed
# latents.
RULES = {
    "one_block": Rule(
        "error after one block, of that of standing still",
        0.06,
        0.5,
        "It foretells the next frame as well as the models that succeed.",
        "It knows the next frame less well than the models that succeed: train longer or on more episodes; if what "
        "moves is small, with larger frames or the preset fine.",
    ),
    "open_loop": Rule(
        "error after 1 to 5 blocks, of the latents' variance",
        0.1,
        0.5,
        "A plan's end is imagined nearly as it comes.",
        "A plan's end is imagined wrongly: train longer or on more episodes, slow the motion between two frames down "
        "(smaller actions, a smaller frame skip), or plan fewer blocks ahead.",
    ),
    "actions": Rule(
        "error with other actions than those taken",
        10.0,
        2.0,
        "What it imagines depends on the actions.",
        "Actions change little of what it imagines, so a search has little to choose from: collect with a behavior "
        "that varies (random, or an expert with noise), and see that actions move what the pictures show.",
    ),
    "near": Rule(
        "latent distance in the order of the steps, within 5 blocks",
        0.4,
        0.1,
        "Near a goal, distance tells how far it is.",
        "Near a goal, distance hardly tells how far it is: raise objective.straightening_weight, and see whether the "
        "pictures show what changes. Data that go to and fro lower this figure too.",
        "The episodes are too short to tell; record longer ones.",
    ),
    "far": Rule(
        "the same, within 20 blocks",
        0.45,
        0.2,
        "Distance also leads towards far goals.",
        "Distance does not lead towards far goals: raise objective.straightening_weight, plan with the preset slow, "
        "or give goals on the way. Data that go to and fro lower this figure too.",
        "The episodes are too short to tell; record longer ones.",
    ),
    "rank": Rule(
        "effective rank of the latents",
        6.0,
        2.0,
        "Latents use many directions.",
        "Latents use few directions: if more than that moves in the pictures, raise objective.sigreg_weight or train "
        "longer; below 2 they have collapsed.",
    ),
    "goals": Rule(
        "far goals' distance from what the data show",
        1.25,
        3.0,
        "The data show what the goals show.",
        "Some goals are farther from all that the data show than nearly all frames of unseen episodes are, or by more "
        "than a block, where nothing imagined is to be relied on: collect episodes that come there (another behavior, "
        "other starts, longer ones), or give goals on the way.",
    ),
}


def judge(figure: str, value: float | None, measured: str, *, most: float | None = None) -> Line:
    """The line of a figure, by its name among ``RULES``.

    Args:
        figure: its name.
        value: what is judged.
        measured: it and its company.
        most: what a good value is not above either, in these data.
    """
    rule = RULES[figure]
    if value is None:
        return Line(rule.name, None, measured, Verdict.UNKNOWN, rule.absent)
    verdict = rule.verdict(value)
    if verdict is Verdict.GOOD and most is not None and value > most:
        verdict = Verdict.FAIR
    return Line(rule.name, round(value, 4), measured, verdict, rule.fine if verdict is Verdict.GOOD else rule.advice)


def write_page(path: Path, result: dict[str, Any]) -> None:
    """Write the table of a result, with its errors drawn, as one HTML file."""
    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, made.get_template(TEMPLATE).render(result=result))
