"""The page of results: its figures, its links, what it refuses, and that it is replaced whole or not at all."""

from __future__ import annotations

import base64
import copy
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lewm_agent.eval import report, success_rate
from lewm_agent.eval.worlds.protocols import PROTOCOL_NAMES
from lewm_agent.evaluation.intervals import rate
from lewm_agent.evaluation.rollouts import Look, Plan, Rollout, Strip
from lewm_agent.planning.presets import PLANNERS
from lewm_agent.tools.settings import settings_to_dict

VOID = {"meta", "line", "circle", "polygon", "polyline", "img", "br", "input"}


class Page(HTMLParser):
    """Attributes by tag, and all text; fails on tags that are not closed in order."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed((folder / "index.html").read_text())
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += " ".join(["", *data.split()])

    def all(self, tag: str, attribute: str) -> list[str]:
        return [str(attributes[attribute]) for name, attributes in self.tags if name == tag and attribute in attributes]


def record(step: int | None, distance: float = 1.0, rollout: str | None = None) -> dict[str, Any]:
    told = {"first_success_step": step, "least_distance": distance, "latent_distances": [0.5, 0.25]}
    return {"success": step is not None, **told, "rollout": rollout}


def kept(step: int | None, distance: float = 1.0) -> dict[str, Any]:
    """A rollout of six steps, of which the fourth frame is white."""
    frames = np.zeros((7, 8, 8, 3), np.uint8)
    frames[4] = 255
    whole = Rollout(
        frames=Strip.of(frames),
        goal=Strip.of(frames[:1]),
        first_success_step=step,
        distances=[3.0, 3.0, distance, *[2.0] * 4],
        looks=[Look(0, 0.5), Look(5, 0.25)],
        plans=[Plan(0, 2), Plan(5, 1)],
        imagined=Strip.of(frames[:3]),
        drawn_by="a decoder",
        block=5,
    )
    return whole.to_dict()


def with_rollouts(folder: Path, *records: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A result whose records all have rollouts, which are written."""
    values = result([one["first_success_step"] for one in records])
    for pair, one in enumerate(records):
        told = {**kept(one["first_success_step"], one["least_distance"]), **changes}
        (folder / f"pair-{pair}.json").write_text(json.dumps(told))
        values["records"][pair] = {**one, "rollout": f"pair-{pair}.json"}
    return values


def told(page: Page) -> Any:
    """What the page's script is given."""
    return json.loads(page.text[page.text.index('[{"episodes"') : page.text.index('"use strict"')])


def result(steps: list[int | None], **changes: Any) -> dict[str, Any]:
    """What eval/success_rate.py would write for these first success steps."""
    count, solved = len(steps), sum(step is not None for step in steps)
    values: dict[str, Any] = {
        "env": "lewm/TwoRoom-v0",
        "protocol": "strict",
        "episodes": count,
        "seed": 7,
        "planner_seed": 0,
        "pairs_sha256": "ab" * 32,
        "planner": settings_to_dict(PLANNERS["small"]),
        **rate(solved, count),
        "success_at_end": 100.0,
        "start_solved_percent": 0.0,
        "starts": {},
        "floors": {"random": rate(1, count), "replay": rate(count, count)},
        "seconds_per_plan": 0.05,
        "model": {"name": "two_room", "weights_sha256": "cd" * 32, "data": "2000 episodes", "seed": 0},
        "command": "python eval/success_rate.py --env two_room",
        "versions": {"python": "3.11.7"},
        "hardware": {"processor": "some", "device": "cpu", "accelerator": None},
        "records": [record(step) for step in steps],
    }
    return {**values, **changes}


def make(folder: Path, *results: dict[str, Any]) -> Page:
    assert run(folder, *results) == 0
    return Page(folder / "report")


def run(folder: Path, *results: dict[str, Any]) -> int:
    paths = [folder / f"{number}.json" for number in range(len(results))]
    for path, values in zip(paths, results, strict=True):
        path.write_text(json.dumps(values))
    return report.main([*map(str, paths), "--output", str(folder / "report")])


def other_planner(steps: list[int | None], **changes: Any) -> dict[str, Any]:
    return result(steps, **{"planner": settings_to_dict(PLANNERS["paper"]), "seconds_per_plan": 1.7, **changes})


