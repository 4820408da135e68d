"""Where a model lies, by what it is called: a path, a name of one that comes with the package, or an id on the Hub."""

from __future__ import annotations

import re
import warnings
from importlib import resources
from pathlib import Path
from typing import TypedDict

import huggingface_hub
import huggingface_hub.errors

from lewm_agent.checkpoints import wrappings
from lewm_agent.checkpoints.checkpoint import CARD, CONFIG, WEIGHTS, CheckpointError
from lewm_agent.training.run_folder import meant_by

FILES = (CONFIG, WEIGHTS, CARD)
DOWNLOADED = (*FILES, "weights*.pt", "*_weight.ckpt")
"""Our files and those of the released models (:mod:`lewm_agent.checkpoints.released`)."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
BUNDLED = "bundled:"
"""Before the name of a bundled model: that one, whatever lies here."""


class HubOptions(TypedDict, total=False):
    """The keyword arguments of :func:`locate`, for those who pass them on."""

    revision: str | None
    cache_dir: str | Path | None
    token: str | None
    local_files_only: bool


def bundled() -> dict[str, Path]:
    """Names and folders of the models that ship with the package."""
    root = Path(str(resources.files("lewm_agent"))) / "pretrained"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def find_here(name: str | Path) -> Path | None:
    """Where a model lies that is named by a path, or comes with the package; None if the name may be a Hub id.

    A ``Path`` is a path. Text is a path if a model lies there; else the name of a bundled model, which may also be
    written ``bundled:two_room``; else a path if there is anything. Of a training run the newest whole checkpoint is
    meant, and of a folder that only holds one folder with a model, that one.

    Raises:
        CheckpointError: there is nothing by that name, and it can be no Hub id; or a folder holds several models.
    """
    path, text, models = meant_by(Path(name)), str(name), bundled()
    if isinstance(name, str) and text.removeprefix(BUNDLED) in models:
        if text in models and (found := _found_in(path, f"`{BUNDLED}{text}`")):
            warnings.warn(
                f"`{text}` is a folder here, which is loaded, and a bundled model, which would be `{BUNDLED}{text}`",
                stacklevel=2,
            )
            return found
        return models[text.removeprefix(BUNDLED)]
    if path.exists():
        return wrappings.inside(path)
    if isinstance(name, str) and HUB_ID.fullmatch(text):
        return None
    if isinstance(name, Path):
        raise CheckpointError(f"there is no file or folder {path}")
    raise CheckpointError(
        f"no model `{name}`: it is neither a bundled model ({', '.join(models) or 'none'}), nor a file or folder, nor "
        "a Hub id such as `user/model`"
    )


def _found_in(path: Path, otherwise: str) -> Path | None:
    """The model at a path, if there is one; where there are several, ``otherwise`` is told beside them."""
    try:
        found = wrappings.inside(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or {otherwise}") from error
    return found if wrappings.is_model(found) else None


def locate(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Where a checkpoint lies: what :func:`find_here` finds, or a Hub repository (downloaded and cached).

    Args:
        name: a bundled model, a path, or a Hub id (``user/model``).
        revision: branch, tag or commit on the Hub.
        cache_dir: where Hub downloads are kept.
        token: for private Hub repositories.
        local_files_only: never use the network.

    Raises:
        CheckpointError: nothing by that name, or the Hub could not be reached.
    """
    here = find_here(name)
    if here is not None:
        return here
    try:
        folder = huggingface_hub.snapshot_download(
            str(name),
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=list(DOWNLOADED),
        )
    except (
        huggingface_hub.errors.HfHubHTTPError,
        huggingface_hub.errors.HFValidationError,
        huggingface_hub.errors.LocalEntryNotFoundError,
        OSError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"no folder `{name}` here, and no such model could be had from the Hub: {reason}"
        ) from error
    return wrappings.inside(Path(folder))


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
