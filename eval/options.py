"""Options of the measuring commands that `lewm` knows by a short name.

They stand apart from the commands, so that a mistyped one is told before anything is imported to measure with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from lewm_agent.tools.cluster import Kind

ProtocolName = Literal["paper", "moderate", "strict", "varied", "far"]
"""Which pairs of a world of this package count, and what success is: docs/reference/protocols.md."""


@dataclass(frozen=True)
class ModelOptions:
    """Which model to look into, and where the result goes."""

    env: str
    """Environment: a short name (push_t) or a Gymnasium id."""
    model: str | None = None
    """Bundled name, folder or Hub id; by default the bundled model of the environment."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path | None = None
    """Where to write the JSON."""
    picture: Path | None = None
    """Where to draw the figures (PNG)."""


@dataclass(frozen=True)
class DataOptions:
    """Which model to look into, at which episodes, and where the result goes."""

    env: str | None = None
    """Environment: a short name (push_t) or a Gymnasium id; by default the model's."""
    model: str | None = None
    """Bundled name, folder or Hub id; by default the bundled model of the environment."""
    dataset: Path | None = None
    """Episodes of any environment, of which those are looked at that training did not see. Without it, in a world of
    this package, new ones that are played for the purpose."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path | None = None
    """Where to write the JSON."""
    picture: Path | None = None
    """Where to draw the figures (PNG)."""


@dataclass(frozen=True)
class PlayOptions:
    """Which model plays, in which environment, and where starts and goals come from."""

    env: str
    """Environment: a short name (two_room) or a Gymnasium id."""
    model: str | None = None
    """Bundled name, folder or Hub id; by default the bundled model of the environment."""
    planner: str | None = None
    """Planner preset (small, paper) instead of the settings saved with the model."""
    goals: str | None = None
    """For any environment: a dataset, whose episodes that training did not see are drawn from, `task` for the
    environment's own goals, a .json list of starts and goals, or module:function that returns one."""
    offset: int = 25
    """Environment steps from start to goal, with --goals DATASET."""
    success: str | None = None
    """With --goals: a key of info (is_success), a column with a tolerance (state:0.05), or module:function."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


@dataclass(frozen=True)
class Evaluation(PlayOptions):
    """Success rate of an agent on held-out pairs of start and goal, with floors measured on the same pairs."""

    episodes: int = 50
    """Pairs of start and goal. 50 leave an interval some 12 points wide; 200 are a better number."""
    protocol: ProtocolName | None = None
    """Which pairs of a world of this package, and what success is: docs/reference/protocols.md; paper by default."""
    looks: str = "colors"
    """With --protocol varied, in what pairs look different: colors, light, camera or clutter."""
    pairs: Path | None = None
    """List of pairs made by eval/pairs.py; by default the shipped one of environment and protocol, 200 pairs."""
    seed: int | None = None
    """Draw other pairs with this seed, in a world of this package from held-out episodes that are played anew."""
    offset: int = 25
    """Environment steps from start to goal, with --protocol moderate (lists ship for 25, 50, 75, 100 and 150) or with
    --goals DATASET; the agent has twice as many."""
    budget: int | None = None
    """With --goals: steps the agent has; by default twice the offset, or until the environment's time limit."""
    goal_state: bool = False
    """Tell the agent its goals in numbers, in place of pictures: the same pairs otherwise."""
    planner_seed: int = 0
    """Of the planner's noise."""
    agent: str | None = None
    """Kind of agent that the model has to be: lewm, pldm, dino_wm, gcbc, gcivl, gciql, tdmpc2, dreamer, sac_her,
    sac_her_pixels; by default any."""
    num_envs: int = 8
    """Environments planned for together; the result does not depend on it."""
    workers: int = 1
    """Processes that play; the result does not depend on it."""
    cluster: Kind = "none"
    """slurm, or local for the same way here: jobs play, each a part of the pairs with so many --workers."""
    jobs: int | None = None
    """How many, with --cluster, by default 8; the result does not depend on it."""
    cluster_options: str = "{}"
    """For submitit, as a JSON object: {"slurm_partition": "gpu", "timeout_min": 240}"""
    output: Path | None = None
    """Where to write the JSON (docs/reference/results-schema.md); an interrupted one continues from FILE.unfinished."""
    video: Path | None = None
    """Folder for GIFs of the agent beside its goal, and for what `lewm report` lets one step through."""
    videos: int = 10
    """Of how many pairs, with --video: half of them the nearest failures, then solved ones."""
    decoder: Path | None = None
    """Decoder made by eval/reconstruction.py --save: it draws what plans expect, also into the GIFs, in place of
    the nearest frames."""


