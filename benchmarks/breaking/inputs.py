"""Bad inputs: command lines, configurations, datasets, journals and checkpoints, by flipped bits and by structure.

Whatever is not refused must have the result that the sound input has; else it is silently wrong.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors.numpy

from breaking import arguments
from breaking.scene import SIDE, Scene, evaluation, train, unmeasured
from breaking.trial import Ended, Finding, Trial, run, sentence_of
from lewm_agent import cli
from lewm_agent.agents.registry import load_agent
from lewm_agent.eval import success_rate

SHARES = {"arguments": 0.35, "configs": 0.2, "datasets": 0.15, "files": 0.08, "journals": 0.1, "checkpoints": 0.12}
"""Of all inputs; ``files`` are single HDF5 files without checksums, which are broken by structure only."""
RECORD = ("training", "versions")
"""Parts of a configuration that are a record of how it came about: their values may be anything."""
Damage = Callable[[Path, random.Random], str]
"""Spoils what is in a folder; returns what it has done."""
Use = Callable[[Path], Any]
"""What is done with the spoilt: JSON to compare, or an exit status."""


def trials(scene: Scene, inputs: int, seed: int) -> Iterator[Trial]:
    """So many bad inputs."""
    lines = arguments.bad_lines(scene, round(inputs * SHARES["arguments"]), random.Random(f"{seed}/arguments"))
    for number, (what, line) in enumerate(lines):
        yield Trial(f"inputs/arguments/{number}", _command_line(what, line))
    rest = inputs - len(lines)
    kinds = _kinds(scene)
    total = sum(SHARES[name] for name in kinds)
    for name, (original, damages, use) in kinds.items():
        sound = Sound(original, use)
        for number in range(max(1, round(rest * SHARES[name] / total))):
            trial = f"inputs/{name}/{number}"
            yield Trial(trial, _spoilt(sound, damages[number % len(damages)], f"{seed}/{trial}"))


def _kinds(scene: Scene) -> dict[str, tuple[Callable[[Path], object], tuple[Damage, ...], Use]]:
    """By kind: how the sound original is put into a folder, what can be done to it, and how it is used."""
    of_config = unless("/.* missing$", changed_json)  # settings have defaults
    of_metadata = unless(r"shards/\d+ missing$", changed_json)  # a collection that has not ended has fewer
    structure = (of_metadata, of_metadata, of_metadata, cut, zeros)
    return {
        "configs": (
            lambda f: shutil.copytree(scene.model, f / "model"),
            (in_file("model/config.json", of_config),),
            act,
        ),
        "datasets": (
            lambda f: shutil.copytree(scene.data, f / "data"),
            (
                *(in_file("data/shard-*.h5", damage) for damage in (flip, flip, zeros, cut, another)),
                *(in_file("data/metadata.json", damage) for damage in structure),
                wrong_shards,
            ),
            learn_from("data"),
        ),
        "files": (lambda f: single_file(scene, f / "one.h5"), (changed_columns,), learn_from("one.h5")),
        "journals": (
            lambda f: shutil.copy(scene.journal, f),
            tuple(in_file("out.json.unfinished", damage) for damage in (changed_line, changed_line, flip, lines)),
            lambda f: evaluate(scene, f),
        ),
        "checkpoints": (
            lambda f: shutil.copytree(scene.model, f / "model"),
            (
                *(in_file("model/model.safetensors", damage) for damage in (flip, zeros, cut, tensors, header)),
                *(in_file("model/config.json", damage) for damage in (cut, zeros)),
                lambda f, rng: shutil.copy(scene.other / "model.safetensors", f / "model") and "other weights",
                lambda f, rng: shutil.copy(scene.other / "config.json", f / "model") and "other config",
            ),
            act,
        ),
    }


class Sound:
    """The sound original of a kind, and what its use gives; made when first asked for."""

    def __init__(self, original: Callable[[Path], object], use: Use) -> None:
        self.original, self.use = original, use
        self._result: Any = None

    def result(self, folder: Path) -> Any:
        """With ``folder`` to work in."""
        if self._result is None:
            place = folder / "sound"
            place.mkdir()
            ended = run(lambda: (self.original(place), self.use(place))[1])
            if ended.outcome is not None or isinstance(ended.answer, int):
                raise RuntimeError(f"the sound input does not work:\n{ended.text}")
            self._result = ended.answer
        return self._result


def _command_line(what: str, line: list[str]) -> Callable[[Path], Finding]:
    def attempt(folder: Path) -> Finding:
        os.chdir(folder)
        ended = run(lambda: arguments.call(line, folder))
        found = _judged(ended, None)
        return Finding(found.outcome, f"{what}: {found.detail}")

    return attempt


def _spoilt(sound: Sound, damage: Damage, seed: str) -> Callable[[Path], Finding]:
    def attempt(folder: Path) -> Finding:
        expected = sound.result(folder)
        place = folder / "spoilt"
        place.mkdir()
        sound.original(place)
        what = damage(place, random.Random(seed))
        found = _judged(run(lambda: sound.use(place)), expected)
        return Finding(found.outcome, f"{what}: {found.detail}")

    return attempt


def _judged(ended: Ended, expected: Any) -> Finding:
    """What came of a bad input: ``expected`` is the result of the sound one, None if there is none."""
    if ended.outcome is not None:
        return Finding(ended.outcome, ended.last_line)
    if isinstance(ended.answer, int) and ended.answer:
        said = ended.answer == 2 and bool(ended.text.strip())
        return Finding("sentence" if said else "traceback", ended.last_line)
    if expected is not None and ended.answer == expected:
        return Finding("harmless")
    return Finding("wrong", f"accepted: {ended.last_line}")


# --- uses ------------------------------------------------------------------------------------------------------------


def refused(work: Callable[[], Any]) -> Any:
    """What the work returns; after an error that the commands have a sentence for, 2."""
    try:
        return work()
    except Exception as error:
        print(sentence_of(error))
        return 2


def act(folder: Path) -> Any:
    """``lewm info``, then what the agent does and is."""
    if code := cli.main(["info", str(folder / "model")]):
        return code

    def first_action() -> Any:
        agent = load_agent(str(folder / "model"), device="cpu")
        frames = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
        action = agent.act({"pixels": frames[0], "goal": frames[1]})
        return [
            np.asarray(action).tolist(),
            agent.weights_sha256(),
            agent.config.to_dict(),
            agent.description.environment,
        ]

    return refused(lambda: json.loads(json.dumps(first_action())))


def learn_from(name: str) -> Use:
    """Train on a dataset of that name; what was learned."""

    def use(folder: Path) -> Any:
        return refused(lambda: [train(folder / name, folder / "run").weights_sha256()])

    return use


def evaluate(scene: Scene, folder: Path) -> Any:
    """Continue an evaluation from the journal that lies in the folder."""
    output = folder / "out.json"
    return success_rate.main(evaluation(scene.model, output)) or unmeasured(json.loads(output.read_text()))


# --- damages ---------------------------------------------------------------------------------------------------------


def in_file(pattern: str, damage: Damage) -> Damage:
    """The damage to one of the files that the pattern finds."""

    def one(folder: Path, rng: random.Random) -> str:
        file = rng.choice(sorted(folder.glob(pattern)))
        return f"{file.name}, {damage(file, rng)}"

    return one


def flip(file: Path, rng: random.Random) -> str:
    """Flip a bit, or a few."""
    content = bytearray(file.read_bytes())
    places = [rng.randrange(len(content)) for _ in range(rng.choice((1, 1, 4)))]
    for place in places:
        content[place] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return f"bits flipped in bytes {places}"


def cut(file: Path, rng: random.Random) -> str:
    """Keep only the beginning."""
    size = rng.randrange(file.stat().st_size)
    os.truncate(file, size)
    return f"cut to {size} bytes"


def zeros(file: Path, rng: random.Random) -> str:
    """A part that was never written."""
    content = bytearray(file.read_bytes())
    first = rng.randrange(len(content))
    length = min(len(content) - first, rng.choice((8, 512, 4096)))
    content[first : first + length] = bytes(length)
    file.write_bytes(content)
    return f"{length} zeros from byte {first}"


def another(file: Path, rng: random.Random) -> str:
    """The content of another shard."""
    others = [other for other in sorted(file.parent.glob("shard-*.h5")) if other != file]
    shutil.copy(other := rng.choice(others), file)
    return f"replaced by {other.name}"


def header(file: Path, rng: random.Random) -> str:
    """Change the JSON at the beginning of a safetensors file."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    if rng.random() < 0.3:
        file.write_bytes(rng.choice((0, 1, 1 << 40, (1 << 63) - 1)).to_bytes(8, "little") + content[8:])
        return "another length of the header"
    value, what = changed(json.loads(content[8 : 8 + size]), rng)
    text = json.dumps(value).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return f"header: {what}"


