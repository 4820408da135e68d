"""The named presets of agents; those of planners are in :mod:`lewm_agent.planning.presets`.

Preset ``paper`` is the released LeWorldModel recipe to the letter; the others are sized for two CPU cores.
``two_terms`` keeps the paper's objective, but not its ViT, whose latents repeat with the patches
(``docs/findings/geometry.md``); ``small`` adds a straightening term and an inverse-dynamics head; ``fine`` has more
pixels, for small objects; ``shapes`` is for objects whose rotation matters: single frames, large batches and a
reconstruction term. ``docs/findings/`` tells what they reach.
"""

from __future__ import annotations

import dataclasses

from lewm_agent.config import AgentConfig
from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.models.objectives.lewm import ObjectiveConfig
from lewm_agent.models.objectives.slow import SlowConfig
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.planning.presets import PLANNERS
from lewm_agent.tools.checks import named
from lewm_agent.training.settings import TrainingConfig

_OBJECTIVE = ObjectiveConfig(sigreg_projections=256)

_TWO_TERMS = AgentConfig(
    model=ModelConfig(
        image_size=64,
        encoder="cnn",
        activation="relu",
        first_share=8,
        patch_size=16,
        encoder_width=64,
        encoder_depth=4,
        encoder_heads=4,
        latent_dim=32,
        projector_width=1024,
        predictor_width=128,
        predictor_depth=2,
        predictor_heads=4,
        predictor_head_dim=32,
        predictor_mlp_width=512,
    ),
    objective=_OBJECTIVE,
    training=TrainingConfig(epochs=4, batch_size=64, learning_rate=3e-4),
    planner=PLANNERS["small"],
)

_SMALL = dataclasses.replace(
    _TWO_TERMS,
    objective=dataclasses.replace(_OBJECTIVE, straightening_weight=0.3),
    inverse_dynamics=InverseDynamicsConfig(furthest=20),
)

_FINE = AgentConfig(
    model=dataclasses.replace(
        _TWO_TERMS.model,
        image_size=96,
        first_share=4,
        patch_size=8,
        encoder_depth=3,
        encoder_heads=2,
        latent_dim=64,
        predictor_width=192,
        predictor_heads=6,
        predictor_mlp_width=768,
    ),
    objective=dataclasses.replace(_OBJECTIVE, straightening_weight=0.3, inverse_weight=0.5),
    training=dataclasses.replace(_TWO_TERMS.training, batch_size=48, learning_rate=5e-4),
    planner=PLANNERS["amortised"],
    inverse_dynamics=InverseDynamicsConfig(),
)

_SHAPES = dataclasses.replace(
    _FINE,
    model=dataclasses.replace(
        _FINE.model,
        image_size=64,
        first_share=8,
        patch_size=8,
        predictor_depth=4,
        history=1,
        pixel_normalization="mean_frame",
    ),
    objective=dataclasses.replace(_OBJECTIVE, sigreg_weight=0.003, inverse_weight=1.0, reconstruction_weight=1.0),
    training=dataclasses.replace(_FINE.training, batch_size=256, learning_rate=1e-3),
    planner=dataclasses.replace(PLANNERS["hybrid"], history=1),
    inverse_dynamics=InverseDynamicsConfig(steps=12_000),
)

_MOMENTS = dataclasses.replace(
    _SHAPES,
    model=dataclasses.replace(
        _SHAPES.model,
        encoder="moments",
        activation="gelu",
        first_share=4,
        history=2,
        latent_dim=20,
        pixel_normalization="imagenet",
        predictor="residual",
        prefix_length=2,
        predictor_width=256,
        predictor_depth=2,
    ),
    objective=SlowConfig(),
    training=dataclasses.replace(_SHAPES.training, weight_decay=1e-2, frozen_encoder=True, metric_power=1.5),
    planner=dataclasses.replace(PLANNERS["hybrid"], history=2, metric="slow"),
    inverse_dynamics=InverseDynamicsConfig(width=384, depth=2, batch_size=256, steps=8000, successful_only=True),
)

PRESETS: dict[str, AgentConfig] = {
    "fine": _FINE,
    "moments": _MOMENTS,
    "paper": AgentConfig(training=TrainingConfig(schedule_epochs=100.0)),
    "shapes": _SHAPES,
    "small": _SMALL,
    "two_terms": _TWO_TERMS,
}


def preset(name: str) -> AgentConfig:
    """The agent configuration called ``name``. Raises ``ValueError`` for an unknown name."""
    return named(name, PRESETS, "preset")
