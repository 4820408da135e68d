"""What a dataset or a checkpoint is, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

from lewm_agent.agents.registry import load_agent
from lewm_agent.checkpoints import hub, wrappings
from lewm_agent.checkpoints.checkpoint import CheckpointError
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.formats.minari import is_id
from lewm_agent.datasets.metadata import METADATA_FILE
from lewm_agent.training.metrics_log import read_rows
from lewm_agent.training.run_folder import OutputFolder, RunFolder, meant_by

Rows = dict[str, str]
"""Properties and their values, to be shown one below the other."""


def describe(place: str) -> Rows:
    """Look into a dataset, a checkpoint or a training run.

    Args:
        place: path, name of a bundled model, or Hub id; also a folder that ``lewm learn`` was given as output.

    Raises:
        ValueError: it is damaged, incomplete, or nothing of the kind; the message says which (also
            ``FileNotFoundError`` and :class:`CheckpointError`).
    """
    path = Path(place)
    if path.suffix in (".h5", ".hdf5") or (path / METADATA_FILE).is_file():
        return _dataset(OfflineDataset(path))
    run = RunFolder(path)
    if run.is_run():
        return _run(run)
    if path.is_dir() and place not in hub.bundled() and not wrappings.is_model(wrappings.inside(path)):
        learning = RunFolder(OutputFolder(path).training)
        if learning.is_run():
            return _run(learning)
        inside = [part.name for part in sorted(path.iterdir()) if part.is_dir()]
        hint = f"; it has the folders {', '.join(inside)}" if inside else ""
        raise CheckpointError(f"{path} is neither a dataset nor a checkpoint nor a training run{hint}")
    return _model(place)


def is_checkpoint(place: str) -> bool:
    """Whether ``place`` is a checkpoint, ours or released, rather than a dataset; Hub ids are taken for one."""
    path = Path(place)
    if path.exists():
        return wrappings.is_model(wrappings.inside(meant_by(path)))
    is_bundled = place.removeprefix(hub.BUNDLED) in hub.bundled()
    return is_bundled or (hub.HUB_ID.fullmatch(place) is not None and not is_id(place))


def _dataset(dataset: OfflineDataset) -> Rows:
    height, width, _ = dataset.frame_shape
    interval = f", one for every {dataset.frame_interval} steps" if dataset.frame_interval > 1 else ""
    rows = {
        "kind": "dataset",
        "episodes": str(dataset.num_episodes),
        "frames": f"{dataset.num_frames} of {width} x {height} pixels{interval}",
        "actions": f"{dataset.action_dim} components" if dataset.has_actions else "none",
        "columns": ", ".join(dataset.columns),
    }
    source = dataset.metadata
    if source is None:
        if dataset.left_out:
            rows["left out"] = ", ".join(f"{name} ({reason})" for name, reason in dataset.left_out.items())
        return {**rows, "whole": "a single file without checksums: its index is sound, its frames were not read"}
    dataset.verify()
    rows["environment"] = source.environment_id
    rows["policy"] = f"{source.policy}, seed {source.seed}"
    if source.attempts is not None:
        goals = ", ".join(f"{name} {value}" for name, value in source.attempts["goals"].items())
        rows["attempts"] = f"{source.reached} of {dataset.num_episodes} reached their goal ({goals})"
    missing = source.episodes - dataset.num_episodes
    rows["whole"] = f"no: {missing} of {source.episodes} episodes are missing" if missing else "yes: checksums agree"
    return rows


def _run(run: RunFolder) -> Rows:
    newest = run.newest()
    if newest is None and run.has_checkpoints():
        raise CheckpointError(f"no checkpoint of {run.path} is whole: copy the run anew, or train again")
    if newest is None:
        raise CheckpointError(f"{run.path} is a training run without a checkpoint: it was stopped before the first")
    held_out = [row for row in read_rows(run.metrics) if row.get("split") == "held_out"]
    loss = {"held-out loss": f"{held_out[-1]['total']:.4f} at step {held_out[-1]['step']}"} if held_out else {}
    return {**_model(str(newest)), **loss, "kind": "last checkpoint of a training run"}


def _model(place: str) -> Rows:
    folder = hub.locate(place)
    weights = wrappings.find(folder)
    agent = load_agent(folder, device="cpu")
    model = agent.config.model
    parameters = sum(parameter.numel() for parameter in agent.model.parameters())
    rows = {
        "kind": "checkpoint of lewm-agent" if weights is None else "checkpoint in the released layout",
        "agent": agent.kind,
        "environment": agent.description.environment or "not named",
        "frames": f"{model.image_size} x {model.image_size} pixels, {model.frame_skip} steps apart",
        "history": str(model.history),
        "actions": f"{model.action_dim} components",
        "parameters": f"{parameters:,}",
        **agent.about().traits,
        **{name.replace("_", " "): str(value) for name, value in agent.description.origin.items()},
        "whole": "yes: every tensor is there" + (", as it was saved" if weights is None else ""),
    }
    if not agent.model.knows_actions:
        rows["whole"] += "; the statistics of actions are missing, as in all released files"
    return rows
