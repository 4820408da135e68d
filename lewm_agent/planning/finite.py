"""What a decision comes from must be numbers: damaged weights and diverged trainings are errors with a name."""

from __future__ import annotations

from torch import Tensor

from lewm_agent.models.learner import Learner


def require_finite(values: Tensor, name: str) -> None:
    """Raise ``ValueError`` if NaN or infinity is among the values, which the message calls ``name``."""
    if not values.isfinite().all():
        raise ValueError(
            f"the agent cannot act: {name} is not finite (NaN or infinity), as after a training that diverged, with "
            "statistics of other data, or with a cost of one's own that divides by zero"
        )


def require_statistics(model: Learner) -> None:
    """Raise ``ValueError`` if the model came without the statistics of actions, so that it can make none."""
    if not model.knows_actions:
        raise ValueError(
            "this model came without the mean and standard deviation of its actions: give `dataset` to "
            "from_pretrained, or call set_action_statistics(mean, std)"
        )
