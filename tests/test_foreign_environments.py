"""Collecting in somebody else's environment: what has one meaning is converted, the rest is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent, environment
from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.datasets import OfflineDataset, collect, rollout
from lewm_agent.envs.wrappers import ResizedRender

BOX = gym.spaces.Box(-1, 1, (2,), np.float32)


class World(gym.Env[Any, Any]):
    """Strict about actions; everything else is as it is told."""

    render_mode = "rgb_array"
    observation_space = BOX

    def __init__(
        self, info: Any = None, reward: Any = 0.0, frame: Any = None, space: Any = BOX, length: int = 5
    ) -> None:
        self.info, self.reward, self.action_space, self.length = info or (lambda t, e: {}), reward, space, length
        self.frame = np.zeros((16, 16, 3), np.uint8) if frame is None else frame
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return np.zeros(2, np.float32), self.info(0, self.episode)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t += 1
        return np.zeros(2, np.float32), self.reward, False, self.t == self.length, self.info(self.t, self.episode)

    def render(self) -> Any:
        return self.frame


class Highest:
    def __init__(self, env: Any) -> None:
        self.action = env.action_space.high

    def reset(self, seed: int) -> None: ...

    def __call__(self, observation: Any, info: Any) -> Any:
        return self.action


def gathered(path: Path, env: World, episodes: int = 1) -> OfflineDataset:
    made = {"environment_id": "World", "policy": "highest", "seed": 0, "shard_episodes": 2, "progress": False}
    return collect(path, lambda: env, Highest, episodes, **made)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "info",
    [
        lambda t, e: {"state": "running", "goal_state": b"end"},
        lambda t, e: {"state": {"x": 1.0}, "goal_state": None},
        lambda t, e: {"state": [[1.0], [2.0, 3.0]], "goal_state": [object()]},
        lambda t, e: {"state": np.zeros(3)} if t else {},
        lambda t, e: {"goal_state": np.zeros(3)} if t == 5 else {},
        lambda t, e: {"state": np.zeros(t + 1), "goal_state": np.zeros(0)},
        lambda t, e: {"state": None if t == 3 else 1.0, "goal_state": 1j},
        lambda t, e: {"state": torch.zeros(2, requires_grad=True), "goal_state": {1.0}},
    ],
)
def test_states_that_are_no_numbers_in_every_row_are_left_out(info: Any, tmp_path: Path) -> None:
    dataset = gathered(tmp_path / "data", World(info))
    assert not {"state", "goal_state"} & set(dataset.columns)


@pytest.mark.parametrize("missing", [0, 1, 2, 4], ids="episode {}".format)
@pytest.mark.parametrize("other", [{}, {"state": np.zeros(4)}], ids=["absent", "of another shape"])
def test_states_that_one_episode_lacks_are_left_out_of_the_dataset(missing: int, other: Any, tmp_path: Path) -> None:
    def info(t: int, episode: int) -> dict[str, Any]:
        return {"goal_state": np.full(2, t), **(other if episode == missing else {"state": np.full(3, t)})}

    env = World(info)
    env.episode = -2  # the first reset only looks
    dataset = gathered(tmp_path / "data", env, 5)
    assert "state" not in dataset.columns
    np.testing.assert_array_equal(dataset.column("goal_state")[:6, 0], np.arange(6))
    assert "state" not in dataset.episode(3)


@pytest.mark.parametrize("state", [3, True, [1, 2], np.float32([1, 2]), [[1], [2]]], ids=str)
def test_states_of_any_numbers_are_kept(state: Any, tmp_path: Path) -> None:
    dataset = gathered(tmp_path / "data", World(lambda t, e: {"state": state}))
    np.testing.assert_array_equal(dataset.episode(0)["state"][2], np.float64(state))


@pytest.mark.parametrize("reward", [0.5, np.float32(0.5), np.array([0.5]), np.array([[0.5]]), np.array(0.5)], ids=repr)
def test_a_reward_of_one_number_is_that_number(reward: Any, tmp_path: Path) -> None:
    assert gathered(tmp_path / "data", World(reward=reward)).episode(0)["reward"].tolist() == [0.5] * 5 + [0.0]


@pytest.mark.parametrize(
    "reward", [None, np.nan, np.inf, np.array([1.0, 2.0]), "0.5", {}, [], np.array([np.nan])], ids=repr
)
def test_other_rewards_are_refused(reward: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the reward in step 0 must be one finite number, got "):
        gathered(tmp_path / "data", World(reward=reward))
    assert not list(tmp_path.iterdir())


PICTURE = np.random.default_rng(0).integers(0, 256, (16, 20, 4), dtype=np.uint8)
RGB, GREY = PICTURE[..., :3], PICTURE[..., 0]


@pytest.mark.parametrize(
    ("frame", "seen"),
    [
        (PICTURE, RGB),
        (GREY, np.stack([GREY] * 3, axis=-1)),
        (GREY[..., None], np.stack([GREY] * 3, axis=-1)),
        (RGB.transpose(2, 0, 1), RGB),
        (PICTURE.transpose(2, 0, 1), RGB),
        (RGB, RGB),
    ],
    ids=["RGBA", "grey", "grey with a channel", "channels first", "RGBA first", "RGB"],
)
def test_frames_are_made_rgb(frame: Any, seen: Any, tiny_config: AgentConfig, tmp_path: Path) -> None:
    np.testing.assert_array_equal(gathered(tmp_path / "data", World(frame=frame)).episode(0)["pixels"][0], seen)
    agent = LeWMAgent(World(frame=frame), tiny_config)
    dataset = agent.collect(tmp_path / "resized", "random", episodes=1, progress=False)
    np.testing.assert_array_equal(dataset.episode(0)["pixels"][3], ResizedRender(World(frame=seen), 16).render())


@pytest.mark.parametrize("frame", [PICTURE[..., :2], RGB.astype(np.float32), RGB[None], [RGB], None], ids=type)
def test_other_frames_are_refused(frame: Any, tiny_config: AgentConfig, tmp_path: Path) -> None:
    env = World()
    env.frame = frame
    with pytest.raises((ValueError, TypeError), match=r"frame of env.render|must return a uint8 frame"):
        gathered(tmp_path / "data", env)
    for other in (RGB.astype(np.float64), RGB[:0], {}):
        with pytest.raises(ValueError, match=r"the environment renders (float64|uint8|dict).*, not an RGB array"):
            LeWMAgent(World(frame=other), tiny_config)


def tenth(kind: Any) -> gym.spaces.Box:
    return gym.spaces.Box(kind(-0.1), kind(0.1), (2,), kind)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_actions_stay_inside_of_boxes_of_any_floats(kind: Any, tiny_config: AgentConfig, tmp_path: Path) -> None:
    space = tenth(kind)
    dataset = gathered(tmp_path / "data", World(space=space))
    assert (dataset.actions[:-1] <= space.high).all() and (dataset.actions[:-1] > 0.0999).all()
    low, high = environment.action_bounds(space)
    assert space.contains(np.array(low, kind)) and space.contains(np.array(high, kind))
    agent = LeWMAgent(World(space=space), tiny_config)
    assert agent.action_space.dtype == np.float32
    assert (agent.action_space.high <= space.high).all()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(0, 10, (2,), np.int64),
        gym.spaces.Box(0, 255, (2,), np.uint8),
        gym.spaces.Box(-1, 1, (0,), np.float32),
        gym.spaces.Box(-1, 1, (2, 2), np.float32),
        gym.spaces.MultiDiscrete([2, 3]),
    ],
    ids=str,
)
def test_other_action_spaces_are_refused(space: Any, tiny_config: AgentConfig, tmp_path: Path) -> None:
    for refused in (
        lambda: gathered(tmp_path / "data", World(space=space)),
        lambda: LeWMAgent(World(space=space), tiny_config),
    ):
        with pytest.raises(ValueError, match=r"action space must be .*got " + type(space).__name__):
            refused()


@pytest.mark.parametrize("space", [gym.spaces.Discrete(3, start=1), gym.spaces.Discrete(2**62)], ids=str)
def test_choices_from_elsewhere_or_too_many_are_refused(space: Any, tiny_config: AgentConfig) -> None:
    with pytest.raises(ValueError, match=r"choices must count from 0 .*TransformAction|are too many choices; .* 10000"):
        LeWMAgent(World(space=space), tiny_config)


def test_choices_are_shifted_as_it_is_advised(tiny_config: AgentConfig, tmp_path: Path) -> None:
    world = World(space=gym.spaces.Discrete(3, start=1))
    shifted = gym.wrappers.TransformAction(world, lambda choice: choice + 1, gym.spaces.Discrete(3))
    agent = LeWMAgent(shifted, tiny_config)
    assert agent.collect(tmp_path / "data", "random", episodes=1, progress=False).action_dim == 3


@pytest.mark.parametrize("choice", [-1, 3, None, "1", 1.5, np.array([0, 1])], ids=repr)
def test_a_choice_that_is_not_offered_is_refused(choice: Any, tiny_config: AgentConfig, tmp_path: Path) -> None:
    agent = LeWMAgent(World(space=gym.spaces.Discrete(3)), tiny_config)
    with pytest.raises(ValueError, match=r"is none of the choices of Discrete\(3\)"):
        agent.collect(tmp_path / "data", lambda observation, info: choice, episodes=1, progress=False)


@pytest.mark.parametrize("action", ["left", {"x": 1.0}, [[1.0], [2.0, 3.0]]], ids=repr)
def test_an_action_that_is_no_vector_is_refused(action: Any, tiny_config: AgentConfig, tmp_path: Path) -> None:
    agent = LeWMAgent(World(), tiny_config)
    with pytest.raises(ValueError, match="the policy's action must be a vector of numbers, got "):
        agent.collect(tmp_path / "data", lambda observation, info: action, episodes=1, progress=False)


@pytest.mark.parametrize(
    ("method", "returned"),
    [("reset", BOX.sample()), ("reset", (0, None)), ("step", (0, 0.0, False, {})), ("step", (0, 0.0, True, True, []))],
)
def test_what_an_environment_must_return_is_told(method: str, returned: Any, tmp_path: Path) -> None:
    env = World()
    setattr(env, method, lambda *_, **__: returned)
    with pytest.raises(
        ValueError, match=rf"env.{method}\(\) must return \(observation, .*info\), the last a dictionary"
    ):
        gathered(tmp_path / "data", env)


def test_an_episode_without_end_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not ended after 10000 steps; .*gymnasium.wrappers.TimeLimit"):
        gathered(tmp_path / "data", World(length=0))
    assert not list(tmp_path.iterdir())
    env = gym.wrappers.TimeLimit(World(length=0), 10_050)
    assert len(rollout(env, Highest(env), 0, 0, None)["action"]) == 10_051  # its own limit holds


class Pictures(World):
    observation_space = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)  # type: ignore[assignment]

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), super().reset(**kwargs)[1]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), *super().step(action)[1:]


class Both(Pictures):
    observation_space = gym.spaces.Dict({"a": Pictures.observation_space, "b": BOX})  # type: ignore[assignment]


@pytest.mark.parametrize(("kind", "network"), [(Pictures, "CnnPolicy"), (Both, "MultiInputPolicy")])
def test_a_model_of_turned_pictures_acts(kind: Any, network: str) -> None:
    from stable_baselines3 import PPO

    env = kind()
    model = PPO(network, env, n_steps=4, batch_size=2, device="cpu")
    assert model.observation_space != env.observation_space
    assert len(rollout(env, behavior_policy(model, env), 0, 0)["action"]) == 6
    other = World()
    with pytest.raises(ValueError, match="the model's observation space is"):
        behavior_policy(model, other)


@pytest.mark.parametrize("value", [np.zeros(3), {"lookat": np.ones(2)}, float("nan"), {1: "a"}, [print]], ids=type)
def test_arguments_that_no_json_holds_leave_the_environment_usable(
    value: Any, tiny_config: AgentConfig, tmp_path: Path
) -> None:
    gym.register("tests/Foreign-v0", entry_point=lambda info=None, render_mode=None, **kwargs: World())
    try:
        env = gym.make("tests/Foreign-v0", camera=value, render_mode="rgb_array", disable_env_checker=True)
        agent = LeWMAgent(env, tiny_config)
        dataset = agent.collect(tmp_path / "data", "random", episodes=6, progress=False)
        assert dataset.metadata is not None and dataset.metadata.environment_id == "unregistered"
        saved = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "model"))
        with pytest.raises(ValueError, match="arguments that are no JSON"):
            _ = saved.env
    finally:
        del gym.registry["tests/Foreign-v0"]


def anything(**settings: Any) -> World:
    return World(length=settings.get("steps", 5))


def sized(steps: int, *, render_mode: str | None = None) -> World:
    return World(length=steps)


@pytest.mark.parametrize("creator", [anything, sized])
def test_arguments_in_text_are_those_of_what_makes_the_environment(creator: Any) -> None:
    gym.register("tests/Made-v0", entry_point=creator, disable_env_checker=True)
    try:
        env = environment.from_text("tests/Made-v0", 16, '{"steps": 3, "max_episode_steps": 2}')
        assert (env.unwrapped.length, env.spec and env.spec.max_episode_steps) == (3, 2)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=r"takes no argument 'render_mode' here; it takes .*max_episode_steps"):
            environment.from_text("tests/Made-v0", 16, '{"steps": 3, "render_mode": "human"}')
    finally:
        del gym.registry["tests/Made-v0"]


def test_numbers_of_numpy_are_json() -> None:
    env = gym.make("lewm/TwoRoom-v0", image_size=np.int64(16), render_mode="rgb_array")
    assert environment.identity(env) == ("lewm/TwoRoom-v0", {"image_size": 16})


@pytest.mark.parametrize("name", ["seed", "episodes", "num_envs", "frame_interval"])
def test_counts_and_seeds_are_whole_numbers(name: str, tiny_config: AgentConfig, tmp_path: Path) -> None:
    agent = LeWMAgent(World(), tiny_config)
    for wrong in (True, np.True_, -1, 1.0, "1", None):
        if (name, wrong) != ("seed", None):  # which is the agent's
            with pytest.raises(ValueError, match=rf"^{name} must be a whole number of at least . got|^{name} must be"):
                agent.collect(tmp_path / "data", "random", **{"episodes": 1, name: wrong}, progress=False)
    assert not list(tmp_path.iterdir())
    dataset = agent.collect(tmp_path / "data", "random", **{"episodes": 1, name: np.int64(1)}, progress=False)
    assert OfflineDataset(dataset.path).metadata == dataset.metadata


def test_a_policy_that_does_not_fit_is_told_before_anything_is_written(tmp_path: Path) -> None:
    def unfit(env: Any) -> Any:
        return behavior_policy("expert", env)

    with pytest.raises(ValueError, match="no scripted policy `expert`"):
        collect(tmp_path / "a" / "b", World, unfit, 1, environment_id="World", policy="expert", seed=0)
    assert not list(tmp_path.iterdir())