def tensors(file: Path, rng: random.Random) -> str:
    """A tensor that is not finite, of another type or shape, missing, too many or swapped with another."""
    found = dict(safetensors.numpy.load_file(file))
    name = rng.choice(sorted(name for name, value in found.items() if value.size and value.dtype.kind == "f"))
    what = rng.choice(("nan", "inf", "type", "shape", "missing", "added", "doubled", "named otherwise"))
    if what in ("nan", "inf"):
        found[name] = found[name].copy()
        found[name].flat[rng.randrange(found[name].size)] = float(what)
    elif what == "type":
        found[name] = found[name].astype(rng.choice((np.float16, np.float64, np.int64)))
    elif what == "shape":
        found[name] = found[name][None]
    elif what == "doubled":
        found[name] = found[name] * 2 + 1
    elif what == "added":
        found["nothing"] = found[name]
    else:
        value = found.pop(name)
        found |= {} if what == "missing" else {f"{name}_": value}
    safetensors.numpy.save_file(found, file)
    return f"{name}: {what}"


def changed_json(file: Path, rng: random.Random) -> str:
    """Change the structure or a value of a JSON file so that it cannot be right."""
    value, what = changed(json.loads(file.read_text()), rng)
    file.write_text(json.dumps(value))
    return what


def unless(pattern: str, damage: Damage) -> Damage:
    """A damage of that kind whose description does not have the pattern: what may be so is no damage."""

    def done(file: Path, rng: random.Random) -> str:
        content = file.read_bytes()
        while re.search(pattern, what := damage(file, rng)):
            file.write_bytes(content)
        return what

    return done