def test_every_link_exists_and_nothing_is_fetched(tmp_path: Path) -> None:
    page = make(tmp_path, with_rollouts(tmp_path, record(3), record(None)), other_planner([3, 4]))
    links = page.all("a", "href")
    assert {link.removeprefix("#") for link in links} <= {str(tag[1].get("id")) for tag in page.tags}
    assert {"#run-1", "#run-2", "#rollouts"} <= set(links)
    assert not {"link", "iframe", "img"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name in ("src", "srcset", "onload")]
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]
    titles = set(page.all("title", "id"))
    assert set(page.all("svg", "aria-labelledby")) == titles == {"curves-1", "times"}


def test_one_run_has_no_section_for_what_it_lacks(tmp_path: Path) -> None:
    links = make(tmp_path, result([3, None])).all("a", "href")
    assert [link for link in links if link != "#run-1"] == ["#success", "#soon", "#behind"]


def test_text_from_a_result_is_escaped(tmp_path: Path) -> None:
    name = "<script>alert('x')</script><img src=x onerror=y>"
    model = {**result([1])["model"], "name": name, "config": {"width": name}}
    page = make(tmp_path, result([1], model=model, command=name, versions={name: name}, floors={name: rate(1, 1)}))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert page.text.count(name) > 5


def test_comparison_counts_and_p_value(tmp_path: Path) -> None:
    """9 pairs only A, 1 only B: two tails of ten throws of a coin, 22 / 1024."""
    steps: list[int | None] = [5] * 10
    a, b = [*steps[:9], None, 5, None], [None] * 9 + [5, 5, None]
    page = make(tmp_path, result(a), other_planner(b))
    assert "A = 1: two_room, planner small, seed 0 B = 2: two_room, planner paper, seed 0 1 9 1 1 +66.7" in page.text
    assert "0.021" in page.text


def test_runs_of_one_agent_or_on_other_pairs_are_not_compared(tmp_path: Path) -> None:
    same_agent, other_pairs = result([1, 2], planner_seed=1), other_planner([1, 2], pairs_sha256="ef" * 32)
    page = make(tmp_path, result([1, None]), same_agent, other_pairs)
    assert "No two runs here have the same pairs" in page.text


def trained(seed: int, **changes: Any) -> dict[str, Any]:
    model = {**result([1])["model"], "name": f"runs/{seed}", "weights_sha256": f"{seed}" * 64, "seed": seed}
    return {**model, **changes}


def test_runs_of_other_planner_seeds_are_averaged(tmp_path: Path) -> None:
    page = make(tmp_path, result([1, 2, 3, None]), result([1, 2, 3, 4], planner_seed=1), other_planner([1, 2, 3, 4]))
    assert "Mean of runs 1, 2" in page.text and "87.5 52.9 to 100.0" in page.text  # Wilson of 7 of 8; both rates
    assert page.text.count("Mean of runs ") == 2  # the row and the explanation


@pytest.mark.parametrize(
    ("first", "second", "averaged"),
    [
        ({"config": {"width": 1}}, {"config": {"width": 1}}, True),
        ({"config": {"width": 1}}, {"config": {"width": 2}}, False),
        ({"config": {"width": 1}}, {"config": {"width": 1}, "steps": 9}, False),
        ({}, {}, False),
    ],
)
def test_other_weights_are_averaged_only_when_known_to_be_of_one_recipe(
    first: dict[str, Any], second: dict[str, Any], averaged: bool, tmp_path: Path
) -> None:
    page = make(tmp_path, result([1], model=trained(0, **first)), result([None], model=trained(1, **second)))
    assert ("Mean of runs 1, 2" in page.text) == averaged


def rises_of(line: str, budget: int) -> dict[int, float]:
    """Height of a curve above its beginning at every step."""
    corners = [tuple(map(float, corner.split(","))) for corner in line.split()]
    left, right, bottom = corners[0][0], corners[-1][0], corners[0][1]
    return {round(budget * (x - left) / (right - left)): bottom - y for x, y in corners}


