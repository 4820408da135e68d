"""What a world model is trained on, one file per objective; others are added with :func:`registry.register`."""

from lewm_agent.models.objectives import ema as ema
from lewm_agent.models.objectives import lewm as lewm
from lewm_agent.models.objectives import pldm as pldm
from lewm_agent.models.objectives import slow as slow
