"""Model files as people have them: where in a folder they lie, and under what names they hold the released tensors.

Tensors are the only thing that is ever unpickled.
"""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lewm_agent.checkpoints.checkpoint import CONFIG, FORMAT, WEIGHTS, CheckpointError, check_finite, tensors
from lewm_agent.tools.replacing import part_of

PREFERRED, OTHERS = ("weights.pt", "*_weight.ckpt"), ("*.safetensors", "*.pt", "*.pth", "*.ckpt")
"""Files of weights; the others count where there are none of the first. Beside them may lie pickled objects."""
ANCHOR, OUR_ANCHOR = "predictor.pos_embedding", "predictor.position"
"""A tensor that every released model has, and what we call it; what stands before its name stands before all."""
COMPILED = "_orig_mod."
"""What torch.compile puts into names."""
_DEEPEST = 3
"""Dictionaries around the tensors, at most."""


def find(path: Path) -> Path | None:
    """The weights file of a released checkpoint (a folder, or the file itself), or None if it is not one.

    Raises:
        CheckpointError: there are several.
    """
    if path.is_file():
        return path
    if is_ours(path):
        return None
    for patterns in (PREFERRED, OTHERS):
        found = sorted(file for pattern in patterns for file in path.glob(pattern))
        if len(found) > 1:
            raise CheckpointError(f"{path} holds several models: give one of {', '.join(p.name for p in found)}")
        if found:
            return found[0]
    return None


def is_ours(folder: Path) -> bool:
    """Whether a folder is meant as a checkpoint in our format, be it damaged or incomplete."""
    config, weights = folder / CONFIG, folder / WEIGHTS
    if not config.is_file():
        return False
    text = config.read_bytes()
    return b'"_target_"' not in text and (weights.is_file() or part_of(weights).is_file() or FORMAT.encode() in text)


def is_model(path: Path) -> bool:
    """Whether a checkpoint of whatever layout lies right there."""
    if path.is_file():
        return any(path.match(pattern) for pattern in OTHERS)
    return is_ours(path) or any(True for pattern in OTHERS for _ in path.glob(pattern))


def inside(path: Path) -> Path:
    """The checkpoint at a path: there, around it if it is one of its files, or in the one folder in it that has one.

    Raises:
        CheckpointError: several folders in it have one.
    """
    if path.name in (CONFIG, WEIGHTS) and is_ours(path.parent):
        return path.parent
    if not path.is_dir() or is_model(path):
        return path
    below = {folder.resolve(): folder for depth in ("*/*/", "*/") for folder in path.glob(depth) if is_model(folder)}
    if len(below) > 1:
        names = ", ".join(sorted(str(folder.relative_to(path)) for folder in below.values()))
        raise CheckpointError(f"{path} holds several models: give one of its folders {names}")
    return next(iter(below.values()), path)


def released_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a released model in a file, without what wraps them and stands before their names.

    Raises:
        CheckpointError: it holds none, or several; or is damaged, or more than tensors.
    """
    content = tensors(file.read_bytes(), file) if file.suffix == ".safetensors" else _unpickled(file)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} does not hold a dictionary of tensors")
    models = dict(_models(content))
    if len(models) > 1:
        raise CheckpointError(f"{file} holds several models ({', '.join(sorted(models))}): keep one of them in a file")
    if not models:
        raise CheckpointError(f"{file} {_instead(content)}")
    (state,) = models.values()
    check_finite(state, str(file))
    return state


def _models(content: Mapping[Any, Any], place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Where in nested dictionaries models lie, and their tensors."""
    found = {
        str(name).replace(COMPILED, ""): value
        for name, value in content.items()
        if isinstance(value, Tensor) and _is_plain(value)
    }
    for name in found:
        if name.endswith(ANCHOR):
            prefix = name.removesuffix(ANCHOR)
            yield place + prefix, {n.removeprefix(prefix): value for n, value in found.items() if n.startswith(prefix)}
    for name, value in content.items():
        if isinstance(value, dict) and depth < _DEEPEST:
            yield from _models(value, f"{place}{name}: ", depth + 1)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is dense and holds each of its numbers, so that its shape says how much memory it takes."""
    return tensor.layout == torch.strided and tensor.nbytes <= tensor.untyped_storage().nbytes()


def _instead(content: Mapping[Any, Any]) -> str:
    if OUR_ANCHOR in content:
        return f"holds the weights of a lewm-agent model, without the {CONFIG} that belongs beside it"
    if any(isinstance(value, Tensor) for value in content.values()):
        return f"does not hold a LeWM model: it has no tensor {ANCHOR!r}"
    return "does not hold a dictionary of tensors"


def _unpickled(file: Path) -> Any:
    if _is_archive(file):
        raise CheckpointError(f"{file} is an archive of files: unpack it, and give the folder with the model")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} is damaged or holds Python objects beside tensors, which are never unpickled; give the weights "
            f"alone ({' or '.join(PREFERRED)})"
        ) from error
    except Exception as error:  # what the unpickler stumbles over in foreign bytes may be anything
        raise CheckpointError(f"{file} is damaged or not a PyTorch file ({type(error).__name__}: {error})") from error


def _is_archive(file: Path) -> bool:
    """Whether it is a zip or tar file of other files; PyTorch's own files are zip files of pickled tensors."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return not any(name.endswith("data.pkl") for name in archive.namelist())
    return tarfile.is_tarfile(file)
