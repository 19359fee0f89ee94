"""The ranks of a run: who am I, how many are we, on which device, and how do we talk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist

from mainspring.errors import PlanError
from mainspring.parallel.mesh import remedy
from mainspring.parallel.plan import Plan

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """This process among the ranks of a run. Made by `World.start`; use it in a `with`, or `stop` it."""

    rank: int = 0
    """Number of this process, 0 to size - 1."""
    size: int = 1
    """Processes in the run, over all machines."""
    local_rank: int = 0
    """Number of this process on its machine."""
    local_size: int = 1
    """Processes of the run on this machine."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this rank computes."""
    backend: str | None = None
    """"nccl" or "gloo"; None without a process group (a run of one process)."""
    owns_group: bool = False
    """True where `start` made the process group, and `stop` ends it."""

    @classmethod
    def start(
        cls,
        plan: Plan | None = None,
        *,
        device: str | None = None,
        threads: int = 0,
        timeout: timedelta = TIMEOUT,
    ) -> Self:
        """Join the ranks that torchrun started, or stand alone where there was no torchrun.

        A process group that exists already is used and left alone. CUDA with NCCL is taken where there is a
        device, else the CPU with gloo.

        Args:
            plan: refused where its world is not the number of ranks started.
            device: "cpu" or "cuda"; None chooses.
            threads: compute threads of this rank; 0 shares the cores evenly among the ranks of this machine.
            timeout: how long a collective may take before the run is ended.

        Raises:
            PlanError: the plan needs another number of ranks, or the device is not there.
        """
        rank, size, local_rank, local_size = _ranks(os.environ)
        if plan is not None and plan.world != size:
            started = "1 is" if size == 1 else f"{size} are"
            raise PlanError(
                f"the plan spreads the run over {plan.spread} but {started} started; {remedy(plan, size)}"
            )
        where = _device(device, local_rank)
        torch.set_num_threads(threads or max(1, usable_cores() // local_size))
        if where.type == "cuda":
            torch.cuda.set_device(where)
        if dist.is_initialized():
            return cls(rank, size, local_rank, local_size, where, dist.get_backend())
        if size == 1:
            return cls(device=where)
        backend = "nccl" if where.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timeout, device_id=where if where.type == "cuda" else None)
        return cls(rank, size, local_rank, local_size, where, backend, owns_group=True)

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.backend is not None:
            dist.barrier()

    def stop(self) -> None:
        """Leave the process group that `start` made; calling it again does nothing."""
        if self.owns_group and dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a process that computes on so many threads.

    torch reads their number when it is loaded, before any of our code runs.
    """
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _ranks(variables: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Rank, size, local rank and local size: of the process group if there is one, else as torchrun tells
    them."""
    if dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
    else:
        rank, size = int(variables.get("RANK", "0")), int(variables.get("WORLD_SIZE", "1"))
    local_size = int(variables.get("LOCAL_WORLD_SIZE", str(size)))
    return rank, size, int(variables.get("LOCAL_RANK", str(rank % local_size))), local_size


def _device(name: str | None, local_rank: int) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.device(name).type
    if kind == "cpu":
        return torch.device("cpu")
    if kind != "cuda":
        raise PlanError(f"device {name!r} is not supported; use 'cpu' or 'cuda'")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise PlanError(
            f"rank {local_rank} of this machine needs a CUDA device of its own but there are "
            f"{count}; start at most {count} ranks a machine, or use device='cpu'"
        )
    return torch.device("cuda", local_rank)