def changed_line(file: Path, rng: random.Random) -> str:
    """The same in one line of a file of JSON lines."""
    found = file.read_text().splitlines()
    number = rng.randrange(1, len(found))
    value, what = changed(json.loads(found[number]), rng)
    found[number] = json.dumps(value)
    file.write_text("".join(f"{line}\n" for line in found))
    return f"line {number + 1}, {what}"


def lines(file: Path, rng: random.Random) -> str:
    """Lose, repeat, shorten or spoil whole lines."""
    found = file.read_bytes().splitlines(keepends=True)
    number = rng.randrange(len(found))
    what = rng.choice(("lost", "repeated", "cut", "no text", "empty", "of another number"))
    spoilt: dict[str, list[bytes]] = {
        "lost": [],
        "repeated": [found[number]] * 2,
        "cut": [found[number][: rng.randrange(len(found[number]))] + b"\n"],
        "no text": [b"\xff\xfe\x00\n"],
        "empty": [b"\n"],
        "of another number": [found[number].replace(b'"pair": ', b'"pair": 99')],
    }
    file.write_bytes(b"".join([*found[:number], *spoilt[what], *found[number + 1 :]]))
    return f"line {number + 1} {what}"


def changed(value: Any, rng: random.Random) -> tuple[Any, str]:
    """A JSON value with one part that is missing, added, of another kind or impossible, and what was done."""
    value = copy.deepcopy(value)
    places = [place for place in _places(value, ()) if not set(place) & set(RECORD)]
    place = rng.choice(places)
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    key, old = place[-1], parent[place[-1]]
    what = rng.choice(("missing", "unknown", "kind", "kind", "impossible", "impossible"))
    if what == "missing":
        del parent[key]
        return value, f"{'/'.join(map(str, place))} missing"
    if what == "unknown" and isinstance(parent, dict):
        parent["nothing"] = 1
        return value, f"{'/'.join(map(str, place[:-1]))} has something unknown"
    parent[key] = new = _impossible(old, rng) if what == "impossible" else _of_another_kind(old, rng)
    return value, f"{'/'.join(map(str, place))} = {str(new)[:60]}"


