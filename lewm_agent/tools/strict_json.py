"""JSON that others have written, with numbers only."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def parse(text: str | bytes) -> Any:
    """The value. Raises ``ValueError`` for no JSON, what is nested too deeply, and numbers that are not finite."""
    try:
        return json.loads(text, parse_float=_finite, parse_int=_whole, parse_constant=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read(path: Path) -> Any:
    """The value in a file. Raises ``ValueError``, which names it, for another content."""
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _whole(text: str) -> int:
    _finite(text)  # a float must be able to hold it
    return int(text)
