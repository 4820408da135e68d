"""Acting: one code path for act and predict, batches, memory, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from lewm_agent import LeWMAgent, PlannerConfig
from lewm_agent.envs import make_pixel_env
from lewm_agent.planning.goal_cost import LatentCost


def frames(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_act_is_predict_with_the_memory_kept(trained_folder: Path) -> None:
    agent, other = (LeWMAgent.from_pretrained(trained_folder) for _ in range(2))
    goal, state = frames(1, seed=9)[0], None
    for frame in frames(12):
        acted = agent.act(frame, goal)
        predicted, state = other.predict({"pixels": frame, "goal": goal}, state)
        assert acted.shape == (2,) and acted.dtype == np.float32
        assert agent.action_space.contains(acted)
        np.testing.assert_array_equal(acted, predicted)


def test_one_environment_or_eight_give_the_same_actions(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    goals, memories = frames(8, seed=9), agent.initial_memories(range(8))
    alone = [agent.initial_memories([seed]) for seed in range(8)]
    for step in range(12):
        pixels = frames(8, seed=step)
        actions, memories = agent.predict({"pixels": pixels, "goal": goals}, memories)
        for i in range(8):
            action, alone[i] = agent.predict({"pixels": pixels[i : i + 1], "goal": goals[i : i + 1]}, alone[i])
            np.testing.assert_array_equal(actions[i], action[0])


def test_predict_does_not_change_the_state_it_is_given(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    observation = {"pixels": frames(2), "goal": frames(2, seed=1)}
    _, state = agent.predict(observation)
    first, _ = agent.predict(observation, state)
    second, _ = agent.predict(observation, state)
    np.testing.assert_array_equal(first, second)


def test_episode_start_forgets_only_that_row(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    observation = {"pixels": frames(2), "goal": frames(2, seed=1)}
    _, state = agent.predict(observation)
    _, begun = agent.predict(observation, state, np.array([True, False]))
    assert [len(memory.executing) for memory in begun] == [1, 2]


def test_a_new_goal_is_planned_for_at_once(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    frame = frames(1)[0]
    agent.act(frame, frames(1, seed=1)[0])
    agent.act(frame, frames(1, seed=2)[0])
    assert agent._memory[0].plans == 2


def test_frames_are_needed_only_between_blocks(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    goal, memories, needed = frames(1, seed=1), agent.initial_memories([0]), []
    for _ in range(16):
        needed.append(agent.controller.needs_frame(memories[0]))
        pixels = frames(1) if needed[-1] else np.zeros((1, 16, 16, 3), np.uint8)
        _, memories = agent.predict({"pixels": pixels, "goal": goal}, memories)
    assert np.flatnonzero(needed).tolist() == [0, 5, 10, 15]


def test_history_holds_real_frames_and_the_executed_blocks(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    goal, memories, executed = frames(1, seed=1), agent.initial_memories([0]), []
    for step in range(16):
        actions, memories = agent.predict({"pixels": frames(1, seed=step), "goal": goal}, memories)
        executed.append(actions[0])
    (memory,) = memories
    assert len(memory.latents) == 3 and len(memory.blocks) == 2
    import torch

    expected = agent.world_model.codec.blocks(torch.tensor(np.stack(executed[10:15])))
    torch.testing.assert_close(memory.blocks[-1], expected)
    with torch.no_grad():
        latent = agent.world_model.encode(torch.tensor(frames(1, seed=10)))[0]
    torch.testing.assert_close(memory.latents[-2], latent)


def test_evaluate_policy_and_vector_environments(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    mean, _ = evaluate_policy(agent, Monitor(make_pixel_env("two_room", image_size=16)), n_eval_episodes=2)
    assert -100 <= mean <= 0
    vectorized = make_vec_env(lambda: make_pixel_env("two_room", image_size=16), n_envs=3)
    returns, lengths = evaluate_policy(agent, vectorized, n_eval_episodes=3, return_episode_rewards=True)
    assert len(returns) == 3 and max(lengths) <= 100


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((16, 16, 3), np.float32), r"`pixels` must be uint8 frames in \[0, 255\], got float32"),
        (np.full((16, 16, 3), np.nan), "`pixels` must be uint8 frames"),
        (np.zeros((32, 32, 5), np.uint8), r"`pixels` must be \(H, W, 3\) or \(N, H, W, 3\), got \(32, 32, 5\)"),
        (np.zeros((0, 16, 3), np.uint8), r"`pixels` must be \(H, W, 3\) .* got \(0, 16, 3\)"),
        (np.zeros((0, 16, 16, 3), np.uint8), r"`pixels` must be \(H, W, 3\) .* got \(0, 16, 16, 3\)"),
    ],
)
def test_bad_frames_are_refused(tiny_agent: LeWMAgent, pixels: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_agent.act(pixels, np.zeros((16, 16, 3), np.uint8))


@pytest.mark.parametrize(("observed", "goals"), [(3, 2), (1, 3), (2, 4)])
def test_one_goal_serves_all_and_other_numbers_are_refused(tiny_agent: LeWMAgent, observed: int, goals: int) -> None:
    assert tiny_agent.predict({"pixels": frames(observed), "goal": frames(1)[0]})[0].shape == (observed, 2)
    with pytest.raises(ValueError, match=f"there are {goals} goals for {observed} frames; give one goal, or one for"):
        tiny_agent.predict({"pixels": frames(observed), "goal": frames(goals)})


@pytest.mark.parametrize("state", [3, "x", [None], ({},)], ids=repr)
def test_another_state_is_refused(tiny_agent: LeWMAgent, state: Any) -> None:
    with pytest.raises(TypeError, match="state must be what predict or initial_memories returned"):
        tiny_agent.predict({"pixels": frames(1), "goal": frames(1)}, state)


@pytest.mark.parametrize("channels", [(), (1,), (4,)])
def test_grey_and_transparent_frames_act_like_the_colored_one(trained_folder: Path, channels: tuple[int, ...]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    given = np.broadcast_to(grey.reshape(16, 16, *(1 for _ in channels)), (16, 16, *channels))
    colored = np.repeat(grey[..., None], 3, axis=2)
    act = [LeWMAgent.from_pretrained(trained_folder).act for _ in range(2)]
    np.testing.assert_array_equal(act[0](given, given), act[1](colored, colored))


def test_a_missing_frame_is_named(tiny_agent: LeWMAgent) -> None:
    with pytest.raises(ValueError, match=r"act needs a frame: .* `pixels`, not with \['image'\]"):
        tiny_agent.act({"image": np.zeros((16, 16, 3), np.uint8)}, np.zeros((16, 16, 3), np.uint8))


def test_an_agent_shows_what_it_is(tiny_agent: LeWMAgent, trained_folder: Path) -> None:
    assert repr(tiny_agent).startswith("LeWMAgent(lewm, lewm/TwoRoom-v0, ")
    assert repr(tiny_agent).endswith(" parameters, untrained, on cpu)")
    assert " trained, " in repr(LeWMAgent.from_pretrained(trained_folder, device="cpu"))


def test_a_missing_goal_is_refused(tiny_agent: LeWMAgent) -> None:
    with pytest.raises(ValueError, match="act needs a goal image"):
        tiny_agent.act(np.zeros((16, 16, 3), np.uint8))


class TwoChoices(gym.ActionWrapper[Any, Any, Any]):
    """Asks for two numbers and uses the first."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = gym.spaces.MultiDiscrete([2, 2])

    def action(self, action: Any) -> Any:
        return action[0]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"env": 3}, TypeError, "an environment is a name or a gymnasium.Env, not int 3"),
        ({"config": {}}, TypeError, "config must be an AgentConfig, got dict"),
        ({"device": None}, ValueError, "device 'None' is not available here; there are: auto, cpu"),
        ({"device": torch.device("meta")}, ValueError, "device 'meta' is not available here"),
        ({"seed": 2**70}, ValueError, "seed must be below 2..63, got "),
    ],
)
def test_what_an_agent_cannot_be_made_of_is_named(
    tiny_agent: LeWMAgent, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    made: dict[str, Any] = {"env": "two_room", "config": tiny_agent.config, "device": torch.device("cpu")}
    assert LeWMAgent(**made).device == torch.device("cpu")
    with pytest.raises(error, match=message):
        LeWMAgent(**made | given)


def test_environments_that_cannot_serve_are_refused() -> None:
    with pytest.raises(ValueError, match="must be made with render_mode='rgb_array', got None"):
        LeWMAgent(gym.make("lewm/TwoRoom-v0", image_size=64))
    with pytest.raises(ValueError, match=r"must be Discrete\(n\) or a bounded one-dimensional Box, got MultiDiscrete"):
        LeWMAgent(TwoChoices(gym.make("CartPole-v1", render_mode="rgb_array")))
    with pytest.raises(ValueError, match="no environment `two_rom`; did you mean `two_room`"):
        LeWMAgent("two_rom")


def test_planner_presets(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder, planner="paper")
    assert (agent.config.planner.samples, agent.config.planner.iterations) == (300, 30)
    with pytest.raises(ValueError, match=r"no planner `papr`.*did you mean `paper`"):
        agent.set_planner("papr")
    with pytest.raises(ValueError, match=r"elites .30. must be at most samples .20."):
        dataclasses.replace(agent.config.planner, samples=20)


def test_a_planner_preset_uses_no_more_frames_than_the_model() -> None:
    agent = LeWMAgent.from_pretrained("push_t", planner="small")
    assert (agent.config.planner.history, agent.config.planner.samples) == (2, 64)


def test_any_cost_on_latents(trained_folder: Path) -> None:
    trained = LeWMAgent.from_pretrained(trained_folder)
    seen: list[torch.Size] = []

    def cost(latents: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        seen.append(latents.shape)
        return (latents[:, :, -1] - goals[:, None]).square().sum(-1)

    frame, goal = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    planner = dataclasses.replace(trained.config.planner, cost="sum", samples=64)

    def action(planner: PlannerConfig, cost: LatentCost | None = None) -> NDArray[np.float32]:
        agent = trained.set_planner(planner, cost)
        return agent.predict({"pixels": frame, "goal": goal}, agent.initial_memories([0]))[0]

    with_cost = action(planner, cost)
    assert seen[0] == (1, planner.samples, planner.horizon, trained.config.model.latent_dim)
    np.testing.assert_array_equal(with_cost, action(dataclasses.replace(planner, cost="terminal")))
    assert not np.array_equal(with_cost, action(planner))


def test_any_rollout_takes_the_place_of_imagination_until_the_planner_is_set_again(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    planner = dataclasses.replace(agent.config.planner, samples=64)
    frame, goal = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    calls = 0

    def reversed_blocks(latents: torch.Tensor, past: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return agent.world_model.rollout(latents, past, -blocks)

    def action() -> NDArray[np.float32]:
        return agent.predict({"pixels": frame, "goal": goal}, agent.initial_memories([0]))[0]

    own = agent.set_planner(planner) and action()
    other = agent.set_planner(planner, rollout=reversed_blocks) and action()
    assert calls > 0 and not np.array_equal(own, other)
    again, before = agent.set_planner(planner) and action(), calls
    np.testing.assert_array_equal(again, own)
    assert calls == before
