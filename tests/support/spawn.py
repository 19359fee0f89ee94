"""Start several ranks for a test and collect what they return.

Ranks are forked from a server process that has torch and Mainspring imported but has run nothing, so that a
start costs a fraction of a second instead of those imports for each rank, and nothing of the test's own
process (threads, autograd, open groups) leaks into a rank.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

PRELOAD = [
    "pytest",
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.utils.checkpoint",
    "mainspring.infer",
    "mainspring.models",
    "mainspring.objectives",
    "mainspring.parallel",
    "mainspring.planner",
    "mainspring.train",
]
"""What the server imports once, before any fork."""


class RankFailure(AssertionError):
    """A rank raised, died or was late; the message holds its traceback."""


def run_ranks(
    fn: Callable[..., Any], world: int, *args: Any, timeout: float = 120, init: bool = True, env: bool = True
) -> list[Any]:
    """Run `fn(rank, world, *args)` on `world` processes of one thread each and return the results in rank
    order.

    Args:
        fn: a function at the top level of a module; `args` and the results must pickle.
        timeout: seconds for the whole call; whoever is late is killed.
        init: join the ranks in a gloo process group (over a file store) around the call.
        env: set the variables that torchrun sets (RANK, WORLD_SIZE, MASTER_PORT, ...).

    Raises:
        RankFailure: a rank raised (its traceback is in the message), died or was late. The others are ended.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    source = (fn.__code__.co_filename, fn.__module__, fn.__qualname__)
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        variables = (
            {
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free_port()),
            }
            if env
            else {}
        )
        store = str(Path(folder) / "store") if init else ""
        processes, pipes = [], []
        for rank in range(world):
            here, there = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank,
                daemon=True,
                name=f"rank{rank}",
                args=(there, source, rank, world, args, store, variables, timeout),
            )
            process.start()
            there.close()
            processes.append(process)
            pipes.append(here)
        patience = 0.0
        try:
            results = _collect(pipes, deadline, timeout)
            patience = 5.0
            return results
        finally:
            for process in processes:
                process.join(patience)
                if process.is_alive():
                    process.kill()
                    process.join()
                process.close()
            for pipe in pipes:
                pipe.close()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _collect(pipes: list[Connection], deadline: float, timeout: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = multiprocessing.connection.wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            late = [rank for rank in range(len(pipes)) if rank not in results]
            raise RankFailure(f"ranks {late} of {len(pipes)} did not end within {timeout} s")
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                ok, value = pipe.recv()  # type: ignore[union-attr]
            except EOFError:
                raise RankFailure(f"rank {rank} died without a word") from None
            if not ok:
                raise RankFailure(f"rank {rank} failed:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _rank(
    pipe: Connection,
    source: tuple[str, str, str],
    rank: int,
    world: int,
    args: tuple[Any, ...],
    store: str,
    variables: dict[str, str],
    timeout: float,
) -> None:
    try:
        os.environ.update(variables)
        if variables:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0")
        os.environ["OMP_NUM_THREADS"] = "1"
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        fn: Any = _module(source[0], source[1])
        for part in source[2].split("."):
            fn = getattr(fn, part)
        if store:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{store}",
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=timeout),
            )
        try:
            value = fn(rank, world, *args)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        pipe.send((True, value))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    finally:
        pipe.close()


def _module(path: str, name: str) -> ModuleType:
    """The module `fn` lives in, under the name the test knows it by, so that its classes pickle both ways."""
    if name in sys.modules and name != "__main__":
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name if name != "__main__" else "__rank_main__", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
