"""The folder of a saved agent: ``config.json`` + ``model.safetensors`` + ``README.md``.

Nothing is ever unpickled: weights are safetensors, everything else is JSON. ``config.json`` holds the SHA-256 of the
weights and of its own other values, so that damage, or files of two models, are noticed before an agent acts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dacite
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lewm_agent.tools.checks import require
from lewm_agent.tools.replacing import put_in_place, write_together
from lewm_agent.training.record import TrainingRecord
from lewm_agent.training.settings import AgentSettings

FORMAT = "lewm-agent"
FORMAT_VERSION = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete, damaged or not one of ours; the message says which and what to do."""


@dataclass(frozen=True)
class Adaptation:
    """How a trained encoder was taught other looks (:mod:`lewm_agent.adapting.teaching`)."""

    source: str
    """SHA-256 of the weights of the model as it was before."""
    settings: dict[str, Any]
    record: TrainingRecord | None = None
    """None: nothing has been learned yet."""


@dataclass(frozen=True)
class Description:
    """Everything besides the weights that an agent needs to act, and how it came about.

    Raises:
        ValueError: an environment that only an import would make known, arguments of it that JSON cannot hold, or
            bounds that are not those of the model's actions.
    """

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
    adaptation: Adaptation | None = None
    """None: the encoder is as the training left it."""

    def __post_init__(self) -> None:
        # Gymnasium imports what stands before a colon, and a file may come from anyone.
        require(":" not in (self.environment or ""), f"environment {self.environment!r} would import a module: refused")
        count = self.agent.model.action_dim
        for name in ("action_low", "action_high"):
            bounds = getattr(self, name)
            fits = len(bounds) == count and all(map(math.isfinite, bounds))
            require(fits, f"{name} must be {count} finite numbers, got {bounds}")
        require(
            all(low <= high for low, high in zip(self.action_low, self.action_high, strict=True)),
            f"action_low {self.action_low} must be at most action_high {self.action_high}",
        )
        for name, value in self.environment_kwargs.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(
                    f"the environment's argument `{name}` cannot be kept in {CONFIG} ({error}): make the environment "
                    "with plain numbers, text, lists and dictionaries"
                ) from error

    @property
    def learned(self) -> bool:
        """Whether the weights are more than random."""
        return self.training is not None or self.released_weights is not None

    @property
    def origin(self) -> dict[str, Any]:
        """How the weights came about, ready for JSON and for tables; empty where nothing has been learned."""
        adapted = self.adaptation.record if self.adaptation else None
        looks = {"looks taught with": f"{adapted.data}, {adapted.steps} steps"} if adapted else {}
        if self.training is not None:
            return self.training.told() | looks
        return looks if self.released_weights is None else {"weights": self.released_weights, **looks}

    def identity(self) -> dict[str, Any]:
        """Everything but the origin of the weights, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["training"], values["released_weights"], values["adaptation"]
        if self.adaptation is not None:
            values["adaptation"] = {"source": self.adaptation.source, "settings": self.adaptation.settings}
        return {**values, "agent": self.agent.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """What ``config.json`` says, but for the hashes; what is missing is left out."""
        values = self.identity()
        if self.agent_kind == "lewm":
            del values["agent_kind"]
        if self.training is not None:
            values["training"] = self.training.values()
        if self.adaptation is not None and self.adaptation.record is not None:
            values["adaptation"]["record"] = self.adaptation.record.values()
        if self.released_weights is not None:
            values["released_weights"] = self.released_weights
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **values}


ParseSettings = Callable[[dict[str, Any]], AgentSettings]
"""The agent's part of ``config.json`` to its configuration."""


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises :class:`CheckpointError` if there is none."""
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} is not valid JSON for a model: it holds a {type(values).__name__}, no object")
    return values


def agent_kind(folder: Path) -> str:
    """Name of the kind of agent that a checkpoint folder holds. Raises :class:`CheckpointError`."""
    return str(_read_config(folder).get("agent_kind", "lewm"))


def write(folder: Path, description: Description, weights: Mapping[str, Tensor], card: str) -> None:
    """Write the files of a checkpoint into ``folder``: all of them or, whatever happens, none.

    Args:
        folder: may hold a checkpoint, which is replaced, and other files, which stay.
        description: of the agent.
        weights: by name.
        card: the text of ``README.md``.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
        ValueError: weights that are not finite.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    check_finite(contiguous, f"nothing was saved in {folder}")
    files = {
        folder / WEIGHTS: safetensors.torch.save(contiguous, metadata={"format": "pt"}),
        folder / CARD: card.encode(),
    }
    config = _with_hashes(description, {path.name: hashlib.sha256(data).hexdigest() for path, data in files.items()})
    with saving(folder):
        with contextlib.suppress(CheckpointError):
            _finish(folder, read_object(folder / CONFIG))
        write_together(files, folder / CONFIG, json.dumps(config, indent=2))


