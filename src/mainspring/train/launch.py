"""Starting the ranks of a run on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from mainspring.parallel.world import child_environment, usable_cores

GRACE = 120
"""Seconds that ranks have to finish their step and save once they are asked to stop."""


def launch(
    recipe: str | Path,
    run_dir: str | Path,
    nproc: int,
    *,
    overrides: Sequence[str] = (),
    threads: int = 0,
    restarts: int = 0,
    options: Sequence[str] = (),
) -> int:
    """Run `mainspring train RECIPE --to RUN_DIR` on `nproc` ranks of this machine under torchrun, and wait.

    SIGINT and SIGTERM that reach this process are passed on once each, so that the ranks finish their step,
    save and end. (The ranks have a session of their own: a terminal's Ctrl-C reaches them only through here.)

    Args:
        recipe: a recipe's name or TOML file.
        run_dir: folder of the run.
        nproc: ranks to start.
        overrides: dotted settings, `train.steps=100`.
        threads: compute threads of each rank; 0 shares the cores evenly.
        restarts: how often to start all ranks again after one was lost; each time the run goes on from its
            newest checkpoint.
        options: further options of `mainspring train`.

    Returns:
        The ranks' exit code: 0 finished, 1 failed, 2 wrong input, 128 + n ended by signal n.
    """
    threads = threads or max(1, usable_cores() // nproc)
    arguments = ["train", str(recipe), "--to", str(run_dir), *options, *overrides]
    return start(["-m", "mainspring", *arguments], nproc, threads=threads, restarts=restarts)


def start(program: Sequence[str], nproc: int, *, threads: int, restarts: int = 0) -> int:
    """Run a program (what follows `python`) on `nproc` ranks under torchrun, and wait; see `launch`."""
    command = [
        sys.executable,
        "-m",
        "mainspring.train.agent",
        "--standalone",
        f"--nproc-per-node={nproc}",
        f"--max-restarts={restarts}",
        f"--shutdown-timeout={GRACE}",
        *program,
    ]
    child = subprocess.Popen(command, env=child_environment(threads), start_new_session=True)
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if child.poll() is None:
            child.send_signal(number)

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = child.wait()
    except BaseException:
        child.terminate()
        child.wait(GRACE)
        raise
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    return 128 - code if code < 0 else code
