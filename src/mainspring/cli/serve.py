"""mainspring serve: answer over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from mainspring.cli.console import err
from mainspring.errors import UsageError


def serve(
    path: Annotated[
        Path, typer.Argument(help="Run, checkpoint (RUN/checkpoints/step-...) or exported model (folder).")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every network of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 8000,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Precision: fp32 or bf16.")] = "fp32",
    direction: Annotated[
        str | None,
        typer.Option(
            help="Languages of a model that translates several: en-de.", show_default="the only one"
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(help="Seconds that answers may take to finish when told to stop.")
    ] = 10.0,
) -> None:
    """Serve a trained model: an OpenAI-shaped API and a page to type into.

    mainspring serve runs/quickstart
    """
    from mainspring.serve import run

    if dtype not in ("fp32", "bf16"):
        raise UsageError(f"--dtype {dtype}: should be fp32 or bf16")
    precision = cast(Literal["fp32", "bf16"], dtype)
    console = err()

    def ready(url: str) -> None:
        console.print(
            f"serving {path} at {url} (page), {url}/v1/completions (API); Ctrl-C stops", markup=False
        )

    run(path, host, port, device=device, dtype=precision, direction=direction, grace=grace, on_ready=ready)
    console.print("stopped", markup=False)
