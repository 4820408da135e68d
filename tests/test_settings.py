"""Settings given by name, and what they are when they are not given."""

from __future__ import annotations

import pytest

from lewm_agent import LeWMAgent, TrainingConfig
from lewm_agent.config import configured
from lewm_agent.presets import preset
from lewm_agent.training.schedule import Schedule


def test_an_agent_takes_settings_by_their_names() -> None:
    agent = LeWMAgent("two_room", "two_terms", device="cpu", latent_dim=8, straightening_weight=1.0)
    assert agent.config.model.latent_dim == 8
    assert agent.config == configured(
        preset("two_terms"), {"model.latent_dim": 8, "objective.straightening_weight": 1.0}
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("batch_size", r"batch_size is a setting of training and inverse_dynamics: say which, as training.batch_size"),
        ("latent_dims", "there is no setting latent_dims; did you mean latent_dim?"),
        ("xyz", "there is no setting xyz; there are: action_dim, "),
    ],
)
def test_names_that_could_be_none_or_several_are_refused(name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LeWMAgent("two_room", "small", **{name: 3})


def test_a_saved_agent_has_its_settings() -> None:
    saved = LeWMAgent("two_room", "two_terms", device="cpu").description
    with pytest.raises(ValueError, match="a saved agent has its settings"):
        LeWMAgent(None, saved, latent_dim=8)


def test_the_schedule_is_as_long_as_the_training_unless_it_is_said() -> None:
    assert Schedule.of(TrainingConfig(epochs=3.05), 100).cycle == 305
    assert Schedule.of(preset("paper").training, 100).cycle == 10_000
    with pytest.raises(ValueError, match=r"schedule_epochs \(2.0\) must be at least epochs \(3.0\)"):
        TrainingConfig(epochs=3.0, schedule_epochs=2.0)


def test_a_whole_number_of_epochs_may_be_given_by_a_file() -> None:
    assert configured(preset("small"), {"training.schedule_epochs": 7}).training.schedule_epochs == 7.0


def test_a_head_can_be_left_out() -> None:
    assert LeWMAgent("two_room", "small", device="cpu", inverse_dynamics=None).config.inverse_dynamics is None
    with pytest.raises(ValueError, match=r"planner\.proposals needs a model with inverse_dynamics"):
        LeWMAgent("two_room", "shapes", device="cpu", inverse_dynamics=None, inverse_weight=0.0)
