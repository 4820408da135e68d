"""Command lines of which one argument is certainly bad."""

from __future__ import annotations

import dataclasses
import itertools
import random
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breaking.scene import CONFIG, Scene
from lewm_agent import cli
from lewm_agent.agents.behavior import train_policy as train_policy  # slow to import: once, before the forks
from lewm_agent.eval import latent_geometry, planning_time, probing, reconstruction, report, surprise, true_dynamics

COUNT = ("0", "-1", "1.5", "nan", "inf", "ten", "", "1e3", "-99999999999999999999")
SEED = ("-1", "1.5", "nan", "x", "")
NAME = ("", "nothing", "[red]x", "[/y]", "a/b/c", "../..", "\u00fc\u00df", "x" * 300, "smal")
ENVIRONMENT = (*NAME, "two_roon", "lewm/TwoRoom-v9", "no_such_module_at_all:Evil-v0")
OTHER_WORLD = (*ENVIRONMENT, "CartPole-v1", "FrozenLake-v1")
"""Where the world has to be that of the model."""
DEVICE = ("", "gpu", "cuda:99", "cpu:x", "[/y]", "tpu", "cuda:-1")
JSON_OBJECT = (
    "",
    "{",
    "[]",
    "1",
    "null",
    '"text"',
    "{'a': 1}",
    '{"nothing": 1}',
    '{"image_size": 16}',
    "[" * 100_000,
    '{"terminate_on_success": [1, {}]}',
    '{"max_episode_steps": "x"}',
)
NEW_PLACE = ("{model}/config.json", "{model}/config.json/below", "/proc/nothing/here", "/dev/null/x", "{long}")
DATASET = ("", "{folder}/nothing", "{model}", "{model}/config.json", "/dev/null", "{empty}", "{long}", "[/y]")
MODEL = ("{folder}/nothing", "{data}", "{data}/metadata.json", "/dev/null", "{empty}", "[/y]", "a/b/c", "{long}")
FILE = ("{folder}", "{model}/config.json/below", "/proc/nothing/x.json", "/dev/null/x.json", "{long}")
READ_FILE = ("{folder}", "{folder}/nothing", "{model}/config.json", "{source}", "/dev/null", "{long}")


REQUIRED = ("--env", "--path", "--dataset", "--output", "PLACE", "SOURCE", "OUTPUT")


@dataclass(frozen=True)
class Command:
    """A sound command line, and for its options the values that are bad.

    Attributes:
        words: what comes first.
        sound: options and values that work.
        bad: by option, values of which each must be refused; a name without dashes is the place of a word.
    """

    words: tuple[str, ...]
    sound: dict[str, str]
    bad: dict[str, tuple[str, ...]]

    def lines(self) -> Iterator[tuple[str, list[str]]]:
        """What is wrong, and the line: bad values, options without value, unknown ones, and required ones missing."""
        for name, values in self.bad.items():
            yield from ((f"{name} {value}", self._line({**self.sound, name: value})) for value in values)
            if name.startswith("-"):
                yield f"{name} without a value", [*self._line(self.sound), name]
        yield "unknown option", [*self._line(self.sound), "--nothing", "1"]
        yield "a word too many", [*self._line(self.sound), "unexpected"]
        for name in (name for name in self.sound if name in REQUIRED):
            yield f"no {name}", self._line({other: value for other, value in self.sound.items() if other != name})

    def _line(self, options: dict[str, str]) -> list[str]:
        line = list(self.words)
        for name, value in options.items():
            line += [name, value] if name.startswith("-") else [value]
        return line


