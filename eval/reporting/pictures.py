"""How figures become files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from lewm_agent.tools.replacing import replacing


def save_picture(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure, all or nothing, in the format of the file's ending."""
    with replacing(path) as part:
        figure.savefig(part, format=picture_format(path), dpi=dpi)


def picture_format(path: Path) -> str:
    """Format of the file's ending. Raises ``ValueError`` for one that figures cannot be written in."""
    known = FigureCanvasBase.get_supported_filetypes()
    ending = path.suffix[1:].lower()
    if ending not in known:
        raise ValueError(f"{path} cannot be drawn: give a name that ends in .png, .pdf or .svg")
    return ending
