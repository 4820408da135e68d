"""Commands that tell what there is, and turn it into other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table
from rich.text import Text

from lewm_agent.tools import command


def info(place: Annotated[str, tyro.conf.arg(metavar="PLACE")], /) -> None:
    """Tell what a dataset, a checkpoint or a training run is, and whether it is whole.

    Args:
        place: path, name of a bundled model, or Hub id.
    """
    from lewm_agent import inspection

    table = Table(show_header=False, box=None)
    for name, value in inspection.describe(place).items():
        table.add_row(Text(name, "bold"), value)
    command.console().print(table)


def convert(
    source: Annotated[str, tyro.conf.arg(metavar="SOURCE")],
    output: Annotated[str, tyro.conf.arg(metavar="OUTPUT")],
    /,
    to: Literal["lewm-agent", "released", "minari"] = "lewm-agent",
    env: str | None = None,
    dataset: Path | None = None,
    frames: str | None = None,
    image_size: int | None = None,
    overwrite: bool = False,
) -> None:
    """Turn foreign datasets and checkpoints into ours, and ours into theirs. An interrupted conversion continues.

    Args:
        source: dataset of stable-worldmodel (Lance, HDF5, pictures, videos), LeRobot v3 or Minari (its id), folder of
            videos, or checkpoint: a folder, a file or a Hub id.
        output: folder; with --to minari, the new dataset's id.
        to: lewm-agent; released, the layout of the released models of checkpoints; or minari.
        env: environment that the data or the checkpoint belong to: short name or Gymnasium id.
        dataset: whose actions' statistics a released checkpoint is given.
        frames: column with the frames, where there are several.
        image_size: side of the square that frames are resized to.
        overwrite: discard what the folder holds.
    """
    from lewm_agent import inspection
    from lewm_agent.agent import LeWMAgent
    from lewm_agent.datasets import OfflineDataset, conversion
    from lewm_agent.datasets.formats import open_source
    from lewm_agent.datasets.formats.minari import export
    from lewm_agent.envs import environment_id

    if to == "minari":
        export(OfflineDataset(source), output)
    elif inspection.is_checkpoint(source):
        agent = LeWMAgent.from_pretrained(source, env=env, dataset=dataset, device="cpu")
        agent.save_released(output) if to == "released" else agent.save_pretrained(output)
    elif to == "released":
        raise ValueError(f"--to released converts checkpoints, and {source} is none")
    else:
        name = "unknown" if env is None else environment_id(env)
        opened = open_source(source, frames)
        conversion.convert(opened, output, environment_id=name, image_size=image_size, overwrite=overwrite)
    command.say(f"written to {output}")


def envs() -> None:
    """List the environments."""
    from lewm_agent import environment
    from lewm_agent.checkpoints import hub
    from lewm_agent.envs import ENVIRONMENTS

    table = Table("name", "Gymnasium id", "what it is", "action", "bundled model")
    for name, gymnasium_id in ENVIRONMENTS.items():
        env = environment.make(name, 64)
        low, high = environment.action_bounds(env.action_space)
        bounds = f"{len(low)} numbers in [{min(low):g}, {max(high):g}]"
        summary = (type(env.unwrapped).__doc__ or "").splitlines()[0]
        table.add_row(name, gymnasium_id, summary, bounds, "yes" if name in hub.bundled() else "no")
        env.close()
    command.console().print(table)
