"""Who learns in an environment says in one sentence what it lacks: rewards, a picture of the goal, an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

from lewm_agent.agents import make_agent
from lewm_agent.datasets.rollout import steps_of

REWARDED = ("tdmpc2", "dreamer")


class World(gym.Env[Any, Any]):
    """Its third step is rewarded as given, and nothing ends but by ``length``."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, reward: Any = 1.0, length: int = 20) -> None:
        self.reward, self.length, self.t = reward, length, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), self.told()

    def told(self) -> dict[str, Any]:
        return {"state": np.full(2, self.t, np.float64), "goal_state": np.full(2, -1.0)}

    def step(self, action: Any) -> Any:
        self.t += 1
        reward = self.reward if self.t == 3 else 0.0
        return np.zeros(2, np.float32), reward, False, self.t == self.length, self.told()

    def render(self) -> Any:
        return np.full((64, 64, 3), self.t % 256, np.uint8)

    def reached(self, states: Any, goals: Any) -> Any:
        return (states == goals).all(-1)


class Shown(World):
    def goal_frame(self) -> Any:
        return np.zeros((64, 64, 3), np.uint8)


def learn(kind: str, env: World, output: Path) -> None:
    make_agent(kind, env, device="cpu").learn_online(output, 50, progress=False)


@pytest.mark.parametrize("kind", REWARDED)
@pytest.mark.parametrize("reward", [float("nan"), None, np.zeros(2), "1"], ids=str)
def test_a_reward_is_one_finite_number(kind: str, reward: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the reward in step 2 must be one finite number, got "):
        learn(kind, Shown(reward), tmp_path)


@pytest.mark.parametrize("kind", [*REWARDED, "sac_her", "sac_her_pixels"])
def test_an_episode_without_end_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(steps_of.__globals__, "MAX_STEPS", 30)
    with pytest.raises(ValueError, match="the episode has not ended after 30 steps; give the environment a time limit"):
        learn(kind, Shown(length=0), tmp_path)


@pytest.mark.parametrize("kind", [*REWARDED, "sac_her_pixels"])
def test_a_goal_without_picture_is_refused_with_advice_that_can_be_followed(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no picture of its goal to learn towards: give it a method goal_frame\(\)"):
        learn(kind, World(), tmp_path)
