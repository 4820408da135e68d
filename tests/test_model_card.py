"""The model card: what it shows, and what it refuses to show."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from lewm_agent import LeWMAgent
from lewm_agent.checkpoints import hub
from lewm_agent.checkpoints.model_card import search_summary
from lewm_agent.eval import success_rate
from lewm_agent.planning import MPPI
from lewm_agent.planning.presets import PLANNERS


def measured(model: Path, output: Path) -> Path:
    arguments = ["--env", "two_room", "--episodes", "2", "--model", str(model), "--output", str(output)]
    assert success_rate.main(arguments) == 0
    return output


def test_card_shows_what_was_measured(trained_folder: Path, tmp_path: Path) -> None:
    out = measured(trained_folder, tmp_path / "out.json")
    result = json.loads(out.read_text())
    agent = LeWMAgent.from_pretrained(trained_folder, device="cpu")
    card = ModelCard.load(agent.save_pretrained(tmp_path / "model", results=[out]) / "README.md")
    low, high = result["success_rate_ci95"]
    floor = result["floors"]["random"]["success_rate"]
    assert f"| `paper` | 2 | {result['success_rate']:.1f} [{low:.1f}, {high:.1f}] | random {floor:.1f}" in card.text
    assert result["command"] in card.text
    assert "12 episodes, policy expert" in card.text
    (evaluation,) = card.data.eval_results
    assert evaluation.metric_value == result["success_rate"]
    assert evaluation.dataset_name == "lewm/TwoRoom-v0, protocol paper, 2 pairs"


def test_results_of_other_weights_are_refused(trained_folder: Path, tmp_path: Path) -> None:
    out = measured(trained_folder, tmp_path / "out.json")
    result = json.loads(out.read_text())
    agent = LeWMAgent.from_pretrained(trained_folder, device="cpu")
    with pytest.raises(ValueError, match="was measured with other weights"):
        agent.save_pretrained(tmp_path / "model", half_precision=True, results=[out])
    next(agent.world_model.parameters()).data += 1e-3
    with pytest.raises(ValueError, match="was measured with other weights"):
        agent.save_pretrained(tmp_path / "model", results=[out])
    for name in ("env", "floors", "success_rate_ci95", "command", "planner", "episodes", "protocol"):
        out.write_text(json.dumps({key: value for key, value in result.items() if key != name}))
        with pytest.raises(ValueError, match=f"is not a result of eval.*{name}"):
            LeWMAgent.from_pretrained(trained_folder, device="cpu").save_pretrained(tmp_path / "model", results=[out])
    out.write_text("{}")
    with pytest.raises(ValueError, match="is not a result of eval"):
        agent.save_pretrained(tmp_path / "model", results=[out])
    assert not (tmp_path / "model").exists()


def test_what_a_file_says_stays_in_its_place_on_the_card(trained_folder: Path, tmp_path: Path) -> None:
    out = measured(trained_folder, tmp_path / "out.json")
    result = json.loads(out.read_text())
    out.write_text(json.dumps({**result, "command": "eval\n```\n# Solved: 100 %\n````", "protocol": "a | b\n\n# c"}))
    agent = LeWMAgent.from_pretrained(trained_folder, device="cpu")
    assert agent.description.training is not None
    training = dataclasses.replace(agent.description.training, data="mine |\n\n# Solved")
    agent.description = dataclasses.replace(agent.description, training=training)
    text = (agent.save_pretrained(tmp_path / "model", results=[out]) / "README.md").read_text()
    assert "\n`````\neval\n```\n# Solved: 100 %\n````\n`````\n" in text
    assert "| data | mine \\| # Solved |" in text and "| `a \\| b # c` |" in text


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_the_card_names_the_preset_of_the_planner(name: str) -> None:
    assert search_summary(PLANNERS[name]).startswith(f"{name}: ")
    other = dataclasses.replace(PLANNERS[name], initial_std=0.7)
    assert search_summary(other).startswith(f"{name}, initial_std 0.7: ")
    assert search_summary(dataclasses.replace(PLANNERS["mppi"], search=MPPI(0.7))).startswith("mppi, temperature 0.7: ")


def test_cards_of_bundled_models_name_their_planner() -> None:
    for name, folder in hub.bundled().items():
        agent = LeWMAgent.from_pretrained(f"bundled:{name}", device="cpu")
        assert f"| planner | {search_summary(agent.config.planner)} |" in (folder / "README.md").read_text()
