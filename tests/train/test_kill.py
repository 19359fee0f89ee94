"""SIGKILL at any point, also inside a save: the run ends as if it had never been killed, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from mainspring.config import to_toml
from mainspring.train import checkpoint as ck
from mainspring.train.sinks import read
from support.spawn import PRELOAD, free_port
from train.tiny import recipe
from train.worker import main

pytestmark = pytest.mark.distributed
STEPS = 24


def rank_main(rank: int, variables: dict[str, str], arguments: tuple[Any, ...]) -> None:
    """A rank as torchrun would start it."""
    os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
    main(*arguments)


def start(file: Path, run: Path, slow: float, step_seconds: float) -> list[BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    variables = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    arguments = (str(file), str(run), slow, step_seconds)
    ranks = [
        context.Process(target=rank_main, args=(rank, variables, arguments), daemon=True) for rank in range(2)
    ]
    for process in ranks:
        process.start()
    return ranks


def finish(ranks: list[BaseProcess]) -> None:
    for process in ranks:
        process.join(90)
        assert process.exitcode == 0, process.exitcode


def kill(ranks: list[BaseProcess]) -> None:
    for process in ranks:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    for process in ranks:
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was killed before its end"


def wait_for(ranks: list[BaseProcess], condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline and all(p.is_alive() for p in ranks), "ended before the kill"
        time.sleep(0.002)


def steps_told(run: Path) -> int:
    lines = read(run / "metrics.jsonl")
    return max((line["step"] for line in lines if line["event"] == "step_done"), default=0)


def saving(run: Path) -> bool:
    """A checkpoint is half written: its folder is there, and bytes of a rank are in it."""
    return any(f.stat().st_size for f in (run / "checkpoints").glob("*.tmp/rank-*"))


def test_killed_at_five_points_and_never_killed_are_the_same(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    wanted = recipe(data, train__steps=STEPS, train__checkpoint_every=2, plan__data=2, plan__zero=2)
    file.write_text(to_toml(wanted))
    through, killed = tmp_path / "through", tmp_path / "killed"
    finish(start(file, through, 0.0, 0.0))

    chance = random.Random(5)
    inside_save, left = 0, []
    for point in range(5):
        before = steps_told(killed)
        ranks = start(file, killed, slow=0.1, step_seconds=0.01)
        wait_for(ranks, lambda before=before: steps_told(killed) > before)
        if point % 2 == 0:
            wait_for(ranks, lambda: saving(killed))
        else:
            time.sleep(chance.uniform(0.0, 0.2))
        kill(ranks)
        inside_save += any((killed / "checkpoints").glob("*.tmp"))
        left.append(ck.latest(killed / "checkpoints"))
        if left[-1] is not None:
            ck.verify(left[-1])
    assert inside_save >= 3
    assert len({path for path in left if path}) >= 2, "the run got on between kills"
    finish(start(file, killed, 0.0, 0.0))

    curves = [
        {
            line["step"]: (line["loss"], line["grad_norm"])
            for line in read(run / "metrics.jsonl")
            if line["event"] == "step_done"
        }
        for run in (through, killed)
    ]
    assert list(curves[0]) == list(range(1, STEPS + 1))
    assert curves[0] == curves[1], "every step gave the same numbers, to the last bit"
    ends = [ck.latest(run / "checkpoints") for run in (through, killed)]
    states = [ck.load_model_state(path) for path in ends if path]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    shutil.rmtree(killed)
