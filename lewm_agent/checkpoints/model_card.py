"""``README.md`` of a checkpoint: what the model is, how to use it, how it was trained, and what was measured of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from lewm_agent.checkpoints.checkpoint import Description
from lewm_agent.planning.presets import planner_name
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.tools.settings import settings_to_dict

Result = dict[str, Any]
"""One JSON of ``eval/success_rate.py`` (docs/reference/results-schema.md)."""


_TITLES = {
    "tdmpc2": "TD-MPC2",
    "dreamer": "DreamerV3",
    "sac_her": "SAC + HER",
    "sac_her_pixels": "SAC + HER on pixels",
    "lewm": "LeWM",
    "slow": "Moments",
}
"""Of agents whose name is no abbreviation; `slow` is the objective of an encoder of moments."""


def agent_title(kind: str) -> str:
    """Name of a kind of agent for people."""
    return _TITLES.get(kind, kind.upper().replace("_", "-"))


def search_summary(planner: PlannerConfig) -> str:
    """One line on how a planner searches, which begins with the name of its preset."""
    search = f"{planner.search.kind} with {planner.samples} samples x {planner.iterations}"
    how = {
        "none": search,
        "refine": f"proposals of the inverse-dynamics head, then {search}",
        "follow": "proposals of the inverse-dynamics head, without a search",
        "approach": f"proposals of the inverse-dynamics head while the goal is far, then {search}",
    }
    return f"{planner_name(settings_to_dict(planner))}: {how[planner.proposals]}, {planner.horizon} blocks ahead"


def read_results(files: Sequence[str | Path], weights_sha256: str) -> list[Result]:
    """Results to be shown on the card of a model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a result, or one that was measured with other weights.
    """
    results = []
    for file in files:
        try:
            result = json.loads(Path(file).read_text())
            measured = result["model"]["weights_sha256"]
            _evaluation(result), _results_section([result])  # has all that the card shows
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} is not a result of eval/success_rate.py ({error!r})") from error
        if measured != weights_sha256:
            raise ValueError(
                f"{file} was measured with other weights (SHA-256 {measured[:8]}..., not {weights_sha256[:8]}...)"
            )
        results.append(result)
    return results


@dataclass(frozen=True)
class About:
    """What a card says of a kind of agent.

    Attributes:
        sentence: What it is.
        load: Python that binds ``agent``.
        traits: Properties and their values.
    """

    sentence: str
    load: str
    traits: dict[str, str]


def model_card(description: Description, about: About, results: Sequence[Result] = ()) -> str:
    """The text of the card; its head is what the Hugging Face Hub reads."""
    model = description.agent.model
    name = _cell(description.environment or "an unregistered environment")
    title = f"{agent_title(description.agent_kind)} agent"
    head = ModelCardData(
        library_name="lewm-agent",
        license="mit",
        tags=["world-model", "reinforcement-learning", "gymnasium", description.agent_kind],
        model_name=f"{title} for {name}",
        eval_results=[_evaluation(result) for result in results] or None,
    )
    record = {**about.traits, **description.origin}
    rows = "\n".join(f"| {_cell(key.replace('_', ' '))} | {_cell(value)} |" for key, value in record.items())
    return f"""---
{head.to_yaml().rstrip()}
---

# {title} for `{name}`

{about.sentence}

```python
{about.load}
action = agent.act(frame, goal_frame)  # uint8 RGB, {model.image_size} x {model.image_size}
```

| | |
|---|---|
| frames | {model.image_size} x {model.image_size} RGB, {model.history} at most, {model.frame_skip} steps apart |
{rows}
{_results_section(results)}"""


def _cell(value: object) -> str:
    """A value that stays in its cell of a table."""
    return " ".join(str(value).replace("|", "\\|").replace("`", "'").split())


def _fenced(text: str) -> str:
    """A code block that its text does not end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _evaluation(result: Result) -> EvalResult:
    return EvalResult(
        task_type="reinforcement-learning",
        dataset_type=f"{result['env']}-{result['protocol']}",
        dataset_name=f"{result['env']}, protocol {result['protocol']}, {result['episodes']} pairs",
        metric_type="success_rate",
        metric_name="success rate, percent",
        metric_value=result["success_rate"],
    )


def _results_section(results: Sequence[Result]) -> str:
    if not results:
        return ""
    rows = "\n".join(_result_row(result) for result in results)
    commands = "\n".join(result["command"] for result in results)
    return f"""
## Results

Percent of held-out pairs of start and goal that are solved, with Wilson's 95 % interval, and floors on the same pairs.

| protocol | pairs | success | floors | planner |
|---|---|---|---|---|
{rows}

{_fenced(commands)}
"""


def _result_row(result: Result) -> str:
    low, high = result["success_rate_ci95"]
    floors = ", ".join(
        f"{name.replace('_', ' ')} {floor['success_rate']:.1f}" for name, floor in result["floors"].items()
    )
    planner = result["planner"]
    search = planner_name(planner) if planner else "none"
    success = f"{result['success_rate']:.1f} [{low:.1f}, {high:.1f}]"
    cells = (f"`{_cell(result['protocol'])}`", *map(_cell, (result["episodes"], success, floors, search)))
    return f"| {' | '.join(cells)} |"
