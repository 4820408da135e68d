"""What the README and two guides show is run here, with the long sizes made short."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from sklearn.neural_network import MLPRegressor

from lewm_agent import cli, recipes
from lewm_agent.eval import (
    ablation,
    horizon,
    latent_geometry,
    latent_precision,
    planning_time,
    probing,
    reconstruction,
    report,
    success_rate,
    surprise,
    true_dynamics,
)

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = [(ROOT / "docs" / "guide" / f"{name}.md").read_text() for name in ("collect_and_learn", "measuring")]
BRIEF_TRAINING = "--training.epochs 0.1 --training.batch-size 16"
BRIEF_HEAD = "inverse-dynamics:inverse-dynamics-config --inverse-dynamics.steps 10"
SHORTER = {
    "episodes=2000": "episodes=6",
    "--episodes 2000": "--episodes 6",
    "--episodes 200": "--episodes 2",
    "--episodes 50": "--episodes 1",
    "lewm eval --env cube": "lewm eval --env cube --planner small",
    "lewm eval --env two_room --episodes": "lewm eval --env two_room --planner small --episodes",
    "lewm probe --env push_t": "lewm probe --env two_room",  # whose held-out episodes are played in a moment
    "reconstruction.py --env push_t": "reconstruction.py --env two_room",
    "horizon.py --env two_room cube --episodes 100": "horizon.py --env two_room --offsets 25 --episodes 1",
    "cube --offsets 50 100 --floors --oracle expert recorded": "two_room --offsets 25 --episodes 1 --oracle recorded",
    "cube --episodes 100": "cube --episodes 1 --budgets 0.125 --planners small",
    "--output probing.json": "--output probing.json --frames 100 --seeds 1",
    "--output precision.json": "--output precision.json --episodes 8",
    "--output geometry.json": "--output geometry.json --episodes 6",
    "--output surprise.json": "--output surprise.json --trajectories 2",
    "--picture reconstruction.png": "--picture reconstruction.png --frames 80 --steps 5 --trajectories 2",
    "--vary objective.sigreg_weight=0,0.01,0.1": "--vary objective.sigreg_weight=0.1 --seeds 1 --episodes 2",
    "mine small": f"mine small {BRIEF_TRAINING} {BRIEF_HEAD}",
    "num_envs=2": "num_envs=1",  # processes are started in tests of their own
    "--num-envs 2": "--num-envs 1",
    "--workers 2": "--workers 1",
    "--families 185 --episodes 18685": "--families 2 --episodes 4",
    "--steps 20000": "--steps 110 --evaluation-episodes 1",
}
ELSEWHERE = {"make run", "make test", "pip install -e ."}
"""``tests/test_make.py`` and CI run these."""


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", "\n".join([README, *GUIDES]), flags=re.DOTALL)
    for long, short in SHORTER.items():
        found = [block.replace(long, short) for block in found]
    return found


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and line not in ELSEWHERE]


@pytest.mark.usefixtures("brief")
def test_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    examples = blocks("python")
    assert len(examples) == 3 + 1
    for example in examples:
        exec(compile(example, "README.md", "exec"), namespace)
    assert (tmp_path / "models" / "two_room" / "model.safetensors").is_file()


@pytest.mark.usefixtures("brief")
def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(probing.PROBES, "mlp", lambda seed: MLPRegressor(hidden_layer_sizes=(8,), max_iter=5))
    short = {name: dataclasses.replace(recipe, episodes=6, epochs=0.1) for name, recipe in recipes.RECIPES.items()}
    monkeypatch.setattr(recipes, "RECIPES", short)
    measuring = (ablation, horizon, latent_geometry, latent_precision, planning_time, probing, reconstruction, report)
    measuring += (success_rate, surprise, true_dynamics)
    evaluations = {f"eval/{module.__name__.split('.')[-1]}.py": module for module in measuring}
    assert len(commands()) == 7 + 3 + 14
    for command in commands():
        program, *arguments = shlex.split(command)
        if program == "lewm":
            assert cli.main(arguments) == 0, command
        else:
            assert program == "python", command
            assert evaluations[arguments[0]].main(arguments[1:]) == 0, command
    made = {"data/two_room", "runs/mine/model", "runs/reproduced/model", "out.json", "gifs", "planning.png"}
    made |= {"probing.json", "probing.png", "surprise.json", "surprise.png"}
    made |= {"reconstruction.png", "decoder.safetensors", "diagnosis.html", "runs/ablation/objective.sigreg_weight.png"}
    made |= {"latent_maps.png", "geometry.json", "true_dynamics.json", "report/index.html", "mine/index.html"}
    made |= {"runs/reacher_sac.zip", "data/reacher_sac", "horizon.png"}
    assert all((tmp_path / name).exists() for name in made)


def test_local_links_pictures_and_sections_exist() -> None:
    pages = {path: path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))}
    links = [(page, link) for page, text in pages.items() for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    links += [(ROOT / "README.md", source) for source in re.findall(r'src="([^"]+)"', README)]
    assert len(links) > 50
    assert [(page.name, link) for page, link in links if not leads_somewhere(page, link)] == []


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether the file of a relative link is there, and has the section that it names."""
    name, _, section = link.partition("#")
    target = page.parent / name if name else page
    if not target.exists() or not section:
        return target.exists()
    titles = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
    return section in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
