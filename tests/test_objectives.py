"""Objectives: PLDM's terms by hand, the registry, and what the bundled models are trained on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent, ObjectiveConfig
from lewm_agent.agents import make_agent
from lewm_agent.checkpoints.hub import bundled
from lewm_agent.datasets.batch import ClipBatch
from lewm_agent.models.objectives import registry
from lewm_agent.models.objectives.base import EncodedClip, Objective, ObjectiveSettings, Terms
from lewm_agent.models.objectives.ema import EmaConfig
from lewm_agent.models.objectives.pldm import PLDMConfig, collapse_terms, covariance_energy, variance_hinge
from lewm_agent.models.objectives.slow import SlowConfig
from lewm_agent.models.world_model import WorldModel


def test_variance_hinge_by_hand() -> None:
    samples = torch.tensor([[0.0, 0.0], [2.0, 0.6]])  # unbiased variances 2 and 0.18
    expected = (0 + 1 - (0.18 + 1e-4) ** 0.5) / 2
    assert variance_hinge(samples).item() == pytest.approx(expected, rel=1e-5)


def test_covariance_energy_by_hand() -> None:
    centred = torch.tensor([[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0]])  # covariance of the first two: (2 + 2) / 1
    assert covariance_energy(centred).item() == pytest.approx((4**2 + 4**2) / 6)


def test_terms_over_batch_and_over_time_by_hand() -> None:
    latents = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[2.0, 4.0], [3.0, 4.0]]])  # two clips of two frames
    terms = collapse_terms(latents)
    assert terms["smoothness"].item() == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert terms["variance"].item() == 0  # deviations over the batch are 1.41 and 2.83
    assert terms["covariance"].item() == pytest.approx((4**2 + 4**2) / 2)  # products 1 x 2 + 1 x 2, over 2 - 1
    # without the mean over the batch, both frames of the first clip are (-1, -2), those of the second (1, 2)
    assert terms["temporal_variance"].item() == pytest.approx(1 - 1e-2)
    assert terms["temporal_covariance"].item() == pytest.approx(4**2)


@pytest.mark.parametrize("inverse_weight", [0.0, 2.0])
def test_pldm_adds_its_terms_up_and_reaches_every_parameter(tiny_config: AgentConfig, inverse_weight: float) -> None:
    torch.manual_seed(0)
    model = WorldModel(tiny_config.model, PLDMConfig(temporal_covariance_weight=0.5, inverse_weight=inverse_weight))
    for block in model.predictor.blocks:  # at initialisation the gates are shut and pass no gradient on
        torch.nn.init.normal_(block.modulation[1].weight)
    loss = model.loss(ClipBatch(torch.randint(0, 256, (6, 4, 16, 16, 3), dtype=torch.uint8), torch.rand(6, 3, 5, 2)))
    weights = {"prediction": 1, "variance": 18, "covariance": 12, "temporal_variance": 0.7, "smoothness": 0.2}
    weights |= {"temporal_covariance": 0.5} | ({"inverse": inverse_weight} if inverse_weight else {})
    assert loss.terms.keys() == weights.keys()
    torch.testing.assert_close(loss.total, sum(weights[name] * term for name, term in loss.terms.items()))
    loss.total.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def frames_and_actions() -> ClipBatch[torch.Tensor]:
    return ClipBatch(torch.randint(0, 256, (6, 4, 16, 16, 3), dtype=torch.uint8), torch.rand(6, 3, 5, 2))


def test_what_is_predicted_is_the_teachers_and_does_not_move(tiny_config: AgentConfig) -> None:
    torch.manual_seed(0)
    model = WorldModel(tiny_config.model, EmaConfig(momentum=0.9, final_momentum=1.0))
    with torch.no_grad():
        model.encoder.projector[0].weight.normal_()
    assert not torch.equal(model.teacher.projector[0].weight, model.encoder.projector[0].weight)
    model.before_training()
    begun = model.teacher.projector[0].weight.clone()
    assert torch.equal(begun, model.encoder.projector[0].weight)
    model.loss(frames_and_actions()).total.backward()
    assert model.encoder.projector[0].weight.grad is not None
    assert all(weight.grad is None for weight in model.teacher.parameters())
    with torch.no_grad():
        model.encoder.projector[0].weight += 1.0
    model.after_step(0.5)  # momentum 0.95
    torch.testing.assert_close(model.teacher.projector[0].weight, begun + 0.05)
    model.after_step(1.0)
    torch.testing.assert_close(model.teacher.projector[0].weight, begun + 0.05)


def test_without_a_teacher_the_gradient_of_what_is_predicted_is_stopped(tiny_config: AgentConfig) -> None:
    latents = torch.rand(3, 4, 16, requires_grad=True)
    clip = EncodedClip(latents, torch.rand(3, 3, 10), predicted=torch.rand(3, 3, 16, requires_grad=True))
    model = WorldModel(tiny_config.model, EmaConfig(momentum=0.0, final_momentum=0.0))
    assert model.teacher is None
    total, terms = model.objective(clip)
    torch.testing.assert_close(total, clip.prediction_error)
    assert terms["prediction"] is total
    total.backward()
    assert latents.grad is None


def test_momentum_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="momentum must be in"):
        EmaConfig(momentum=1.5)
    with pytest.raises(ValueError, match=r"final_momentum .* at least"):
        EmaConfig(momentum=0.9, final_momentum=0.5)


def test_configuration_names_its_objective(tiny_config: AgentConfig) -> None:
    config = dataclasses.replace(tiny_config, objective=PLDMConfig(variance_weight=3.0))
    values = json.loads(json.dumps(config.to_dict()))
    assert values["objective"]["kind"] == "pldm" and AgentConfig.from_dict(values) == config
    assert tiny_config.to_dict()["objective"]["kind"] == "lewm"
    values["objective"]["kind"] = "pldn"
    with pytest.raises(ValueError, match="did you mean `pldm`"):
        AgentConfig.from_dict(values)
    with pytest.raises(ValueError, match="sigreg_weight"):
        AgentConfig.from_dict({**values, "objective": {"kind": "pldm", "sigreg_weight": 1.0}})


def test_bundled_checkpoints_say_what_they_are_trained_on() -> None:
    of_moments = {"cube", "push_t"}
    for name, folder in bundled().items():
        text = (folder / "config.json").read_text()
        agent = LeWMAgent.from_pretrained(name, device="cpu")
        kind, objective = ("slow", SlowConfig) if name in of_moments else ("lewm", ObjectiveConfig)
        assert agent.kind == kind and type(agent.config.objective) is objective
        values = agent.config.to_dict()
        for part, written in json.loads(text)["agent"].items():
            assert written is None or written.items() <= values[part].items()


@dataclasses.dataclass(frozen=True)
class Settings(ObjectiveSettings):
    weight: float = 2.0


class PredictionAlone(Objective):
    def forward(self, clip: EncodedClip) -> tuple[torch.Tensor, Terms]:
        return self.settings.weight * clip.prediction_error, {"prediction": clip.prediction_error}


def test_a_registered_objective_is_an_agent(
    tiny_config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_entries", registry.entries())
    for _ in range(2):
        registry.register("prediction_alone", Settings, PredictionAlone)
    agent = make_agent("prediction_alone", "two_room", tiny_config, device="cpu")
    assert agent.config.objective == Settings()
    again = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path), device="cpu")
    assert again.kind == "prediction_alone" and again.config == agent.config
    with pytest.raises(ValueError, match="settings of another objective"):
        registry.register("another", Settings, PredictionAlone)
    for taken in ("pldm", "gcbc"):
        with pytest.raises(ValueError, match=f"`{taken}` is the name of an agent that comes with the package"):
            registry.register(taken, Settings, PredictionAlone)
