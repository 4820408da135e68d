"""Break everything that takes long, on purpose and at size, and count what was lost.

``python benchmarks/faults.py --output faults.json``

Kills: kill -9 at random moments (half of them when the process is about to touch a file, half at any time) of
collecting, training, evaluating, converting and saving, of what continues them, and of their workers; each is then
continued and compared with a run that was left alone. Inputs: command lines, configurations, datasets, journals and
checkpoints with flipped bits or an impossible structure; what is not refused must do what the sound one does. Disks:
full at every so many bytes of a small run, which goes on when there is room again.

Every attempt has a process and a folder of its own and a seed made of ``--seed`` and its name, so ``--only`` can repeat
one. The same command continues with what is in FILE.unfinished.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a process with threads must not fork
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import tyro
from breaking.trial import GOOD, OUTCOMES, Finding, Trial
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from lewm_agent.tools import command

WIDTH = 120
"""Of the table, in characters."""


@dataclass(frozen=True)
class Arguments:
    """What to break, and how often."""

    kills: int = 420
    """Kills, about; 0 for none."""
    inputs: int = 1000
    """Bad inputs."""
    disk_step: int = 50_000
    """Bytes between two sizes of the full disk; 0 for none."""
    quick: bool = False
    """A twentieth of everything, for a taste."""
    seed: int = 0
    """Of every moment and every damage."""
    only: str = ""
    """Attempts whose name begins so: kills, inputs/journals, kills/learn/17; with their words."""
    output: Path | None = None
    """JSON file for the results."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0 if nothing was found, 1 if something was."""
    return command.run(_work, arguments, continues="with --output, the same command continues")


def _work(arguments: list[str]) -> int:
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    if min(options.kills, options.inputs, options.disk_step) < 0:
        raise ValueError("kills, inputs and disk_step must not be negative")
    found = break_all(options)
    show(found)
    if options.output is not None:
        write(options, found)
    return int(any(is_fault(finding) for finding in found.values()))


def break_all(options: Arguments) -> dict[str, Finding]:
    """Every attempt's finding, by its name; those of an interrupted run are taken over."""
    before = unfinished(options)
    with tempfile.TemporaryDirectory(prefix="lewm-faults-") as place:
        listed = [trial for trial in attempts(options, Path(place)) if trial.name.startswith(options.only)]
        found = {trial.name: before[trial.name] for trial in listed if trial.name in before}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = command.console(stderr=True)
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
            bar = progress.add_task("", total=len(listed), completed=len(found))
            for number, trial in enumerate(trial for trial in listed if trial.name not in found):
                progress.update(bar, description=trial.name.rpartition("/")[0])
                finding = found[trial.name] = attempted(trial, Path(place) / f"attempt-{number}")
                keep(options, trial.name, finding)
                progress.advance(bar)
                if is_fault(finding) or options.only:
                    console.print(f"{trial.name}: {finding.outcome}: {finding.detail}", soft_wrap=True)
    return found


def attempts(options: Arguments, place: Path) -> Iterator[Trial]:
    """All that is asked for, in order."""
    from breaking import disks, inputs, kills, scene  # here: processes that are spawned import this file again

    (place / "scene").mkdir()
    made, share = scene.make_scene(place / "scene"), 0.05 if options.quick else 1.0
    if count := round(options.kills * share):
        yield from kills.trials(made, count, options.seed)
    if count := round(options.inputs * share):
        yield from inputs.trials(made, count, options.seed)
    if options.disk_step and "disks".startswith(options.only.split("/")[0]):
        (place / "disks").mkdir()
        yield from disks.trials(made, place / "disks", round(options.disk_step / share))


def attempted(trial: Trial, folder: Path) -> Finding:
    """One attempt in an empty folder, which is then removed."""
    folder.mkdir()
    try:
        return trial.attempt(folder)
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)


def is_fault(finding: Finding) -> bool:
    """Whether it should not be so."""
    return finding.outcome not in GOOD


def unfinished(options: Arguments) -> dict[str, Finding]:
    """What an interrupted run of the same command has found."""
    file = journal_of(options)
    lines = file.read_text().splitlines() if file is not None and file.exists() else []
    if not lines or json.loads(lines[0]) != settings_of(options):
        if file is not None:
            file.write_text(json.dumps(settings_of(options)) + "\n")
        return {}
    entries = [json.loads(line) for line in lines[1:] if line.endswith("}")]
    return {entry.pop("name"): Finding(**entry) for entry in entries}


def keep(options: Arguments, name: str, finding: Finding) -> None:
    """Add a line to the journal."""
    if (file := journal_of(options)) is not None:
        with file.open("a") as opened:
            opened.write(json.dumps({"name": name, **asdict(finding)}) + "\n")


def journal_of(options: Arguments) -> Path | None:
    """Where an unfinished run keeps what it has."""
    return options.output and options.output.resolve().with_name(options.output.name + ".unfinished")


def settings_of(options: Arguments) -> dict[str, object]:
    """What the findings depend on."""
    return {name: value for name, value in vars(options).items() if name != "output"}


def table_of(found: dict[str, Finding]) -> dict[str, Counter[str]]:
    """By kind and what was broken, and for all of a kind: number of attempts, of breaks, and of each outcome."""
    rows: dict[str, Counter[str]] = {}
    for kind in dict.fromkeys(name.split("/")[0] for name in found):
        findings = [(name.split("/")[1], finding) for name, finding in found.items() if name.startswith(f"{kind}/")]
        for row, finding in [*findings, *(("all", finding) for _, finding in findings)]:
            counts = {finding.outcome: 1, "breaks": finding.breaks, "attempts": 1}
            rows.setdefault(f"{kind}: {row}", Counter()).update(counts)
    return rows


def show(found: dict[str, Finding]) -> None:
    """Print the table, and the faults."""
    table = Table(Column("what", no_wrap=True), "breaks", *OUTCOMES, box=None)
    for name, counts in table_of(found).items():
        numbers = [counts[key] for key in ("breaks", *OUTCOMES)]
        style = "bold" if name.endswith(": all") else ""
        table.add_row(name, *(str(number) if number else "" for number in numbers), style=style)
    command.console(width=WIDTH).print(table)
    faults = sum(is_fault(finding) for finding in found.values())
    command.say(f"{faults} faults" if faults else "nothing lost, nothing wrong, nothing left")


def write(options: Arguments, found: dict[str, Finding]) -> None:
    """Write the JSON; the journal is no longer needed."""
    import record  # imports torch

    results = {"table": table_of(found), "findings": {name: asdict(finding) for name, finding in found.items()}}
    assert options.output is not None
    record.write(options.output, settings_of(options), results)
    if (file := journal_of(options)) is not None:
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
