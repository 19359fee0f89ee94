"""Ctrl-C and SIGTERM: the step is finished and saved; a second signal ends the run at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mainspring.config import to_toml
from mainspring.train import checkpoint as ck
from mainspring.train import events as ev
from mainspring.train import launch
from mainspring.train.signals import PATIENCE, StopRequest
from mainspring.train.sinks import read
from train.tiny import fit, recipe

WORKER = Path(__file__).with_name("worker.py")


def test_the_first_signal_is_noted_and_the_second_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.received is None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # an echo
        assert stop.received is signal.SIGTERM
        stop._at -= PATIENCE
        with pytest.raises(KeyboardInterrupt, match="a second SIGINT"):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_no_handler_is_touched() -> None:
    seen: list[object] = []

    def enter() -> None:
        with StopRequest():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_later(data: Path, tmp_path: Path) -> None:
    wanted = recipe(data, train__checkpoint_every=0)

    def ask(event: ev.Event) -> None:
        if isinstance(event, ev.StepDone) and event.step == 2:
            signal.raise_signal(signal.SIGINT)

    result, told, _ = fit(wanted, tmp_path / "cut", ask)
    assert (result.status, result.step, result.signal) == ("interrupted", 3, signal.SIGINT)
    assert isinstance(told[-1], ev.RunEnded) and told[-1].status == "interrupted"
    result, _, _ = fit(wanted, tmp_path / "cut")
    through, _, _ = fit(wanted, tmp_path / "through")
    assert result.status == "finished" and result.loss == through.loss


@pytest.mark.distributed
def test_launched_ranks_save_and_end_on_ctrl_c(data: Path, tmp_path: Path) -> None:
    """The whole chain: this process, the agent, two ranks; then the run goes on to its end."""
    file, run = tmp_path / "recipe.toml", tmp_path / "run"
    wanted = recipe(data, train__steps=40, train__checkpoint_every=0, plan__data=2, plan__zero=2)
    file.write_text(to_toml(wanted))

    def press_ctrl_c() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if any(line["event"] == "step_done" for line in read(run / "metrics.jsonl")):
                break
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press_ctrl_c)
    presser.start()
    code = launch.start([str(WORKER), str(file), str(run), "0", "0.1"], 2, threads=1)
    presser.join()
    assert code == 128 + signal.SIGINT
    stopped = ck.latest(run / "checkpoints")
    assert stopped is not None
    step = ck.verify(stopped).step
    assert 1 <= step < 40
    assert launch.start([str(WORKER), str(file), str(run)], 2, threads=1) == 0
    lines = [line for line in read(run / "metrics.jsonl") if line["event"] == "step_done"]
    assert [line["step"] for line in lines] == list(range(1, 41))


@pytest.mark.distributed
def test_the_exit_code_of_a_failing_rank_comes_through(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "fail.py"
    program.write_text("import os, sys\nsys.exit(2 if os.environ['RANK'] == '1' else 0)\n")
    assert launch.start([str(program)], 2, threads=1) == 2
    program.write_text("import os, sys\nprint(os.environ['OMP_NUM_THREADS'], flush=True)\n")
    assert launch.start([str(program)], 1, threads=3) == 0
    assert capfd.readouterr().out.split() == ["3"]