def numbers_of(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Options of a configuration's numbers and their values."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, option = getattr(config, field.name), f"--{prefix}{field.name}".replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from numbers_of(value, f"{prefix}{field.name}.")
        elif hints[field.name] in (int, float):
            yield option, str(value)


COLLECT = Command(
    ("lewm", "collect"),
    {"--env": "two_room", "--path": "{folder}/new", "--policy": "random", "--episodes": "1"},
    {
        "--env": ENVIRONMENT,
        "--path": (*NEW_PLACE, "{model}"),
        "--policy": (*NAME, "{folder}/nothing.zip", "{source}", "{model}", "/dev/null"),
        "--episodes": COUNT,
        "--num-envs": COUNT,
        "--seed": SEED,
        "--preset": NAME,
        "--frame-interval": COUNT,
        "--environment-kwargs": JSON_OBJECT,
    },
)
LEARN = Command(
    ("lewm", "learn"),
    {"--env": "two_room", "--dataset": "{data}", "--output": "{folder}/new"},
    {
        "--env": OTHER_WORLD,
        "--dataset": (*DATASET, "{data}"),  # its frames have another size than the preset's
        "--output": (*NEW_PLACE, "{model}/config.json"),
        "--agent": NAME,
        "--frozen": ("{data}", "[/y]", "{folder}/nothing"),
        "--seed": SEED,
        "--device": DEVICE,
        "--environment-kwargs": JSON_OBJECT,
    },
)
SETTINGS = {**dict(numbers_of(CONFIG)), "--training.epochs": "0.1", "--training.schedule-epochs": "0.1"}
CONFIGURE = Command(
    (*LEARN.words, *itertools.chain(*LEARN.sound.items()), "two_terms", "--model.encoder", "vit"),
    SETTINGS,
    dict.fromkeys(SETTINGS, ("-1", "nan", "-inf", "x", "", "1e400")),
)
EVALUATE = Command(
    ("lewm", "eval"),
    {"--env": "two_room", "--model": "{model}", "--episodes": "1"},
    {
        "--env": OTHER_WORLD,
        "--episodes": (*COUNT, "201", "1000000000"),
        "--protocol": NAME,
        "--pairs": READ_FILE,
        "--seed": SEED,
        "--planner-seed": SEED,
        "--model": MODEL,
        "--agent": (*NAME, "gcbc", "pldm"),
        "--planner": NAME,
        "--num-envs": COUNT,
        "--workers": COUNT,
        "--device": DEVICE,
        "--output": FILE,
        "--video": ("{model}/config.json", "{model}/config.json/below", "/dev/null/x", "{long}"),
        "--videos": ("-1", "1.5", "x", ""),
        "--decoder": READ_FILE,
    },
)
INFO = Command(
    ("lewm", "info"), {"PLACE": "{model}"}, {"PLACE": (*NAME, *MODEL[:1], *MODEL[3:], "{model}/config.json")}
)
CONVERT = Command(
    ("lewm", "convert"),
    {"SOURCE": "{source}", "OUTPUT": "{folder}/new"},
    {
        "SOURCE": (*NAME, "{empty}", "/dev/null", "{long}"),
        "OUTPUT": (*NEW_PLACE, "{model}"),
        "--env": NAME,
        "--to": NAME,
        "--image-size": COUNT,
        "--frames": NAME,
    },
)
TRAIN_POLICY = Command(
    ("lewm", "train-policy", "two_room"),
    {"--output": "{folder}/policy.zip", "--steps": "110", "--evaluation-episodes": "1"},
    {
        "--output": ("{folder}", "{model}/config.json/below.zip", "/proc/nothing/x.zip", "{long}.zip"),
        "--steps": COUNT,
        "--seed": SEED,
        "--evaluation-episodes": COUNT,
        "--environment-kwargs": JSON_OBJECT,
    },
)
REPRODUCE = Command(
    ("lewm", "reproduce"),
    {"MODEL": "two_room", "--output": "{model}/config.json"},
    {"MODEL": NAME, "--num-envs": COUNT, "--seed": SEED, "--device": DEVICE, "--output": NEW_PLACE},
)


def looking(module: str, **bad: tuple[str, ...]) -> Command:
    """A measuring command with the usual options."""
    more = {f"--{name.replace('_', '-')}": values for name, values in bad.items()}
    usual = {"--env": OTHER_WORLD, "--model": MODEL, "--device": DEVICE, "--output": FILE, "--picture": FILE}
    return Command((module,), {"--env": "two_room", "--model": "{model}"}, {**usual, **more})


COMMANDS = (
    COLLECT,
    LEARN,
    CONFIGURE,
    EVALUATE,
    INFO,
    CONVERT,
    TRAIN_POLICY,
    REPRODUCE,
    looking("probing", frames=COUNT, seeds=COUNT),
    looking("surprise", trajectories=COUNT),
    looking("reconstruction", frames=COUNT, steps=COUNT, trajectories=COUNT),
    Command(
        ("latent_geometry",),
        {"--model": "{model}"},
        {
            "--model": MODEL,
            "--episodes": COUNT,
            "--seed": SEED,
            "--device": DEVICE,
            "--output": FILE,
            "--picture": FILE,
        },
    ),
    Command(("true_dynamics",), {"--env": "two_room"}, {"--env": ENVIRONMENT, "--episodes": COUNT, "--output": FILE}),
    Command(
        ("planning_time",),
        {"--env": "two_room"},
        {"--env": ENVIRONMENT, "--episodes": COUNT, "--budgets": ("0", "-1", "nan", "inf", "x"), "--planners": NAME},
    ),
    Command(("report",), {"RESULTS": "{model}/config.json"}, {"RESULTS": READ_FILE}),
)
MAINS: dict[str, Callable[[list[str]], int]] = {
    module.__name__.rpartition(".")[2]: module.main
    for module in (latent_geometry, planning_time, probing, reconstruction, report, surprise, true_dynamics)
}


def bad_lines(scene: Scene, count: int, rng: random.Random) -> list[tuple[str, list[str]]]:
    """So many different command lines, or all there are, each after the words on what is wrong with it."""
    every = [
        (f"{' '.join(command.words[:2])}, {what[:80]}", line) for command in COMMANDS for what, line in command.lines()
    ]
    (scene.root / "empty").mkdir(exist_ok=True)
    places = {"data": scene.data, "model": scene.model, "source": scene.source, "empty": scene.root / "empty"}
    words = {**{f"{{{name}}}": str(place) for name, place in places.items()}, "{long}": "long" * 1100}
    chosen = rng.sample(every, min(count, len(every)))
    return [(what, [_filled(word, words) for word in line]) for what, line in chosen]


def _filled(word: str, words: dict[str, str]) -> str:
    for name, value in words.items():
        word = word.replace(name, value)
    return word


def call(line: list[str], folder: Path) -> int:
    """Exit status of a command line, with ``{folder}`` standing for an empty folder."""
    program, *arguments = [word.replace("{folder}", str(folder)) for word in line]
    try:
        return int(cli.main(arguments) if program == "lewm" else MAINS[program](arguments))
    except SystemExit as ending:  # tyro's and argparse's way
        return ending.code if isinstance(ending.code, int) else 1
