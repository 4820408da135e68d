"""How these pages become a site: ``make docs``. They are plain Markdown, which can be read without it."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any

from lewm_agent import __version__, cli

project, release = "lewm-agent", __version__
root_doc = "README"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {release}"
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
COMMAND_LINE = "reference/command_line"


def help_of(command: str) -> str:
    """What ``lewm COMMAND --help`` prints, 100 columns wide."""
    os.environ["COLUMNS"] = "100"
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        cli.main([command, "--help"])
    return printed.getvalue()


def contents(page: str) -> str:
    """The lists of links of the first page as the site's table of contents."""
    trees = ""
    for part, listed in re.findall(r"\*\*(\w+)\*\*:(.*?)(?=\n\*\*|\Z)", page, re.DOTALL):
        pages = "\n".join(re.findall(r"\]\((\w+/[\w-]+)\.md\)", listed))
        trees += f"\n```{{toctree}}\n:hidden:\n:caption: {part}\n\n{pages}\n```\n"
    return trees


def completed(app: Any, name: str, source: list[str]) -> None:
    """Give the first page its contents, and the page of the command line the help of every command."""
    if name == root_doc:
        source[0] += contents(source[0])
    if name == COMMAND_LINE:
        for command in cli.COMMANDS:
            source[0] += f"\n## lewm {command}\n\n```text\n{help_of(command)}\n```\n"


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", completed)
