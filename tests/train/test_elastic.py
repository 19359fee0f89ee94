"""Two nodes on loopback, one is lost: the run takes itself up on the other and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mainspring.config import to_toml
from mainspring.train import checkpoint as ck
from mainspring.train.sinks import read
from support.spawn import free_port
from train.tiny import recipe

pytestmark = pytest.mark.distributed
STEPS, EVERY = 40, 5
WORKER = Path(__file__).with_name("worker.py")


def start_node(port: int, file: Path, run: Path, *, host: bool, log: Path) -> subprocess.Popen[bytes]:
    """A torchrun agent with one rank, in a session of its own, as it would run on a machine of its own."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=1:2",
        "--nproc-per-node=1",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=elastic",
        f"--rdzv-conf=is_host={int(host)},join_timeout=60,last_call_timeout=3,keep_alive_interval=1",
        str(WORKER),
        str(file),
        str(run),
        "0",
        "0.1",
    ]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        return subprocess.Popen(command, env=variables, stdout=out, stderr=out, start_new_session=True)


def descendants(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def power_off(node: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the agent and its ranks at once."""
    for pid in (node.pid, *descendants(node.pid)):
        os.kill(pid, signal.SIGKILL)
    node.wait()


def lines(run: Path, kind: str) -> list[dict[str, object]]:
    return [line for line in read(run / "metrics.jsonl") if line["event"] == kind]


def test_a_lost_node_costs_at_most_the_steps_since_the_last_checkpoint(data: Path, tmp_path: Path) -> None:
    file, run = tmp_path / "recipe.toml", tmp_path / "run"
    # plan.data stays 2 in the recipe: an elastic run takes as many ranks as there are.
    wanted = recipe(
        data,
        train__steps=STEPS,
        train__checkpoint_every=EVERY,
        train__elastic=True,
        plan__data=2,
        plan__zero=2,
    )
    file.write_text(to_toml(wanted))
    logs = [tmp_path / "node-0.log", tmp_path / "node-1.log"]
    port = free_port()
    nodes = [start_node(port, file, run, host=i == 0, log=log) for i, log in enumerate(logs)]
    try:
        deadline = time.monotonic() + 100
        # Where one node comes late the run begins without it and starts again when it joins.
        while not (
            lines(run, "checkpoint_saved")
            and lines(run, "run_started")[-1]["world"] == 2
            and len(lines(run, "step_done")) >= EVERY + 3
        ):
            assert time.monotonic() < deadline and all(n.poll() is None for n in nodes), logs[0].read_text()
            time.sleep(0.05)
        power_off(nodes[1])
        lost_at = max(int(str(line["step"])) for line in lines(run, "step_done"))
        saved = ck.latest(run / "checkpoints")
        assert saved is not None
        step_saved = ck.Manifest.read(saved).step
        assert nodes[0].wait(max(1.0, deadline - time.monotonic())) == 0, logs[0].read_text()
    finally:
        for node in nodes:
            if node.poll() is None:
                power_off(node)
    starts = lines(run, "run_started")
    assert [s["world"] for s in starts[-2:]] == [2, 1] and starts[-1]["resumed"]
    resumed_at = int(str(starts[-1]["step"]))
    assert resumed_at >= step_saved, "it goes on from the newest checkpoint that was complete, or a newer one"
    assert lost_at - resumed_at <= 2 * EVERY
    assert [line["step"] for line in lines(run, "step_done")] == list(range(1, STEPS + 1))
    assert lines(run, "run_ended")[-1]["status"] == "finished"
