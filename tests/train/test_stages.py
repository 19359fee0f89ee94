"""A pipeline that loses a rank stops everywhere with its name, and goes on from its checkpoint with the same
numbers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mainspring.errors import CheckpointError, StageError
from mainspring.parallel.pipedream import Layout, Pipeline
from mainspring.train.stages import load_stages, save_stages
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed
TIMEOUT = 4.0
adamw = partial(torch.optim.AdamW, lr=0.02)


def batch(index: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(index)
    return torch.randn(4, 8, generator=draw), torch.randn(4, 8, generator=draw)


def make(rank: int, replicas: tuple[int, ...], semantics: Any, accumulate: int) -> Pipeline:
    layout = Layout(replicas)
    stage = layout.place(rank).stage
    torch.manual_seed(stage)
    loss = nn.functional.mse_loss if stage == layout.stages - 1 else None
    module = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    return Pipeline(
        module, layout, adamw, loss=loss, semantics=semantics, accumulate=accumulate, timeout=TIMEOUT
    )


def numbers(pipe: Pipeline) -> list[Any]:
    return [p.detach().numpy().copy() for p in pipe.module.parameters()]


def whole_and_resumed(
    rank: int, world: int, folder: Path, replicas: tuple[int, ...], semantics: Any, accumulate: int
) -> tuple[list[Any], list[Any], int]:
    with make(rank, replicas, semantics, accumulate) as pipe:
        for _ in range(3):
            pipe.train(batch, 4)
            if pipe.minibatch == 8:
                save_stages(folder, pipe)
        wanted = numbers(pipe)
    with make(rank, replicas, semantics, accumulate) as pipe:
        at = load_stages(folder, pipe)
        pipe.train(batch, 4)
        return wanted, numbers(pipe), at


@pytest.mark.parametrize(
    ("replicas", "semantics", "accumulate"),
    [((1, 1), "stashing", 1), ((1, 1), "2bw", 2), ((2, 1), "vertical_sync", 1)],
)
def test_a_resumed_run_has_the_same_numbers(
    tmp_path: Path, replicas: tuple[int, ...], semantics: str, accumulate: int
) -> None:
    for wanted, got, at in run_ranks(
        whole_and_resumed, sum(replicas), tmp_path, replicas, semantics, accumulate
    ):
        assert at == 8
        assert all((a == b).all() for a, b in zip(wanted, got, strict=True))


def trained_until(
    rank: int, world: int, folder: Path, replicas: tuple[int, ...], victim: int, sign: int, gate: Any
) -> tuple[str, float]:
    """Save after 4 minibatches; then the victim is hit in the middle of a stretch."""
    pipe = make(rank, replicas, "stashing", 1)
    pipe.train(batch, 4)
    save_stages(folder, pipe)
    done = 0

    def hit(module: nn.Module, *_: object) -> None:
        nonlocal done
        done += 1
        if done == 6:
            gate.send(time.monotonic())
            os.kill(os.getpid(), sign)

    if rank == victim:
        pipe.module.register_forward_hook(hit)
    try:
        pipe.train(batch, 400)
    except StageError as error:
        seen = time.monotonic()
        pipe.close()
        return str(error), seen
    return "", 0.0


def survivor(rank: int, world: int, folder: Path, replicas: Any, victim: int, sign: int, pipe: Any) -> None:
    """A rank in a process of its own: what it saw goes through `pipe`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    pipe.send(trained_until(rank, world, folder, replicas, victim, sign, pipe))


@pytest.mark.parametrize(
    ("replicas", "victim", "sign", "said"),
    [
        ((1, 1, 1), 2, signal.SIGKILL, "stage 2 of 3 (rank 2) is gone"),
        ((1, 1, 1), 0, signal.SIGKILL, "stage 0 of 3 (rank 0) is gone"),
        ((2, 1), 1, signal.SIGKILL, "stage 0 of 2 (rank 1, replica 1 of 2) is gone"),
        ((1, 1, 1), 1, signal.SIGSTOP, "stage 1 of 3 (rank 1) stands still"),
    ],
)
def test_a_lost_stage_is_named_on_every_rank_and_the_run_goes_on(
    tmp_path: Path, replicas: tuple[int, ...], victim: int, sign: int, said: str
) -> None:
    context = multiprocessing.get_context("forkserver")
    world = sum(replicas)
    ends, ranks = [], []
    for rank in range(world):
        here, there = context.Pipe(duplex=False)
        process = context.Process(
            target=survivor, args=(rank, world, tmp_path, replicas, victim, sign, there), daemon=True
        )
        process.start()
        there.close()
        ends.append(here)
        ranks.append(process)
    try:
        assert ends[victim].poll(60), "the victim never got to its sixth minibatch"
        hit = ends[victim].recv()
        for rank in range(world):
            if rank != victim:
                assert ends[rank].poll(4 * TIMEOUT), f"rank {rank} hangs"
                words, seen = ends[rank].recv()
                assert said in words
                assert seen - hit < (2 if sign == signal.SIGKILL else 2 * TIMEOUT)
    finally:
        for process in ranks:
            process.kill()
            process.join()
    if sign == signal.SIGKILL and victim > 0:
        (straight, resumed) = zip(*run_ranks(gone_on, world, tmp_path, replicas), strict=True)
        assert all(
            (a == b).all() for x, y in zip(straight, resumed, strict=True) for a, b in zip(x, y, strict=True)
        )


def gone_on(rank: int, world: int, folder: Path, replicas: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
    with make(rank, replicas, "stashing", 1) as pipe:
        pipe.train(batch, 4)
        pipe.train(batch, 6)
        straight = numbers(pipe)
    with make(rank, replicas, "stashing", 1) as pipe:
        assert load_stages(folder, pipe) == 4
        pipe.train(batch, 6)
        return straight, numbers(pipe)


def half_saved(rank: int, world: int, folder: Path) -> tuple[list[Any], list[Any], int]:
    """The last stage dies before its second checkpoint is whole: what all stages have is the first."""
    with make(rank, (1, 1), "stashing", 1) as pipe:
        pipe.train(batch, 4)
        save_stages(folder, pipe)
        wanted = numbers(pipe)
        pipe.train(batch, 4)
        save_stages(folder, pipe)
    if rank == 1:
        (folder / "stage-1" / "step-00000008" / "manifest.json").unlink()
    dist.barrier()
    with make(rank, (1, 1), "stashing", 1) as pipe:
        at = load_stages(folder, pipe)
        return wanted, numbers(pipe), at


def test_stages_go_on_from_the_newest_that_all_have(tmp_path: Path) -> None:
    for wanted, got, at in run_ranks(half_saved, 2, tmp_path):
        assert at == 4
        assert all((a == b).all() for a, b in zip(wanted, got, strict=True))


def refused(rank: int, world: int, folder: Path) -> None:
    with make(rank, (1, 1), "stashing", 1) as pipe:
        assert load_stages(folder, pipe) == 0
        pipe.train(batch, 2)
        save_stages(folder, pipe)
        with pytest.raises(CheckpointError, match="at least 2"):
            save_stages(folder, pipe, keep=1)
    with make(rank, (1, 1), "2bw", 1) as pipe, pytest.raises(CheckpointError, match="one update older"):
        load_stages(folder, pipe)


def test_what_a_checkpoint_cannot_give_is_refused(tmp_path: Path) -> None:
    run_ranks(refused, 2, tmp_path)