@dataclass(frozen=True)
class Report:
    """Make one HTML page, which opens without a server or network, from results of lewm eval."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """JSON files written with lewm eval --output."""
    output: Path = Path("report")
    """Folder for index.html, which holds all that it shows; what else is in it stays."""


@dataclass(frozen=True)
class Watching(PlayOptions):
    """Watch an agent plan and act towards goals that you choose with the mouse; without a display, record a GIF.

    A click or a drag in either picture sets the goal; in Push-T the wheel or the arrow keys turn it.

    Keys: N new goal, R restart elsewhere, space pause, Q or Esc quit.
    """

    decoder: Path | None = None
    """Decoder made by eval/reconstruction.py --save: also show what each plan expects to see."""
    record: Path | None = None
    """Write this GIF instead of opening a window; without a display watch-ENV.gif."""
    episodes: int = 2
    """Episodes in the GIF."""
    seed: int = 0
    """Of the starts and goals, and of the planner's noise."""


@dataclass(frozen=True)
class Diagnosis:
    """Tell whether a world model is good enough to plan with, what is wrong with it, and what to do."""

    model: tyro.conf.Positional[str]
    """Output of a training, model folder, bundled name or Hub id."""
    dataset: Path
    """The data it was trained on, of which episodes were held out; or others, which it has not seen."""
    evaluation: Path | None = None
    """JSON of lewm eval with this model: also show its nearest failures, and how latent distance went on them."""
    goals: tuple[Path, ...] = ()
    """Pictures of goals to be looked up in the data; by default the ends of the held-out episodes."""
    episodes: int = 50
    """Held-out episodes, at most."""
    seed: int = 0
    """Of the choice of episodes and frames."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path | None = None
    """Where to write the JSON."""
    page: Path | None = None
    """Where to write an HTML page that opens without a server."""


@dataclass(frozen=True)
class Probing(DataOptions):
    """Probe latents for physical quantities, on held-out episodes, beside raw pixels and an untrained encoder."""

    columns: tuple[str, ...] = ()
    """With --dataset: columns of numbers to probe for (state, observation); by default all but actions and goals."""
    angles: tuple[str, ...] = ()
    """With --dataset: which of the numbers are angles in rad (state[2]), also probed for as sine and cosine."""
    frames: int = 8000
    """Frames, from as many held-out episodes as it takes."""
    seeds: int = 3
    """Splits of the episodes, and of the probes' weights."""


@dataclass(frozen=True)
class Surprise(DataOptions):
    """Prediction error over time where nothing happens, where a color changes, and where something is teleported."""

    trajectories: int = 100
    """Held-out trajectories, each in three variants; of recorded episodes as many as there are."""


@dataclass(frozen=True)
class Ablation:
    """Vary settings of training and see what becomes of success, of the latents and of the training curves."""

    env: str
    """Environment: a short name (two_room) or a Gymnasium id."""
    data: Path
    """Dataset to train on (lewm collect)."""
    output: Path
    """Folder for one training per value and seed, ablation.json and a picture of each setting."""
    vary: tuple[str, ...] = ()
    """Settings and their values: model.latent_dim=8,32,128"""
    fix: tuple[str, ...] = ()
    """Settings that differ from the preset in all trainings: training.epochs=1"""
    preset: str = "two_terms"
    """Where the other settings come from."""
    objective: str | None = None
    """What is trained on, by default what the preset is for: lewm, pldm, or what a file of --register adds."""
    register: tuple[Path, ...] = ()
    """Python files to run first, which register objectives: examples/independence.py"""
    grid: bool = False
    """All combinations of values instead of one setting at a time."""
    find_lambda: bool = False
    """Search for the best weight of SIGReg, by Brent's method on its logarithm."""
    trainings: int = 8
    """Weights to try, with --find-lambda."""
    seeds: int = 3
    """Trainings of each value."""
    protocols: tuple[ProtocolName, ...] = ("moderate",)
    """Which pairs, and what counts as success: docs/reference/protocols.md."""
    planners: tuple[str, ...] = ()
    """Planner presets that every agent is judged with; by default only its own."""
    episodes: int = 100
    """Pairs of each shipped list."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    cluster: Kind = "none"
    """none: one training after the other, here. slurm, or local for the same way here: all at once."""
    cluster_options: str = "{}"
    """For submitit, as a JSON object: {"slurm_partition": "gpu", "timeout_min": 240}"""