def _places(value: Any, at: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*at, key)
        yield from _places(part, (*at, key))


def _of_another_kind(old: Any, rng: random.Random) -> Any:
    kinds: list[Any] = ["text", 7.25, ["text"], {"text": 1}, [[]]]
    return rng.choice([new for new in kinds if type(new) is not type(old)])


def _impossible(old: Any, rng: random.Random) -> Any:
    """Of the same kind, yet no value that it may have."""
    if isinstance(old, bool) or old is None:
        return "yes"
    if isinstance(old, (int, float)):
        return rng.choice((float("nan"), float("inf"), float("-inf"), 10**400, -(10**9)))
    if isinstance(old, str):
        return rng.choice(("", "../../etc/passwd", "[/y]", "nothing:Evil-v0", "x" * 100_000))
    if isinstance(old, list):
        return rng.choice(([], [*old, float("nan")], old * 2 or ["text"]))
    nested: Any = {}
    for _ in range(400):
        nested = {"deeper": nested}
    return nested


def wrong_shards(folder: Path, rng: random.Random) -> str:
    """The list of shards names one twice, out of order, or one that is not there."""
    file = folder / "data" / "metadata.json"
    content = json.loads(file.read_text())
    shards = content["shards"]
    what = rng.choice(("twice", "out of order", "elsewhere", "gone"))
    if what == "twice":
        shards.append(rng.choice(shards))
    elif what == "out of order":
        shards.reverse()
    elif what == "elsewhere":
        shards[0]["file"] = "../model/model.safetensors"
    else:
        (folder / "data" / rng.choice(shards)["file"]).unlink()
    file.write_text(json.dumps(content))
    return f"a shard {what}"


def single_file(scene: Scene, path: Path) -> None:
    """A file without metadata, as others have it: one shard."""
    shutil.copy(scene.data / "shard-00000.h5", path)


def changed_columns(folder: Path, rng: random.Random) -> str:
    """Change columns or the index of an HDF5 file so that they cannot be right."""
    index = ("ep_len", "ep_offset")
    with h5py.File(folder / "one.h5", "r+") as file:
        name = rng.choice((*sorted(set(file) - {*index}), *index, *index))
        values = file[name][...]
        what = rng.choice(("missing", "short", "flat", "text", "group", "link", "huge", "negative", "nan", "zeros"))
        del file[name]
        if what == "short":
            file[name] = values[:-1]
        elif what == "flat":
            file[name] = values.reshape(-1) if values.ndim > 1 else values[:, None]
        elif what == "text":
            file[name] = "text"
        elif what == "group":
            file.create_group(name)
        elif what == "link":
            file[name] = h5py.ExternalLink("/etc/hostname", name)
        elif what == "zeros" and name in index:
            file[name] = np.zeros_like(values)
        elif what in ("huge", "negative") and name in index:
            values[rng.randrange(len(values))] = (1 << 63) - 1 if what == "huge" else -1
            file[name] = values
        elif what == "nan" and values.dtype.kind == "f":
            values[rng.randrange(len(values) - 1)] = np.nan
            file[name] = values
    return f"column {name} {what}"
