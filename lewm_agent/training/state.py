"""What a checkpoint holds besides the model, so that a training goes on as if it had never stopped."""

from __future__ import annotations

import contextlib
import io
import pickle
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = Path("training_state") / "state.pt"
RandomStates = dict[str, Tensor]
"""State of the random numbers of the CPU and of the device, by type of device."""


class UnreadableError(ValueError):
    """A checkpoint is damaged or not whole."""


@dataclass(frozen=True)
class TrainingState:
    """Steps taken, the optimizer's moments, and where the random numbers stand."""

    step: int
    optimizer: dict[str, Any]
    random: RandomStates

    def write(self, checkpoint: Path) -> None:
        """Add the state to a checkpoint folder. Raises ``OSError`` when the disk is full."""
        content = io.BytesIO()  # torch, when it writes to a file, says nothing of the disk
        torch.save({"step": self.step, "optimizer": self.optimizer, "random": self.random}, content)
        (checkpoint / FILE).parent.mkdir()
        (checkpoint / FILE).write_bytes(content.getbuffer())

    @staticmethod
    def read(checkpoint: Path) -> TrainingState:
        """The state in a checkpoint folder. Raises :class:`UnreadableError`."""
        values = _load(checkpoint / FILE)
        try:
            return TrainingState(int(values["step"]), values["optimizer"], values["random"])
        except (KeyError, TypeError) as error:
            raise UnreadableError(f"{checkpoint / FILE} is no training state of lewm-agent: {error!r}") from error


def step_in(checkpoint: Path) -> int:
    """After how many steps a checkpoint was taken, as its state says; -1 if it has none that can be read."""
    try:
        return int(_load(checkpoint / FILE, mmap=True)["step"])
    except (KeyError, TypeError, UnreadableError):
        return -1


def random_states(device: torch.device) -> RandomStates:
    """Where the random numbers of the CPU and of ``device`` stand."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def random_fingerprint(device: torch.device) -> int:
    """A number of 16 bits that differs, but for chance, where :func:`random_states` differ."""
    return zlib.crc32(b"".join(state.numpy().tobytes() for state in random_states(device).values())) >> 16


def set_random_states(states: RandomStates, device: torch.device) -> None:
    """Inverse of :func:`random_states`; states of a device that is not used are left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@contextlib.contextmanager
def other_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of ``seed`` within the block; afterwards they go on as if it had not been."""
    states = random_states(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_states(states, device)


def _load(file: Path, *, mmap: bool = False) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or repr(error)
        raise UnreadableError(f"{file} cannot be read: {reason}") from error
