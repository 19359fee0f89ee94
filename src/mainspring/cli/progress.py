"""A run's events on the screen: a live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from mainspring.cli.console import err
from mainspring.planner.units import amount, duration
from mainspring.train import events

EVERY = 5.0
"""Seconds between plain lines."""


class ProgressSink:
    """A sink of training events that shows them; use it as a context, so that the live line is taken down.

    Args:
        console: where to show; None for stderr.
        every: seconds between lines where the console is not a terminal.
    """

    def __init__(self, console: Console | None = None, *, every: float = EVERY) -> None:
        self.console = err() if console is None else console
        self.every = every
        self.started: events.RunStarted | None = None
        self.ended: events.RunEnded | None = None
        self._shown = float("-inf")
        self._live = self.console.is_terminal
        self._bar = Progress(
            TextColumn("{task.fields[now]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rest]}"),
            console=self.console,
            transient=True,
            refresh_per_second=4,
            disable=not self._live,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: events.Event) -> None:
        """Take an event."""
        if isinstance(event, events.Planned):
            kinds = ", ".join(f"{kind} {amount(n, 'B')}" for kind, n in event.bytes_by_kind.items() if n)
            self._say(
                f"plan: {amount(event.bytes_per_rank, 'B')} of {amount(event.memory_per_rank, 'B')} a rank "
                f"({kinds}), {duration(event.seconds_per_step)} a step"
            )
        elif isinstance(event, events.DiskTried):
            self._say(
                f"disk: {amount(event.needed_bytes, 'B')} of {amount(event.free_bytes, 'B')} free in "
                f"{event.folder}, reads {amount(event.read_rate, 'B')}/s and writes "
                f"{amount(event.write_rate, 'B')}/s{'' if event.direct else ' through the page cache'}: "
                f"{duration(event.seconds_per_step)} a step"
            )
        elif isinstance(event, events.RunStarted):
            self._start(event)
        elif isinstance(event, events.StepDone):
            self._step(event)
        elif isinstance(event, events.StepSkipped):
            self._say(f"step {event.step} left out ({event.skipped} so far): {event.reason}", "yellow")
        elif isinstance(event, events.Narrowed):
            counts = sorted(Counter(event.bits.values()).items(), reverse=True)
            told = ", ".join(f"{layers} at {bits} bits" for bits, layers in counts if bits)
            self._say(f"step {event.step}: layers narrowed{': ' + told if told else ''}", "dim")
        elif isinstance(event, events.CheckpointSaved):
            self._say(f"step {event.step}: checkpoint saved and verified: {event.path}", "dim")
        elif isinstance(event, events.Evaluated):
            bits = "" if event.bits_per_byte is None else f", {event.bits_per_byte:.3f} bits per byte"
            self._say(
                f"step {event.step}: held out: loss {event.loss:.3f}, perplexity {event.perplexity:.1f}{bits}"
            )
        elif isinstance(event, events.Warned):
            self._say(f"note: {event.message}", "yellow")
        elif isinstance(event, events.RunEnded):
            self.ended = event
            self._end(event)

    def _start(self, event: events.RunStarted) -> None:
        self.started = event
        how = f"{event.micro_rows} rows at once" + (
            f" x {event.accumulation} accumulated" if event.accumulation > 1 else ""
        )
        self._say(
            f"{event.name}: {amount(event.parameters)} parameters on {event.world} "
            f"{event.device} rank{'s' * (event.world > 1)}, {event.precision}, "
            f"{event.tokens:,} {event.unit} a step ({event.rows} rows; each rank {how})"
        )
        if event.resumed:
            self._say(f"resumed after step {event.step} of {event.steps}")
        if self._live:
            self._task = self._bar.add_task(
                "", total=event.steps, completed=event.step, now="training", rest=""
            )

    def _step(self, event: events.StepDone) -> None:
        steps = self.started.steps if self.started is not None else event.step
        now = f"step {event.step}/{steps}  loss {event.loss:.3f}"
        unit = self.started.unit if self.started is not None else "tokens"
        mfu = f"  MFU {event.mfu:.0%}" if event.mfu else ""
        rest = f"{amount(event.tokens_per_second)} {unit}/s{mfu}  ETA {duration(event.eta_seconds)}"
        if self._task is not None:
            self._bar.update(self._task, completed=event.step, now=now, rest=rest)
            return
        moment = time.monotonic()
        if moment - self._shown >= self.every or event.step == steps:
            self._shown = moment
            self._say(f"{now}  {rest}")

    def _end(self, event: events.RunEnded) -> None:
        loss = "" if event.loss is None else f", loss {event.loss:.3f}"
        detail = f": {event.message}" if event.message else ""
        self._say(
            f"{event.status} after step {event.step} in {duration(event.seconds)}{loss}{detail}",
            {"finished": "bold", "interrupted": "yellow", "failed": "red"}[event.status],
        )

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(text, markup=False, style=style)