def test_curves_rise_where_pairs_are_solved(tmp_path: Path) -> None:
    make(tmp_path, result([10, 10, 25, None]))
    page = Page(tmp_path / "report")
    rises = rises_of(page.all("polyline", "points")[0], 50)
    per_pair = rises[50] / 3
    assert [round(rises[step] / per_pair) for step in (0, 9, 10, 24, 25, 50)] == [0, 0, 2, 2, 3, 3]
    assert "run 1, 75.0 %" in page.text


def test_a_result_tells_how_many_steps_there_were_and_an_old_one_had_50(tmp_path: Path) -> None:
    far = result([30, 150, None], protocol="far", budget=150)
    page = make(tmp_path, result([10]), far)
    assert "The agent has 50 steps." in page.text and "The agent has 150 steps." in page.text
    assert "After 150 steps: run 2" in page.text
    rises = rises_of(page.all("polyline", "points")[1], 150)
    assert [round(2 * rises[step] / rises[150]) for step in (0, 29, 30, 149, 150)] == [0, 0, 1, 1, 2]
    assert "0 10 20 30 40 50 step" in page.text and "0 30 60 90 120 150 step" in page.text


@pytest.mark.parametrize("name", [*PROTOCOL_NAMES, "moderate-75"])
def test_every_protocol_is_explained(name: str, tmp_path: Path) -> None:
    assert f"Protocol {name}: " in make(tmp_path, result([1], protocol=name)).text


def test_offsets_are_apart_in_order_and_told(tmp_path: Path) -> None:
    farther = [result([1], protocol=f"moderate-{offset}", pairs_sha256=str(offset)) for offset in (100, 50)]
    page = make(tmp_path, *farther, result([1], protocol="moderate")).text
    places = [page.index(f"protocol {name}: 1 pair") for name in ("moderate", "moderate-50", "moderate-100")]
    assert places == sorted(places)
    assert "first action; the goal is 50 steps after the start." in page


def test_kinds_of_starts_and_differing_floors_have_rows(tmp_path: Path) -> None:
    starts = {"starts_at_the_cube": {"pairs": 2, **rate(1, 2)}}
    page = make(tmp_path, result([1, 2], starts=starts), other_planner([1, 2], floors={"random": rate(2, 2)}))
    assert "Starts at the cube 2 of the pairs 50.0 9.4 to 90.5" in page.text
    assert "Random beside run 1 50.0" in page.text and "Random beside run 2 100.0" in page.text


def test_planner_is_named_by_its_preset_and_what_differs(tmp_path: Path) -> None:
    changed = {**settings_to_dict(PLANNERS["paper"]), "samples": 100}
    assert "planner paper, samples 100, seed 0" in make(tmp_path, result([1], planner=changed)).text


def test_nearest_failures_come_first_and_say_what_became_of_them(tmp_path: Path) -> None:
    records = [record(4, 0.5), record(None, 1.5), record(None, 1.0), record(2, 0.1)]
    page = make(tmp_path, with_rollouts(tmp_path, *records))
    (run_told,) = told(page)
    assert [one["pair"] for one in run_told["episodes"]] == [2, 1, 0, 3]
    assert run_told["level"] == 0.25  # of the solved pairs
    assert "Pair 2 not solved least distance 1" in page.text
    assert "Pair 3 solved at step 2 least distance 0.1" in page.text
    assert page.all("input", "aria-label") == ["Step of the episode"] and "canvas" in {tag for tag, _ in page.tags}


def test_a_strip_holds_its_frames_in_order() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (7, 1, 1, 3), np.uint8).repeat(16, 1).repeat(24, 2)
    strip = Strip.of(frames)
    assert (strip.width, strip.height, strip.columns, strip.count) == (24, 16, 3, 7)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.image))))
    for number, frame in enumerate(frames):
        top, left = 16 * (number // 3), 24 * (number % 3)
        seen = sheet[top + 4 : top + 12, left + 4 : left + 20].mean(axis=(0, 1))
        np.testing.assert_allclose(seen, frame[0, 0], atol=12)  # WebP is lossy


def test_a_new_page_replaces_the_old_one_only(tmp_path: Path) -> None:
    make(tmp_path, result([1]))
    (tmp_path / "report" / "notes.txt").write_text("mine")
    make(tmp_path, result([1, 2]))
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"index.html", "notes.txt"}


