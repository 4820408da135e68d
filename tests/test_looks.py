"""Other light, another camera and clutter: what they do to a picture, in every world, and what they leave alone."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lewm_agent.envs import ENVIRONMENTS
from lewm_agent.envs.factors import BLOT_CONTRAST, LOOKS, Factors, Look
from lewm_agent.envs.lens import in_light, through_camera
from lewm_agent.eval import pairs, success_rate
from lewm_agent.eval.reporting import runs
from lewm_agent.eval.worlds import WORLDS
from lewm_agent.eval.worlds.held_out import in_other_looks
from lewm_agent.eval.worlds.protocols import Protocol, in_looks, kind_and_offset
from lewm_agent.eval.worlds.world import make_environment

SIZE = 64
OTHERS: tuple[Look, ...] = ("light", "camera", "clutter")
Frame = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def worlds() -> dict[str, Any]:
    """One environment of each, at the start of an episode."""
    made = {name: make_environment(world, {"image_size": SIZE}).unwrapped for name, world in ENVIRONMENTS.items()}
    for env in made.values():
        env.reset(seed=3)
    return made


def seen(env: Any, **factors: Any) -> Frame:
    """A picture with some factors, which are the usual ones again afterwards."""
    usual = dataclasses.asdict(env.factors)
    env.set_factors(**factors)
    frame: Frame = env.render()
    env.set_factors(**{name: usual[name] for name in factors})
    return frame


def away(one: Frame, other: Frame) -> npt.NDArray[np.float64]:
    change: npt.NDArray[np.float64] = np.abs(one.astype(np.float64) - other).max(axis=-1)
    return change


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_usual_look_is_that_without_factors(name: str, worlds: dict[str, Any]) -> None:
    frame = worlds[name].render()
    assert away(seen(worlds[name], brightness=1.0, camera_zoom=1.0, clutter=[]), frame).max() == 0


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_light_comes_from_where_it_is_said(name: str, worlds: dict[str, Any]) -> None:
    frame = worlds[name].render().astype(np.float64)
    darker = seen(worlds[name], brightness=0.5)
    np.testing.assert_allclose(darker, 0.5 * frame, atol=0.51)
    sloped = seen(worlds[name], brightness=0.5, light_slope=(0.4, 0.0)).astype(np.float64)
    left, right = (sloped[:, column].sum() / frame[:, column].sum() for column in (0, -1))
    assert (left, right) == (pytest.approx(0.3, abs=0.03), pytest.approx(0.7, abs=0.03))


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("camera", "where"),
    [
        ({"camera_shift": (0.1, 0.0)}, lambda x, y: (x + 0.1, y)),
        ({"camera_shift": (0.0, 0.1)}, lambda x, y: (x, y + 0.1)),
        ({"camera_zoom": 1.25}, lambda x, y: (0.5 + 1.25 * (x - 0.5), 0.5 + 1.25 * (y - 0.5))),
        ({"camera_turn": math.pi / 2}, lambda x, y: (1 - y, x)),
    ],
)
def test_all_worlds_move_in_the_picture_alike(name: str, camera: Any, where: Any, worlds: dict[str, Any]) -> None:
    """A red blot in the background, which is where the usual camera would see it, goes where it should."""
    env = worlds[name]
    for x, y in ((0.3, 0.62), (0.62, 0.7)):
        blot = {"clutter": [(x, y, 0.04, 255, 0, 255)]}
        change = away(seen(env, **camera, **blot), seen(env, **camera))
        rows, columns = np.nonzero(change > 60)
        assert rows.size, "the blot is hidden"
        middle = (np.array([columns.mean(), rows.mean()]) + 0.5) / SIZE
        np.testing.assert_allclose(middle, where(x, y), atol=0.03)


@pytest.mark.parametrize(("name", "color"), [("two_room", "wall"), ("push_t", "agent"), ("reacher", "arm")])
def test_clutter_lies_behind_what_matters(name: str, color: str, worlds: dict[str, Any]) -> None:
    env = worlds[name]
    black, white = ({f"{color}_color": (value,) * 3} for value in (0, 255))
    thing = away(seen(env, **black), seen(env, **white)) > 200
    everywhere = [(x, y, 0.25, 255, 0, 255) for x in (0.25, 0.75) for y in (0.25, 0.75)]
    covered = away(seen(env, clutter=everywhere), env.render())
    assert thing.any() and (covered[thing] < 30).all() and np.median(covered[~thing]) > 100


def test_the_shadow_goes_with_the_light(worlds: dict[str, Any]) -> None:
    frame = worlds["cube"].render()
    assert away(seen(worlds["cube"], light_tilt=(0.4, 0.0)), frame).max() > 20
    with pytest.raises(ValueError, match="light_tilt must be 2 numbers from -1 to 1"):
        worlds["cube"].set_factors(light_tilt=(2.0, 0.0))


def test_a_turn_about_the_middle_and_back() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    once = through_camera(frame, (0.0, 0.0, 1.0, math.pi / 2))
    np.testing.assert_array_equal(once, np.rot90(frame, -1))
    assert in_light(frame, 1.0, (0.0, 0.0)) is frame


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"brightness": 0}, "brightness must be a number from 0.1 to 3"),
        ({"light_slope": (0.1,)}, "light_slope must be 2 numbers from -0.9 to 0.9"),
        ({"camera_shift": (0.7, 0.0)}, "camera_shift must be 2 numbers from -0.5 to 0.5"),
        ({"camera_zoom": 9}, "camera_zoom must be a number from 0.5 to 2"),
        ({"clutter": [(0.1, 0.1)]}, "a blot of clutter must be x, y, half its side, and three of its color"),
        ({"clutter": [(0.1, 0.1, 0.1, 300, 0, 0)]}, "three integers from 0 to 255"),
        ({"clutter": [(0.1, 0.1, 0.1, 0, 0, 0)] * 9}, "clutter must be a list of at most 8 blots"),
    ],
)
def test_looks_outside_their_range_are_refused(factors: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Factors(**factors)


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("look", OTHERS)
def test_shipped_pairs_are_the_moderate_ones_in_another_look(name: str, look: Look, worlds: dict[str, Any]) -> None:
    moderate, varied = pairs.shipped(name, "moderate"), pairs.shipped(name, f"varied-{look}")
    told = json.loads((pairs.FOLDER / "sha256.json").read_text())
    assert varied.sha256() == told[f"{name}-varied-{look}"]
    assert len(varied.pairs) == 200
    again = in_other_looks(moderate.pairs, moderate.environment, look, moderate.seed, moderate.environment_kwargs)
    assert [pair.factors for pair in again] == [pair.factors for pair in varied.pairs]
    for one, other in zip(moderate.pairs, varied.pairs, strict=True):
        np.testing.assert_array_equal(one.state, other.state)
        np.testing.assert_array_equal(one.goal_state, other.goal_state)
    usual = worlds[name].factors
    changed = [usual.changed(pair.factors) for pair in varied.pairs]
    assert all(one != usual for one in changed)
    if look == "clutter":
        colors = np.array([value for field, value in dataclasses.asdict(usual).items() if field.endswith("_color")])
        blots = np.array([blot[3:] for one in changed for blot in one.clutter])
        assert np.linalg.norm(blots[:, None] - colors, axis=-1).min() >= BLOT_CONTRAST


def test_protocols_have_their_names() -> None:
    assert [in_looks("varied", look) for look in LOOKS] == ["varied", "varied-light", "varied-camera", "varied-clutter"]
    assert kind_and_offset("varied-light") == ("varied", 25)
    rules: Protocol = WORLDS["two_room"].protocol("varied-camera")
    assert rules.other_looks == "camera"
    with pytest.raises(ValueError, match="pairs of protocol `strict` look as usual; give --protocol varied"):
        in_looks("strict", "light")
    with pytest.raises(ValueError, match="varied-paint"):
        WORLDS["two_room"].protocol("varied-paint")


def test_an_evaluation_names_the_look(trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--env", "two_room", "--model", str(trained_folder), "--episodes", "2"]
    given += ["--output", str(tmp_path / "a.json")]
    assert success_rate.main([*given, "--protocol", "varied", "--looks", "camera"]) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["protocol"] == "varied-camera"
    assert all(record["factors"]["camera_zoom"] != 1.0 for record in result["records"])
    assert runs.read([tmp_path / "a.json"])[0].result.kind == "varied"
    assert success_rate.main([*given, "--protocol", "varied", "--looks", "night"]) == 2
    assert "night" in capsys.readouterr().err
