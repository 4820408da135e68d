"""Agents on disk and on the Hugging Face Hub: ``config.json`` + ``model.safetensors`` + ``README.md``.

Nothing is ever unpickled: weights are safetensors, everything else is JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypedDict

import dacite
import huggingface_hub
import huggingface_hub.errors
import safetensors
import safetensors.torch
from torch import Tensor

from lewm_agent.tools.replacing import write_atomically
from lewm_agent.training.record import TrainingRecord
from lewm_agent.training.run_folder import meant_by
from lewm_agent.training.settings import AgentSettings

FORMAT = "lewm-agent"
FORMAT_VERSION = 1
FILES = ("config.json", "model.safetensors", "README.md")
DOWNLOADED = (*FILES, "weights.pt", "*_weight.ckpt")
"""Our files and those of the released models (:mod:`lewm_agent.checkpoints.released`)."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class HubOptions(TypedDict, total=False):
    """The keyword arguments of :func:`locate`, for those who pass them on."""

    revision: str | None
    cache_dir: str | Path | None
    token: str | None
    local_files_only: bool


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete, damaged or not one of ours; the message says which and what to do."""


@dataclass(frozen=True)
class Description:
    """Everything besides the weights that an agent needs to act, and how it came about."""

    environment: str | None
    """Gymnasium id, None for an unregistered environment."""
    environment_kwargs: dict[str, Any]
    action_low: list[float]
    """Lower bound of each action component, in the environment's units."""
    action_high: list[float]
    agent: AgentSettings
    training: TrainingRecord | None = None
    """None: this package has not trained it."""
    released_weights: str | None = None
    """Name of the file of a released model that the weights come from; None for all others."""
    agent_kind: str = "lewm"
    """Name in :mod:`lewm_agent.agents.registry`; left out of the file for LeWM."""

    @property
    def origin(self) -> dict[str, Any]:
        """How the weights came about, ready for JSON and for tables; empty where nothing has been learned."""
        if self.training is not None:
            return self.training.values()
        return {} if self.released_weights is None else {"weights": self.released_weights}

    def identity(self) -> dict[str, Any]:
        """Everything but the origin of the weights, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["training"], values["released_weights"]
        return {**values, "agent": self.agent.to_dict()}

    def to_json(self) -> str:
        """The text of ``config.json``; what is missing is left out."""
        values = self.identity()
        if self.agent_kind == "lewm":
            del values["agent_kind"]
        if self.training is not None:
            values["training"] = self.training.values()
        if self.released_weights is not None:
            values["released_weights"] = self.released_weights
        return json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **values}, indent=2)

    @staticmethod
    def from_values(values: dict[str, Any], parse: ParseSettings, source: Path) -> Description:
        """From what :func:`read_config` returns. Raises :class:`CheckpointError` naming ``source``."""
        try:
            agent = parse(values.get("agent", {}))
            return dacite.from_dict(Description, {**values, "agent": agent}, dacite.Config(strict=True))
        except (dacite.DaciteError, ValueError) as error:
            raise CheckpointError(f"{source}: {error}") from error


ParseSettings = Callable[[dict[str, Any]], AgentSettings]
"""The agent's part of ``config.json`` to its configuration."""


def read_config(folder: Path) -> dict[str, Any]:
    """The values in a checkpoint's ``config.json``, without its format. Raises :class:`CheckpointError`."""
    for name in FILES[:2]:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not a lewm-agent checkpoint: it has no {name}")
    source = folder / "config.json"
    try:
        values = json.loads(source.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{source} is not valid JSON ({error})") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise CheckpointError(f"{source} does not describe a lewm-agent checkpoint")
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{source} has format version {version}; this lewm-agent reads {FORMAT_VERSION}")
    return values


def agent_kind(folder: Path) -> str:
    """Name of the kind of agent that a checkpoint folder holds. Raises :class:`CheckpointError`."""
    return str(read_config(folder).get("agent_kind", "lewm"))


def write(folder: Path, description: Description, weights: dict[str, Tensor], card: str) -> None:
    """Write the three files of a checkpoint into ``folder``, weights last; ``card`` is the text of ``README.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(card)
    (folder / "config.json").write_text(description.to_json())
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # save_file would make a file that only its owner may read.
    write_atomically(folder / "model.safetensors", safetensors.torch.save(contiguous, metadata={"format": "pt"}))


def read(folder: Path, parse: ParseSettings) -> tuple[Description, dict[str, Tensor]]:
    """The description and the weights of a checkpoint folder. Raises :class:`CheckpointError`.

    Args:
        folder: where it lies.
        parse: reads the configuration of this kind of agent.
    """
    description = Description.from_values(read_config(folder), parse, folder / "config.json")
    try:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{folder / 'model.safetensors'} is damaged or not a safetensors file ({error})"
        ) from error
    return description, weights


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hash of names and values, whatever the file they lie in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_weights(expected: dict[str, Tensor], found: dict[str, Tensor], source: Path) -> None:
    """Raise :class:`CheckpointError` unless both hold the same names with the same shapes."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"{source} does not fit its config.json: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}"
        )
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: tensor {name} has shape {tuple(found[name].shape)}, its config.json implies "
                f"{tuple(tensor.shape)}"
            )


def bundled() -> dict[str, Path]:
    """Names and folders of the models that ship with the package."""
    root = Path(str(resources.files("lewm_agent"))) / "pretrained"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def locate(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Where a checkpoint lies: a bundled name, a local path, or a Hub repository (downloaded and cached).

    Args:
        name: a bundled model, a path, or a Hub id (``user/model``).
        revision: branch, tag or commit on the Hub.
        cache_dir: where Hub downloads are kept.
        token: for private Hub repositories.
        local_files_only: never use the network.

    Raises:
        CheckpointError: nothing by that name, or the Hub could not be reached.
    """
    models = bundled()
    if str(name) in models:
        return models[str(name)]
    if (path := meant_by(Path(name))).exists():
        return path
    if not HUB_ID.fullmatch(str(name)):
        raise CheckpointError(
            f"no model `{name}`: it is neither a bundled model ({', '.join(models) or 'none'}), nor a folder, nor a "
            "Hub id such as `user/model`"
        )
    try:
        folder = huggingface_hub.snapshot_download(
            str(name),
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=list(DOWNLOADED),
        )
    except (huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"no folder `{name}` here, and no such model could be had from the Hub: {reason}"
        ) from error
    return Path(folder)


def push(
    folder: Path, repo_id: str, *, private: bool = False, token: str | None = None, revision: str | None = None
) -> str:
    """Upload a checkpoint folder to the Hub, creating the repository; returns the URL of the commit."""
    api = huggingface_hub.HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id, folder_path=folder, allow_patterns=list(FILES), revision=revision, commit_message="lewm-agent"
    )
    return str(commit.commit_url)
