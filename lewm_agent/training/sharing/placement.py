"""On which devices of how many machines a training runs, and who starts its processes."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lewm_agent.models import ranks
from lewm_agent.tools.checks import require, whole_number

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ADDRESS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""What several machines have to be told when neither torchrun nor SLURM does it."""


@dataclass(frozen=True)
class Started:
    """That torchrun or SLURM has started this process as one of several."""

    by: str
    devices: int
    num_nodes: int
    rank: int
    local_rank: int

    @staticmethod
    def found() -> Started | None:
        """What the environment says; None for a process that somebody started by itself."""
        env = os.environ
        if "TORCHELASTIC_RUN_ID" in env:
            world, local = int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
            return Started("torchrun", local, world // local, int(env["RANK"]), int(env["LOCAL_RANK"]))
        interactive = env.get("SLURM_JOB_NAME") in ("bash", "interactive")
        if int(env.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in env and not interactive:
            nodes = int(env.get("SLURM_NNODES", 1))
            return Started(
                "SLURM", int(env["SLURM_NTASKS"]) // nodes, nodes, int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"])
            )
        return None


def is_first_started() -> bool:
    """Whether this process is the one that writes, among those that torchrun, SLURM or a person has started."""
    started = Started.found()
    return started.rank == 0 if started else os.environ.get("NODE_RANK", "0") == "0"


def own_device(kind: str) -> torch.device:
    """The device of this process: with CUDA, each that torchrun or SLURM has started has one of its machine."""
    started = Started.found()
    return torch.device(kind, started.local_rank) if kind == "cuda" and started else torch.device(kind)


@dataclass(frozen=True)
class Placement:
    """Devices and machines of one training.

    Attributes:
        device: what each process computes on, or the one device.
        devices: how many on each machine, one process on each.
        num_nodes: how many machines.
        started: by whom the processes have been started; None if :mod:`lewm_agent.training.sharing.launch` is to do it.
    """

    device: torch.device
    devices: int
    num_nodes: int
    started: Started | None

    @staticmethod
    def of(devices: int | None, num_nodes: int | None, device: torch.device) -> Placement:
        """What is asked for; where nothing is, what torchrun or SLURM has started, else one process.

        Raises:
            ValueError: it is not there, or not what was started.
        """
        started = Started.found()
        usual = (started.devices, started.num_nodes) if started else (1, 1)
        placement = Placement(
            device,
            usual[0] if devices is None else whole_number("devices", devices, 1),
            usual[1] if num_nodes is None else whole_number("num_nodes", num_nodes, 1),
            started,
        )
        try:
            placement._check()
        except ValueError:
            if started is not None and started.local_rank > 0:
                raise ranks.EndedElsewhereError from None
            raise
        return placement

    @property
    def count(self) -> int:
        """Of processes, which are the ranks."""
        return self.devices * self.num_nodes

    @property
    def starts_processes(self) -> bool:
        """Whether the processes are still to be started."""
        return self.count > 1 and self.started is None

    def check_batch(self, batch_size: int) -> None:
        """Raise ``ValueError`` unless every rank gets as many rows of a batch as every other."""
        whole = max(1, round(batch_size / self.count)) * self.count
        require(
            batch_size % self.count == 0,
            f"a batch of {batch_size} clips cannot be shared evenly by {self.count} devices: give another number of "
            f"devices, or a batch_size (training.batch_size) that is a multiple of it, such as {whole}",
        )

    def device_of(self, local_rank: int) -> torch.device:
        """Of one of the processes of this machine."""
        return torch.device("cuda", local_rank) if self.device.type == "cuda" else self.device

    def rank_of(self, local_rank: int) -> int:
        """Number among all processes of one of this machine's."""
        machine = int(os.environ["NODE_RANK"]) if self.num_nodes > 1 else 0
        return machine * self.devices + local_rank

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within the block all ranks work together."""
        if self.count == 1:
            yield
            return
        self.fabric("float32")
        with ranks.together():
            yield

    def fabric(self, precision: str) -> Fabric:
        """What moves models and batches to devices, and computes in ``float32``, or mixed with ``bfloat16``."""
        import lightning_fabric  # takes as long to import as all the rest, and whoever acts does without

        mixed: Any = "bf16-mixed" if precision == "bfloat16" else "32-true"
        kind = self.device.type
        if self.count == 1:
            only = [self.device.index] if kind == "cuda" and self.device.index is not None else 1
            return lightning_fabric.Fabric(accelerator=kind, devices=only, precision=mixed)
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        for logger in ("lightning_fabric", "lightning.fabric"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        fabric = lightning_fabric.Fabric(
            accelerator=kind,
            devices=self.devices,
            num_nodes=self.num_nodes,
            strategy=DDPStrategy(static_graph=True),
            plugins=[] if self.started else [LightningEnvironment()],
            precision=mixed,
        )
        fabric.launch()  # meets the other ranks, unless that has been done
        return fabric

    def _check(self) -> None:
        asked = (self.devices, self.num_nodes)
        if self.started is not None:
            there = (self.started.devices, self.started.num_nodes)
            require(
                asked == there,
                f"{self.started.by} has started {there[0]} processes on each of {there[1]} machines, and devices is "
                f"{asked[0]}, num_nodes {asked[1]}: give the same numbers, or leave them out",
            )
        elif self.num_nodes > 1:
            missing = [name for name in ADDRESS if name not in os.environ]
            require(
                not missing,
                f"num_nodes is {self.num_nodes}, and nobody says where the other machines are: start with torchrun or "
                f"srun, or set {', '.join(missing)} on each machine",
            )
        if self.devices > 1:
            self._check_devices()

    def _check_devices(self) -> None:
        kind = self.device.type
        require(kind != "mps", f"devices is {self.devices}, and there is one MPS device: give 1")
        there = torch.cuda.device_count()
        require(
            kind != "cuda" or self.devices <= there,
            f"devices is {self.devices}, and this machine has {there} GPUs: give at most {there}",
        )
        own = None if self.started is None else self.started.local_rank
        require(
            self.device.index in (None, own),
            f"device {self.device} is one, and devices is {self.devices}: give device {kind}",
        )
