"""Commands on several ranks of this machine: `generate ... plan.tensor=2`, `serve --tensor 2`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mainspring.cli.console import err, table

if TYPE_CHECKING:
    from mainspring.infer import Completion, GenerateOptions
    from mainspring.infer.tensor_parallel import RankReport
    from mainspring.parallel import Plan


def plan_of(overrides: Sequence[str] | None) -> Plan:
    """The plan that settings name: `plan.tensor=2`.

    Raises:
        ConfigError: a setting is of something else, or cannot be.
        PlanError: it names an axis that has no meaning for a model that is run.
    """
    from mainspring.config import Section, apply_overrides, parse
    from mainspring.infer.tensor_parallel import check_plan
    from mainspring.parallel import Plan

    class Settings(Section):
        """What may be set."""

        plan: Plan = Plan()

    plan = parse(Settings, apply_overrides({}, overrides or ()), source="settings").plan
    check_plan(plan)
    return plan


def start_ranks(command: typer.Context, count: int) -> int:
    """Run this very command on so many ranks of this machine, and wait; the exit code."""
    from mainspring.parallel.world import usable_cores
    from mainspring.train.launch import start

    program = ["-m", "mainspring", *command.obj]  # the arguments, which `main` has put there
    return start(program, count, threads=max(1, usable_cores() // count))


def generate_spread(
    command: typer.Context,
    path: Path,
    text: str,
    options: GenerateOptions,
    plan: Plan,
    *,
    device: str,
    precision: str,
    direction: str | None,
    self_check: bool,
    as_json: bool,
) -> None:
    """Continue a prompt on the ranks of a plan; started by itself, the command starts them."""
    from mainspring.cli.generate import write
    from mainspring.cli.inference import tell
    from mainspring.infer import Engine
    from mainspring.infer.tensor_parallel import RankReport, gather_reports, peak_memory, weight_bytes
    from mainspring.parallel.world import World

    if "WORLD_SIZE" not in os.environ:
        raise typer.Exit(start_ranks(command, plan.world))
    with World.start(plan, device=device.partition(":")[0]) as world:
        engine = Engine.load(
            path, world.device, precision, direction=direction, plan=plan, self_check=self_check
        )
        if world.is_main:
            tell(engine)
        began = time.perf_counter()
        times: list[float] = []
        completions: list[Completion] = []
        generation = engine.start([text], options)
        if as_json or options.n > 1:
            completions = engine.generate([text], options)
            times = [time.perf_counter()] * 2
        else:
            for piece in generation.pieces:
                times.append(time.perf_counter())
                if world.is_main:
                    write(piece.text)
        tokens = max(1, len(times) - 1)
        report = RankReport(
            world.rank,
            weight_bytes(engine.network),
            peak_memory(world.device),
            times[0] - began,
            (times[-1] - times[0]) / tokens,
        )
        reports = gather_reports(report)
        if world.is_main:
            if as_json:
                write(json.dumps([asdict(c) for c in completions], indent=2, ensure_ascii=False) + "\n")
            elif completions:
                for completion in completions:
                    write(f"[{completion.index + 1}]\n{completion.text}\n")
            else:
                write("\n")
            _show(reports)


def _show(reports: Sequence[RankReport]) -> None:
    """Memory and time of every rank, on stderr."""
    from mainspring.planner.units import amount

    shown = table("Ranks", ">rank", ">weights", ">memory at most", ">first token", ">each after")
    for one in reports:
        shown.add_row(
            str(one.rank),
            amount(one.weights, "B"),
            amount(one.memory, "B"),
            f"{one.prefill * 1e3:.1f} ms",
            f"{one.token * 1e3:.1f} ms",
        )
    err().print(shown)