def test_an_interruption_leaves_the_old_page_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make(tmp_path, result([1]))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write_atomically", interrupt)
    assert run(tmp_path, result([1, 2])) == 130
    assert Page(tmp_path / "report").tags == before.tags


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"looks": [{"step": 0, "distance": 0.4}]}, "is of another run than"),
        ({"first_success_step": 3}, "is of another run than"),
        ({"distances": [1.0] * 6}, "7 frames, but 6 distances"),
        ({"plans": [{"step": 0, "frames": 2}]}, "plans and imagined frames do not fit"),
        ({"plans": [{"step": 9, "frames": 3}]}, "steps are not in order"),
        ({"block": 0}, "a block has no steps"),
        ({"goal": {**kept(None)["goal"], "image": "bm9uZQ=="}}, "a picture is not WebP in base64"),
        ({"goal": {**kept(None)["goal"], "width": 9}}, "a picture has not the size of its frames"),
        ({"more": 1}, "more"),
    ],
)
def test_a_rollout_that_is_none_or_of_another_run_is_refused(
    change: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, with_rollouts(tmp_path, record(None), **change)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def with_rollout(name: str) -> dict[str, Any]:
    values = result([None])
    values["records"][0]["rollout"] = name
    return values


def without(*keys: str) -> dict[str, Any]:
    values = copy.deepcopy(result([1]))
    part: Any = values
    for key in keys[:-1]:
        part = part[key]
    del part[keys[-1]]
    return values


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ([[1, 2]], "0.json is not a result of eval/success_rate.py: it is a list"),
        ([without("pairs_sha256")], "the key `pairs_sha256` is missing"),
        ([without("model", "weights_sha256")], "the key `model.weights_sha256` is missing"),
        ([without("floors", "replay", "success_rate")], "the key `floors.success_rate` is missing"),
        ([result([1], seed="x")], "the key `seed` holds 'x'"),
        ([result([1], success_rate_ci95=[1.0])], "the key `success_rate_ci95` holds '(1.0,)'"),
        ([result([1], success_rate_ci95=5)], "an interval is not two numbers"),
        ([result([1], success_rate=50.0)], "success_rate is 50.0, but 1 of 1 records are solved"),
        ([result([1], records=[])], "the key `records` is empty"),
        ([result([1], records=[{**record(1), "first_success_step": None}])], "success without a first_success_step"),
        ([result([1], protocol="loose")], "holds 'loose', not one of paper, moderate, strict, varied, far"),
        ([result([1], budget=0)], "the key `budget` holds 0"),
        ([result([1], seconds_per_plan=0.0)], "seconds_per_plan is 0.0"),
        ([result([1]), result([1], seconds_per_plan=0.1)], "1.json are the same run"),
        ([with_rollout("gone.json")], "names a rollout of pair 0 that is not there"),
        ([with_rollout("0.json")], "names a rollout of pair 0 that is none"),
    ],
)
def test_bad_results_are_refused_in_one_sentence(
    results: list[Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *results) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.json").write_text("success: 100 %")
    for arguments, sentence in {
        (str(tmp_path / "gone.json"),): "there is no file",
        (str(tmp_path / "text.json"),): "is not JSON",
        (): "give at least one JSON file",
    }.items():
        assert report.main([*arguments, "--output", str(tmp_path / "report")]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_an_evaluation_as_it_is_written_makes_a_page(trained_folder: Path, tmp_path: Path) -> None:
    output, gifs = tmp_path / "out.json", tmp_path / "gifs"
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--episodes", "3", "--output", str(output)]
    assert success_rate.main([*arguments, "--seed", "3", "--video", str(gifs), "--videos", "1"]) == 0
    assert report.main([str(output), "--output", str(tmp_path / "report")]) == 0
    ((episode,),) = [one["episodes"] for one in told(Page(tmp_path / "report"))]
    assert episode["frames"]["count"] == len(episode["distances"]) == 51 and not episode["fault"]
    assert [look["step"] for look in episode["looks"]] == list(range(0, 50, 5))
    assert [plan["step"] for plan in episode["plans"]] == list(range(0, 50, 10))  # two blocks are executed of each
