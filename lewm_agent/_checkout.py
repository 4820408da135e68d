"""Keep this repository's top folders from hiding other people's distributions.

With the repository root on ``sys.path`` (``python -c``, ``python -m``, a REPL or a notebook started there),
``import datasets`` finds the folder ``datasets/`` of this checkout, although its real name is ``lewm_agent.datasets``
and the caller means the Hugging Face library.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def hand_over(name: str) -> None:
    """Put the installed module ``name`` in the place of the checkout's folder of that name.

    The folder's ``__init__.py`` calls this while it is being imported under its bare name; Python's import system then
    returns whatever stands in ``sys.modules``.

    Args:
        name: Top-level module name, already in ``sys.modules`` and loaded from ``<root>/<name>/__init__.py``.

    Raises:
        ModuleNotFoundError: No distribution installed outside the checkout provides ``name``.
    """
    root = Path(str(sys.modules.pop(name).__file__)).resolve().parents[1]
    search_path = sys.path[:]
    sys.path[:] = [entry for entry in search_path if Path(entry).resolve() != root]
    try:
        importlib.import_module(name)
    finally:
        sys.path[:] = search_path
