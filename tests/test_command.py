"""How commands end: one sentence for every kind of error, the exit codes, interruptions and readers that have gone."""

from __future__ import annotations

import errno
import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest

from lewm_agent import __version__, cli
from lewm_agent.tools import command


def _raises(error: BaseException) -> Callable[[list[str]], int]:
    def work(_: list[str]) -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("give [/y] a [red]name"), "give [/y] a [red]name"),
        (RuntimeError("lower the\n  learning rate"), "lower the learning rate"),
        (gym.error.NameNotFound("no environment :smile: [/x]"), "no environment :smile: [/x]"),
        (KeyError("floors"), "`floors` is missing where it is needed (--debug shows where)"),
        (KeyError("there is no such key"), "there is no such key"),
        (MemoryError(), "there is not enough memory"),
        (RecursionError("maximum depth"), "something is nested too deeply: maximum depth"),
        (EOFError(), "EOFError (--debug shows where)"),
        (pickle.UnpicklingError("invalid load key"), "UnpicklingError: invalid load key (--debug shows where)"),
        (zipfile.BadZipFile("not a zip file"), "BadZipFile: not a zip file (--debug shows where)"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero (--debug shows where)"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a [/b] c"), "a [/b] c: No such file"),
        (OSError("a file without a number"), "a file without a number"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.json"), "x.json: the disk is full; run it again"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_sentence_as_it_is(error: Exception, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(_raises(error), [], continues="run it again") == 2
    assert capsys.readouterr().err == f"error: {told}\n"


def test_debug_shows_where_it_arose(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(_raises(ValueError("no")), ["--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error and error.endswith("error: no\n")


def test_a_warning_is_one_line() -> None:
    """In a process of its own: pytest keeps warnings to itself."""
    work = "import sys, warnings\nfrom lewm_agent.tools import command\n"
    work += "command.run(lambda _: warnings.warn('some are\\n  left out'), sys.argv[1:])"
    plain, where = (
        subprocess.run([sys.executable, "-c", work, *given], capture_output=True, text=True, check=True).stderr
        for given in ([], ["--debug"])
    )
    assert plain == "warning: some are left out\n"
    assert where == "warning: some are left out (UserWarning, <string>:3)\n"


def test_the_work_gets_its_arguments_and_gives_the_code() -> None:
    given: list[str] = []
    assert command.run(given.extend, ["a", "--debug", "b"]) == 0  # type: ignore[arg-type]
    assert given == ["a", "b"]
    assert command.run(lambda _: 3, []) == 3


def _terminate(_: list[str]) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    return 0


@pytest.mark.parametrize("work", [_raises(KeyboardInterrupt()), _terminate])
def test_an_interruption_says_how_to_go_on(
    work: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert command.run(work, [], continues="run it again") == 130
    assert capsys.readouterr().err == "interrupted; run it again\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("what", ["print('x' * 10**6)", "print('x')", "print('x'); sys.exit(0)"])
def test_a_reader_who_leaves_is_no_error(what: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    text = f"import sys\nfrom lewm_agent.tools import command\ndef work(_):\n    sys.stdin.read()\n    {what}\n"
    script.write_text(text + "sys.exit(command.run(work))\n")
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, script], stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.parametrize(
    ("code", "left_out"),
    [
        ("import lewm_agent", "torch numpy gymnasium tyro rich"),
        ("from lewm_agent import cli; cli.main(['--help'])", "torch numpy gymnasium scipy"),
        ("from lewm_agent import cli; cli.main(['lern'])", "torch numpy gymnasium scipy"),
        *(
            (f"from lewm_agent import cli; cli.main(['{name}', '--epsiodes'])", "torch numpy gymnasium scipy")
            for name, one in cli.COMMANDS.items()
            if isinstance(one, cli.Elsewhere) and one.options
        ),
        ("from lewm_agent.eval import success_rate", "torch._dynamo timm lightning_fabric scipy.stats matplotlib"),
    ],
)
def test_nothing_is_imported_too_early(code: str, left_out: str) -> None:
    """Nor do the processes that collect, which import the command line again, load torch."""
    told = f"print(sorted(set({left_out!r}.split()) & set(sys.modules)))"
    lines = f"import atexit, sys\natexit.register(lambda: {told})\n{code}"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    listed = re.findall(r"• (\S+)", capsys.readouterr().out)
    assert listed == list(cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: lewm {name} ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"lewm-agent {__version__}\n"


@pytest.mark.parametrize("name", ["gymnasium:Nope-v0", "nowhere:Nope-v0", "CartPole", "CarRacing-v2"])
def test_what_gymnasium_says_is_said(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["collect", "--env", name, "--path", str(tmp_path / "x"), "--policy", "random"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    suggested = {"CartPole": "CartPole-v1", "CarRacing-v2": "CarRacing-v3"}.get(name, "")
    assert suggested in error
