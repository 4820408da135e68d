"""Goal-reaching Gymnasium environments; importing this package registers them."""

from __future__ import annotations

from lewm_agent.envs.cube.env import CubeEnv
from lewm_agent.envs.cube.scene import CubeFactors
from lewm_agent.envs.push_t.env import PushTEnv
from lewm_agent.envs.push_t.scene import PushTFactors
from lewm_agent.envs.reacher.env import ReacherEnv, ReacherFactors
from lewm_agent.envs.registration import ENVIRONMENTS, environment_id, register_environments
from lewm_agent.envs.two_room.env import TwoRoomEnv
from lewm_agent.envs.two_room.scene import TwoRoomFactors
from lewm_agent.envs.wrappers import AddGoalFrame, make_pixel_env

__all__ = [
    "ENVIRONMENTS",
    "AddGoalFrame",
    "CubeEnv",
    "CubeFactors",
    "PushTEnv",
    "PushTFactors",
    "ReacherEnv",
    "ReacherFactors",
    "TwoRoomEnv",
    "TwoRoomFactors",
    "environment_id",
    "make_pixel_env",
]

register_environments()