@contextlib.contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Make a folder to save a model in; if that fails, leave no new folder."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def read(folder: Path, parse: ParseSettings) -> tuple[Description, dict[str, Tensor]]:
    """The description and the weights of a checkpoint folder, as they were saved.

    Args:
        folder: where it lies.
        parse: reads the configuration of this kind of agent.

    Raises:
        CheckpointError: something is missing, damaged, foreign, or belongs to another model.
    """
    content, source = _read_config(folder), folder / CONFIG
    values = {name: value for name, value in content.items() if name not in ("format", "format_version", "sha256")}
    try:
        agent = values.get("agent")
        require(isinstance(agent, dict), f"agent must be an object of settings, got {agent!r}")
        values["agent"] = parse(values["agent"])
        description = dacite.from_dict(Description, values, dacite.Config(strict=True))
    except (dacite.DaciteError, ValueError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    own, recorded = _sha256_of(content), content["sha256"]
    if recorded[CONFIG] != own:
        raise CheckpointError(
            f"{source} is not as it was saved: damaged, or changed by hand; if a change was meant, write {own} as "
            f"the sha256 of {CONFIG} in it"
        )
    data = (folder / WEIGHTS).read_bytes()
    if recorded[WEIGHTS] != hashlib.sha256(data).hexdigest():
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged, or not the file that {CONFIG} was saved with: their SHA-256 differ; get "
            "both once more"
        )
    return description, tensors(data, folder / WEIGHTS)


def _read_config(folder: Path) -> dict[str, Any]:
    """The values in ``config.json``; a save that was killed at its end is finished before."""
    source = folder / CONFIG
    if not source.is_file():
        raise CheckpointError(f"{folder} is not a lewm-agent checkpoint: it has no {CONFIG}")
    content = read_object(source)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{source} does not describe a lewm-agent checkpoint")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{source} has format version {version}; this lewm-agent reads {FORMAT_VERSION}")
    try:
        _finish(folder, content)
    except OSError as error:
        raise CheckpointError(f"{folder}: a save that was cut off cannot be finished here ({error})") from error
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} is not a lewm-agent checkpoint: it has no {WEIGHTS}")
    recorded = content.get("sha256")
    if not isinstance(recorded, dict) or not {CONFIG, WEIGHTS} <= recorded.keys() <= {CONFIG, WEIGHTS, CARD}:
        found = {WEIGHTS: hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(), CONFIG: _sha256_of(content)}
        raise CheckpointError(
            f"{source} does not say by its SHA-256 which {WEIGHTS} it belongs to; if it is the one beside it, add "
            f'"sha256": {json.dumps(found)}'
        )
    return content


def _finish(folder: Path, content: Mapping[str, Any]) -> None:
    recorded = content.get("sha256")
    if isinstance(recorded, dict):
        put_in_place({folder / name: str(recorded[name]) for name in (CARD, WEIGHTS) if name in recorded})


def _with_hashes(description: Description, files: Mapping[str, str]) -> dict[str, Any]:
    values = description.to_dict()
    return {**values, "sha256": {**files, CONFIG: _sha256_of(values)}}


def _sha256_of(content: Mapping[str, Any]) -> str:
    """Hash of all values of ``config.json`` but the hashes, whatever their order."""
    values = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hash of names and values, whatever the file they lie in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def tensors(data: bytes, source: Path) -> dict[str, Tensor]:
    """What a safetensors file holds. Raises :class:`CheckpointError` if it is none, or holds NaN or infinity."""
    try:
        found = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{source} is damaged or not a safetensors file ({error})") from error
    check_finite(found, str(source))
    return found


def check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise :class:`CheckpointError` if a weight is NaN or infinite."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise CheckpointError(
                f"{source}: tensor {name} holds numbers that are not finite; the file is damaged, or the training has "
                "diverged"
            )


def check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: Path) -> None:
    """Raise :class:`CheckpointError` unless both hold the same names with the same shapes and kinds of numbers."""
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
        if found[name].is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(f"{source}: tensor {name} holds {found[name].dtype}, it should be {tensor.dtype}")


def check_model(
    describe: Callable[[], Mapping[str, Tensor]],
    settings: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    source: Path,
) -> None:
    """Compare a model with its weights before memory is asked for it: a file may name any size.

    Args:
        describe: makes the model, and returns its tensors; called where tensors have shapes and no memory.
        settings: the model's sizes, nested.
        weights: what is to be loaded into it.
        source: of settings and weights, for the message.

    Raises:
        CheckpointError: they do not belong together.
    """
    numbers = sum(tensor.numel() for tensor in weights.values())
    for name, value in _integers(settings):  # constructors count up to these, before there are any shapes
        if name.endswith("depth") and value > len(weights):
            raise CheckpointError(f"{source}: its config.json says {name} {value}, but it has {len(weights)} tensors")
        if name == "patch_size" and value > numbers:
            raise CheckpointError(f"{source}: its config.json says {name} {value}, but it has {numbers} weights")
    try:
        with torch.device("meta"):
            expected = describe()
    except ImportError:  # of a library that this model is made with; the message says which
        raise
    except Exception as error:  # what torch and timm raise for sizes that cannot be may be anything
        raise CheckpointError(f"{source}: no model has the sizes that its config.json names ({error})") from error
    check_weights(expected, weights, source)


def _integers(settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _integers(value)
        elif isinstance(value, int):
            yield name, value
