"""Collecting: the same data for any number of processes, interruptions, and refused requests."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import lewm_agent.envs  # noqa: F401  # registers lewm/TwoRoom-v0
from lewm_agent.datasets import DatasetMetadata, OfflineDataset, collect, episode_seed, policy_seed, rollout
from lewm_agent.datasets.rollout import EpisodeOver

# The tests are no package, so a spawned process finds these classes only if their module is on its path under a name
# of its own; `tiny_module` puts it there.
TINY = '''
import functools, os, signal, time
import gymnasium as gym
import numpy as np


class Walk(gym.Env):
    """A dot walks on a line; episodes have a random length."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (2,))

    def __init__(self, render_mode="rgb_array", size=8, fault="", held=None):
        """While the file ``held[0]`` is there, the episode of seed ``held[1]`` does not go on."""
        self.render_mode, self.size, self.fault, self.held = render_mode, size, fault, held
        self.frame = np.zeros((size, size, 3), np.uint8)

    def _info(self):
        return {"state": self.state, "goal_state": self.goal}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.is_held = self.held is not None and seed == self.held[1]
        self.state, self.goal = self.np_random.normal(size=2), self.np_random.normal(size=2)
        self.left = int(self.np_random.integers(2, 9))
        self.steps = 0
        return self.state, self._info()

    def step(self, action):
        while self.is_held and os.path.exists(self.held[0]):
            time.sleep(0.01)
        self.state += action  # in place: the recorder must copy
        self.left -= 1
        self.steps += 1
        return self.state, float(self.left), self.left == 0, False, self._info()

    def render(self):
        if self.fault == "dtype":
            return np.full((self.size, self.size, 3), np.nan)
        if self.fault == "later dtype" and self.steps == 2:
            return self.frame.astype(np.float32)
        if self.fault == "later size" and self.steps == 2:
            return np.zeros((4, 4, 3), np.uint8)
        if self.fault == "channels":
            return self.frame[..., :2]
        self.frame[:] = np.frombuffer(self.state.tobytes()[:3], np.uint8)
        return self.frame


class Gauss:
    def __init__(self, env, fault=""):
        self.env, self.fault = env, fault
        self.action = np.zeros(2)

    def reset(self, seed):
        self.generator = np.random.default_rng(seed)

    def __call__(self, observation, info):
        if self.fault == "width":
            return np.zeros(3)
        self.action[:] = self.generator.normal(size=2)
        if self.fault == "nan" and self.action[0] > 1:
            self.action[0] = np.nan
        if self.fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.action


def make_env(**kwargs):
    return functools.partial(Walk, **kwargs)


def make_policy(**kwargs):
    return functools.partial(Gauss, **kwargs)
