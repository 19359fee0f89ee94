"""Events on the screen: lines where there is no terminal, a live line where there is one."""

from __future__ import annotations

import io

from rich.console import Console

from mainspring.cli.progress import ProgressSink
from mainspring.train import events

STARTED = events.RunStarted(
    10,
    name="tiny",
    steps=20,
    resumed=True,
    world=2,
    device="cpu",
    precision="bf16",
    parameters=5_000_000,
    rows=32,
    tokens=8192,
    micro_rows=8,
    accumulation=2,
    flops_per_token=3e7,
    peak_flops=4e11,
)


def step(number: int) -> events.StepDone:
    return events.StepDone(
        number,
        loss=5.4321,
        tokens=8192,
        seconds=1.0,
        tokens_per_second=8192.0,
        mfu=0.437,
        lr=1e-3,
        grad_norm=1.0,
        eta_seconds=192.0,
        memory_bytes=2**30,
        losses={},
    )


def show(*told: events.Event, terminal: bool = False, every: float = 0.0) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=160, color_system=None)
    with ProgressSink(console, every=every) as sink:
        for event in told:
            sink(event)
    return screen.getvalue()


def test_lines_say_what_matters() -> None:
    text = show(
        STARTED,
        step(11),
        events.StepSkipped(12, "loss nan", 1),
        events.CheckpointSaved(12, "runs/x/step-12"),
        events.Evaluated(12, loss=3.0, perplexity=20.1, bits_per_byte=1.234, tokens=5, bytes=9, seconds=1.0),
        events.Warned(12, "a warning"),
        events.RunEnded(20, "finished", 5.0, 75.0),
    )
    lines = text.splitlines()
    assert lines[0].startswith("tiny: 5.00 M parameters on 2 cpu ranks, bf16, 8,192 tokens a step (32 rows;")
    assert "8 rows at once x 2 accumulated" in lines[0]
    assert lines[1] == "resumed after step 10 of 20"
    assert lines[2] == "step 11/20  loss 5.432  8.19 k tokens/s  MFU 44%  ETA 3 min 12 s"
    assert "step 12 left out (1 so far): loss nan" in text
    assert "checkpoint saved and verified: runs/x/step-12" in text
    assert "perplexity 20.1, 1.234 bits per byte" in text
    assert "note: a warning" in text
    assert lines[-1] == "finished after step 20 in 1 min 15 s, loss 5.000"


def test_lines_keep_their_distance_but_the_last_is_shown() -> None:
    text = show(STARTED, *(step(i) for i in range(11, 21)), every=60.0)
    shown = [line for line in text.splitlines() if line.startswith("step")]
    assert [line.split()[1] for line in shown] == ["11/20", "20/20"]


def test_a_terminal_has_one_live_line() -> None:
    text = show(STARTED, step(11), step(12), terminal=True)
    assert "step 12/20" in text
    assert "8.19 k tokens/s  MFU 44%  ETA 3 min 12 s" in text
    assert "\x1b[2K" in text
