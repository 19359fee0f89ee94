"""mainspring serve: answer over HTTP."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.console import err
from mainspring.cli.errors import SIGNALLED
from mainspring.cli.inference import Device, PrecisionName
from mainspring.errors import UsageError


def serve(
    command: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Runs, checkpoints (RUN/checkpoints/step-...) or exported models (folders), one or several."
        ),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(help="What requests call each model, in order.", show_default="its folder's name"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every network of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 8000,
    device: Device = "cpu",
    precision: PrecisionName = "fp32",
    tensor: Annotated[
        int, typer.Option(min=1, help="Ranks of this machine that the model is cut over: plan.tensor.")
    ] = 1,
    direction: Annotated[
        str | None,
        typer.Option(
            help="Languages of a model that translates several: en-de.", show_default="the only one"
        ),
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            help="File of API keys, one a line; requests then have to bring one.", show_default="none needed"
        ),
    ] = None,
    slots: Annotated[int, typer.Option(help="Completions that a model writes side by side.")] = 16,
    context: Annotated[int, typer.Option(help="Tokens of a prompt and its completion, at most.")] = 4096,
    chunk: Annotated[
        int, typer.Option(help="Tokens of new prompts that are read between two steps of running texts.")
    ] = 256,
    prefix_mb: Annotated[
        int, typer.Option(help="Megabytes of prompts kept for prompts that begin alike; 0 keeps none.")
    ] = 256,
    waiting: Annotated[
        int, typer.Option(help="Requests that may wait for a model; more are told to come again (429).")
    ] = 64,
    max_tokens: Annotated[int, typer.Option(help="Largest max_tokens of a request.")] = 4096,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 300.0,
    log_requests: Annotated[
        bool,
        typer.Option("--log-requests", help="Write a line of JSON about each request to standard error."),
    ] = False,
    grace: Annotated[
        float, typer.Option(help="Seconds that answers may take to finish when told to stop.")
    ] = 10.0,
) -> None:
    """Serve trained models: an OpenAI-shaped API and a page to type into.

    mainspring serve runs/quickstart
    """
    from mainspring.cli.spread import start_ranks
    from mainspring.infer.batching import BatchSettings
    from mainspring.parallel import Plan, World
    from mainspring.serve import Limits, run
    from mainspring.serve.keys import read_keys

    for option, value in (("--waiting", waiting), ("--max-tokens", max_tokens), ("--timeout", timeout)):
        if value < (0 if option == "--waiting" else 1):
            raise UsageError(f"{option} {value}: should be {0 if option == '--waiting' else 1} or more")
    if tensor > 1 and "WORLD_SIZE" not in os.environ:
        code = start_ranks(command, tensor)
        stopped = code in (SIGNALLED + signal.SIGINT, SIGNALLED + signal.SIGTERM)
        raise typer.Exit(0 if stopped else code)  # a server that is told to stop has done its work
    console = err()

    def say(line: str) -> None:
        console.print(line, markup=False)

    def ready(url: str) -> None:
        say(f"serving {', '.join(map(str, paths))} at {url} (page), {url}/v1 (API); Ctrl-C stops")

    plan = Plan(tensor=tensor) if tensor > 1 else None
    with ExitStack() as stack:
        world = World()
        if plan is not None:
            world = stack.enter_context(World.start(plan, device=device.partition(":")[0]))
        run(
            paths,
            host,
            port,
            names=name or (),
            device=device if plan is None else str(world.device),
            precision=precision,
            direction=direction,
            plan=plan,
            limits=Limits(waiting=waiting, tokens=max_tokens, seconds=timeout),
            batching=BatchSettings(
                slots=slots, context=context, chunk=chunk, prefix_bytes=max(0, prefix_mb) << 20
            ),
            keys=() if api_keys is None else read_keys(api_keys),
            log=_line if log_requests else None,
            grace=grace,
            on_ready=ready,
            note=say,
        )
        if world.is_main:
            say("stopped")


def _line(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