'''


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("module")
    (place / "tiny_walk.py").write_text(TINY)
    sys.path.insert(0, str(place))
    try:
        import tiny_walk  # type: ignore[import-not-found]

        yield tiny_walk
    finally:
        sys.path.remove(str(place))
        del sys.modules["tiny_walk"]


def gathered(tiny: Any, path: Path, episodes: int = 10, **kwargs: Any) -> OfflineDataset:
    request: dict[str, Any] = {
        "environment_id": "test/Walk-v0",
        "policy": "gauss",
        "seed": 5,
        "shard_episodes": 4,
        "progress": False,
        "make_env": tiny.make_env(),
        "make_policy": tiny.make_policy(),
        **kwargs,
    }
    return collect(path, episodes=episodes, **request)


def assert_equal_data(path: Path, other: Path) -> None:
    records = [DatasetMetadata.load(folder).shards for folder in (path, other)]
    assert records[0] == records[1]  # the files are equal byte for byte
    OfflineDataset(path).verify()
    OfflineDataset(other).verify()
    mine, theirs = OfflineDataset(path), OfflineDataset(other)
    for episode in range(mine.num_episodes):
        for name, values in mine.episode(episode).items():
            np.testing.assert_array_equal(values, theirs.episode(episode)[name])
    assert sorted(file.name for file in path.iterdir()) == sorted(file.name for file in other.iterdir())


@pytest.fixture(scope="module")
def reference(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "data"
    gathered(tiny, path)
    return path


def test_rows_of_an_episode(tiny: Any, reference: Path) -> None:
    env = tiny.Walk()
    dataset = OfflineDataset(reference)
    assert dataset.num_episodes == 10
    assert [shard.episodes for shard in dataset.metadata.shards] == [4, 4, 2]
    for index in range(10):
        episode = dataset.episode(index)
        _, info = env.reset(seed=episode_seed(5, index))
        for row in range(len(episode["action"])):
            np.testing.assert_array_equal(episode["state"][row], info["state"])
            np.testing.assert_array_equal(episode["goal_state"][row], info["goal_state"])
            np.testing.assert_array_equal(episode["pixels"][row], env.render())
            if row == len(episode["action"]) - 1:
                break
            _, reward, terminated, truncated, info = env.step(episode["action"][row])
            outcome = [episode[name][row] for name in ("reward", "terminated", "truncated")]
            assert outcome == [reward, terminated, truncated]
        assert terminated
        assert np.isnan(episode["action"][-1]).all()
        assert [episode[name][-1] for name in ("reward", "terminated", "truncated")] == [0, False, False]


def test_metadata_says_where_the_data_come_from(reference: Path) -> None:
    content = json.loads((reference / "metadata.json").read_text())
    assert content["environment_id"] == "test/Walk-v0"
    assert content["versions"]["numpy"] == np.__version__
    assert content["frame_shape"] == [8, 8, 3]
    assert "Box(-1.0, 1.0, (2,)" in content["action_space"]
    mean, std = OfflineDataset(reference).action_statistics()
    np.testing.assert_allclose(content["action_mean"], mean)
    np.testing.assert_allclose(content["action_std"], std)


def test_episodes_of_a_family_begin_alike_and_go_on_differently(tiny: Any, tmp_path: Path) -> None:
    data = gathered(tiny, tmp_path / "data", families=3)
    gathered(tiny, tmp_path / "other", families=3, num_envs=2)
    assert_equal_data(tmp_path / "data", tmp_path / "other")
    episodes = [data.episode(index) for index in range(10)]
    assert [episode["family"].tolist() for episode in episodes] == [
        [number % 3] * len(episode["action"]) for number, episode in enumerate(episodes)
    ]
    starts = np.stack([episode["state"][0] for episode in episodes])
    np.testing.assert_array_equal(starts, starts[[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]])
    assert len(np.unique(starts, axis=0)) == 3
    assert len({episode["action"][0].tobytes() for episode in episodes}) == 10
    with pytest.raises(ValueError, match=r"with policy 'gauss, 3 families', asked for is 'gauss, 4 families'"):
        gathered(tiny, tmp_path / "data", families=4)
    with pytest.raises(ValueError, match="families must be a whole number of at least 1, got 0"):
        gathered(tiny, tmp_path / "none", families=0)


def test_a_policy_may_end_an_episode(tiny: Any) -> None:
    class Leaves(tiny.Gauss):
        def __call__(self, observation: Any, info: dict[str, Any]) -> Any:
            if self.left == 0:
                raise EpisodeOver
            self.left -= 1
            return super().__call__(observation, info)

    policy = Leaves(tiny.Walk())
    policy.left = 2
    episode = rollout(tiny.Walk(), policy, 0, 0)
    assert episode["truncated"].tolist() == [False, True, False] and not episode["terminated"].any()
    with pytest.raises(ValueError, match="ended an episode before its first action"):
        rollout(tiny.Walk(), policy, 0, 0)


def test_seeds_differ_by_episode_stream_and_purpose() -> None:
    seeds = {
        f(s, i, stream) for f in (episode_seed, policy_seed) for s in (0, 1) for i in range(50) for stream in (0, 1)
    }
    assert len(seeds) == 400
    assert episode_seed(0, 0) == episode_seed(0, 0, stream=0)
    assert all(0 <= seed < 2**32 for seed in seeds)
    with pytest.raises(ValueError, match="at least 0"):
        episode_seed(-1, 0)


def test_rollout_without_frames_is_the_same_episode(tiny: Any) -> None:
    env = tiny.Walk()
    seen = rollout(env, tiny.Gauss(env), 1, 2)
    unseen = rollout(env, tiny.Gauss(env), 1, 2, frame_interval=None)
    assert seen.keys() - unseen.keys() == {"pixels"}
    for name, values in unseen.items():
        np.testing.assert_array_equal(values, seen[name])


def test_three_processes_gather_the_same_data_as_one(tiny: Any, reference: Path, tmp_path: Path) -> None:
    gathered(tiny, tmp_path / "data", num_envs=3)
    assert_equal_data(tmp_path / "data", reference)


def test_missing_cut_and_unfinished_shards_are_gathered_again(tiny: Any, reference: Path, tmp_path: Path) -> None:
    path = tmp_path / "data"
    gathered(tiny, path)
    (path / "shard-00000.h5").unlink()
    (path / "shard-00001.h5").write_bytes(b"cut")
    (path / "shard-00001.h5.part").write_bytes(b"left by a crash")
    (path / "metadata.json.part").write_bytes(b"left by a crash")
    untouched = (path / "shard-00002.h5").stat().st_mtime_ns
    gathered(tiny, path)
    assert_equal_data(path, reference)
    assert (path / "shard-00002.h5").stat().st_mtime_ns == untouched


def test_more_episodes_later_equal_all_at_once(tiny: Any, reference: Path, tmp_path: Path) -> None:
    path = tmp_path / "data"
    gathered(tiny, path, episodes=3)
    gathered(tiny, path, episodes=7, num_envs=2)
    assert OfflineDataset(path).num_episodes == 7
    gathered(tiny, path, episodes=10)
    assert_equal_data(path, reference)
    with pytest.raises(ValueError, match="already holds 10 episodes, more than the 9 asked for"):
        gathered(tiny, path, episodes=9)
    assert_equal_data(path, reference)


def held_collection(tiny: Any, path: Path, num_envs: int) -> subprocess.Popen[str]:
    """Start the reference's collection in a process group of its own; return after its first shard.

    Its sixth episode does not end before the file ``hold`` beside the folder is gone.
    """
    script, hold = path.with_name("run.py"), path.with_name("hold")
    hold.touch()
    script.write_text(
        "import tiny_walk as t\nfrom lewm_agent.datasets import collect\n"
        "if __name__ == '__main__':\n"
        f"    collect({str(path)!r}, t.make_env(held=({str(hold)!r}, {episode_seed(5, 5)})), t.make_policy(), 10,"
        " environment_id='test/Walk-v0', policy='gauss', seed=5, shard_episodes=4, progress=False,"
        f" num_envs={num_envs})\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(tiny.__file__).parent)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell may have it ignored
    )
    while not ((path / "metadata.json").exists() and DatasetMetadata.load(path).shards):
        assert process.poll() is None, f"no first shard: {process.communicate()[1]}"
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("num_envs", [1, 2])
def test_killed_collection_leaves_whole_shards_and_continues(
    tiny: Any, reference: Path, tmp_path: Path, num_envs: int
) -> None:
    path = tmp_path / "data"
    process = held_collection(tiny, path, num_envs)
    process.kill()  # the parent alone: its workers must end by themselves
    process.communicate()  # to the end of what they too can write to
    assert process.returncode == -signal.SIGKILL
    assert 4 <= OfflineDataset(path).num_episodes < 10
    OfflineDataset(path).verify()
    gathered(tiny, path)
    assert_equal_data(path, reference)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_interrupt_keeps_whole_shards_and_says_so(tiny: Any, reference: Path, tmp_path: Path, num_envs: int) -> None:
    path = tmp_path / "data"
    process = held_collection(tiny, path, num_envs)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C: workers get it too
    output = process.communicate()[1]
    assert re.search(r"KeyboardInterrupt: collection interrupted: \d episodes are kept in .*data \(10 were", output)
    assert not list(path.glob("*.part"))
    assert 4 <= OfflineDataset(path).num_episodes < 10
    gathered(tiny, path)
    assert_equal_data(path, reference)


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_collections_do_not_share_a_folder(tiny: Any, reference: Path, tmp_path: Path, overwrite: bool) -> None:
    path = tmp_path / "data"
    process = held_collection(tiny, path, num_envs=1)
    with pytest.raises(BlockingIOError, match=r"another process is writing into .*data: wait for it, or give another"):
        gathered(tiny, path, overwrite=overwrite)
    path.with_name("hold").unlink()
    assert not process.communicate()[1]
    assert_equal_data(path, reference)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 6}, "seed 5, asked for is 6"),
        ({"policy": "expert"}, "policy 'gauss', asked for is 'expert'"),
        ({"shard_episodes": 5}, "shard_episodes 4"),
        ({"environment_id": "test/Other-v0"}, "environment_id"),
        ({"environment_kwargs": {"noise": 1}}, r"environment_kwargs \{\}, asked for is \{'noise': 1\}"),
    ],
)
def test_another_request_is_refused(tiny: Any, reference: Path, change: dict[str, Any], sentence: str) -> None:
    before = {file: file.read_bytes() for file in reference.iterdir()}
    with pytest.raises(ValueError, match=sentence + r".*another path or overwrite=True"):
        gathered(tiny, reference, **change)
    assert {file: file.read_bytes() for file in reference.iterdir()} == before


def test_other_frames_are_refused_and_overwrite_replaces(tiny: Any, reference: Path, tmp_path: Path) -> None:
    path = tmp_path / "data"
    gathered(tiny, path, episodes=13, make_env=tiny.make_env(size=16))
    with pytest.raises(ValueError, match=r"frame_shape \(16, 16, 3\), asked for is \(8, 8, 3\)"):
        gathered(tiny, path)
    gathered(tiny, path, overwrite=True)
    assert_equal_data(path, reference)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"episodes": 0}, ValueError, "episodes must be a whole number of at least 1, got 0"),
        ({"num_envs": 0}, ValueError, "num_envs must be"),
        ({"shard_episodes": -1}, ValueError, "shard_episodes must be"),
        ({"seed": -1}, ValueError, "seed"),
        ({"compression": "zip"}, ValueError, "compression 'zip' is unknown"),
        ({"environment_kwargs": {"f": print}}, ValueError, "cannot be recorded as JSON"),
        ({"env": {"render_mode": None}}, ValueError, "render_mode None; collecting needs 'rgb_array'"),
        ({"env": {"fault": "dtype"}}, TypeError, "must be uint8 .* float64 with NaN"),
        ({"env": {"fault": "channels"}}, ValueError, r"shape \(height, width, 3\), got \(8, 8, 2\)"),
        ({"env": {"fault": "later dtype"}}, TypeError, "must be uint8 .* float32"),
        ({"env": {"fault": "later size"}}, ValueError, r"pixels has shape \(4, 4, 3\) in row 2"),
        ({"env": {"fault": "later size"}, "num_envs": 2}, ValueError, r"pixels has shape \(4, 4, 3\) in row 2"),
        ({"pol": {"fault": "width"}}, ValueError, r"action has shape \(3,\), the environment's is \(2,\)"),
        ({"pol": {"fault": "nan"}, "shard_episodes": 20}, ValueError, "is not finite"),
        ({"pol": {"fault": "dies"}, "num_envs": 2}, RuntimeError, "a collecting process died"),
    ],
)
def test_bad_requests_leave_nothing(
    tiny: Any, tmp_path: Path, change: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    change = dict(change)
    make_env, make_policy = tiny.make_env(**change.pop("env", {})), tiny.make_policy(**change.pop("pol", {}))
    with pytest.raises(error, match=sentence):
        gathered(tiny, tmp_path / "new" / "data", make_env=make_env, make_policy=make_policy, **change)
    assert not list(tmp_path.iterdir())


def test_error_in_a_continued_collection_keeps_what_was_there(tiny: Any, reference: Path, tmp_path: Path) -> None:
    path = tmp_path / "data"
    gathered(tiny, path, episodes=8)
    with pytest.raises(ValueError, match="shape"):
        gathered(tiny, path, make_policy=tiny.make_policy(fault="width"))
    assert OfflineDataset(path).num_episodes == 8
    assert not list(path.glob("*.part"))
    gathered(tiny, path)
    assert_equal_data(path, reference)


def test_policy_that_cannot_be_sent_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the policy cannot be sent to other processes .* use num_envs=1"):
        gathered(tiny, tmp_path / "data", make_policy=lambda env: tiny.Gauss(env), num_envs=2)
    assert not list(tmp_path.iterdir())
    assert gathered(tiny, tmp_path / "data", make_policy=lambda env: tiny.Gauss(env)).num_episodes == 10


def test_discrete_actions_are_refused(tiny: Any, tmp_path: Path) -> None:
    class Discrete(tiny.Walk):  # type: ignore[misc]
        action_space = gym.spaces.Discrete(3)

    with pytest.raises(ValueError, match=r"must be a Box of shape \(action_dim,\), got Discrete\(3\)"):
        gathered(tiny, tmp_path / "data", make_env=Discrete)
    assert not list(tmp_path.iterdir())


def test_folder_of_something_else_is_left_alone(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "download.part").write_text("of another program")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is not empty and holds no dataset"):
            gathered(tiny, tmp_path, overwrite=overwrite)
    with pytest.raises(ValueError, match="is a file"):
        gathered(tiny, tmp_path / "thesis.txt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["download.part", "thesis.txt"]


def test_progress_is_shown_and_counts_to_the_end(tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gathered(tiny, tmp_path / "data", progress=True, num_envs=2)
    output = capsys.readouterr()
    assert output.out == ""
    assert "collecting, episodes: 10 of 10" in output.err and "frames/s" in output.err


def test_compression_changes_the_files_not_the_data(tiny: Any, reference: Path, tmp_path: Path) -> None:
    plain = gathered(tiny, tmp_path / "data", compression=None)
    for episode in range(10):
        np.testing.assert_array_equal(
            plain.episode(episode)["pixels"], OfflineDataset(reference).episode(episode)["pixels"]
        )
    assert dataclasses.asdict(plain.metadata)["shards"] != DatasetMetadata.load(reference).shards


def test_two_room_episode_replays_exactly(tmp_path: Path) -> None:
    make_env = functools.partial(gym.make, "lewm/TwoRoom-v0", render_mode="rgb_array", image_size=32)
    dataset = collect(
        tmp_path / "data",
        make_env,
        Uniform,
        2,
        environment_id="lewm/TwoRoom-v0",
        policy="uniform",
        seed=0,
        progress=False,
    )
    assert dataset.frame_shape == (32, 32, 3)
    episode = dataset.episode(1)
    env = make_env()
    _, info = env.reset(options={"state": episode["state"][0], "goal_state": episode["goal_state"][0]})
    for row, action in enumerate(episode["action"][:-1]):
        np.testing.assert_array_equal(info["state"], episode["state"][row])
        np.testing.assert_array_equal(env.render(), episode["pixels"][row])
        *_, info = env.step(action)
    np.testing.assert_array_equal(info["state"], episode["state"][-1])


class Uniform:
    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.shape = env.action_space.shape

    def reset(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def __call__(self, observation: Any, info: dict[str, Any]) -> np.ndarray:
        return self.generator.uniform(-1, 1, self.shape)


def test_gathering_needs_no_torch() -> None:
    code = "import sys, lewm_agent.datasets.collection; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
