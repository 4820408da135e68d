"""What helps with far goals, all on frozen latents: blocks to go, the next latent on the way, recorded ways."""

from lewm_agent.models.far_goals.parts import NOISE, Bank, FarGoals, StepsToGo, Subgoals
from lewm_agent.models.far_goals.settings import FITTED, FarGoalsConfig

__all__ = ["FITTED", "NOISE", "Bank", "FarGoals", "FarGoalsConfig", "StepsToGo", "Subgoals"]
