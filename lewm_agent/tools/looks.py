"""In what the pictures of a world can look different from usual."""

from __future__ import annotations

from typing import Literal, get_args

Look = Literal["colors", "light", "camera", "clutter"]
LOOKS: tuple[Look, ...] = get_args(Look)
