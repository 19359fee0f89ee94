"""`mainspring export` and `mainspring import`: models out to other programs' layouts, and in from them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring.cli.console import err, out
from mainspring.cli.inference import PrecisionName

if TYPE_CHECKING:
    from mainspring.models import exchange


class Layout(StrEnum):
    """Layouts that models can be written in."""

    hf = "hf"
    megatron = "megatron"
    safetensors = "safetensors"
    onnx = "onnx"
    aot = "aot"


class QkvVersion(StrEnum):
    """Megatron's layouts of the joint matrix of queries, keys and values."""

    v0 = "0"
    v1 = "1.0"
    v2 = "2.0"


def export(
    path: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Run directory, or one of its checkpoints.", show_default=False),
    ],
    to: Annotated[Path, typer.Option("--to", help="Directory to write.", show_default=False)],
    layout: Annotated[
        Layout,
        typer.Option(
            "--format",
            help="hf: config.json, safetensors and tokenizer, as transformers loads them. megatron: a share "
            "for each tensor-parallel rank, for models of GPT-2's shape. safetensors: by our own names. "
            "onnx: a graph for other runtimes; of a run that trained a graph, that graph. aot: compiled "
            "ahead of time for this processor, with tokenizer and weights, so that a service starts at "
            "once. Both: of any model that generate, embed or classify takes.",
        ),
    ] = Layout.hf,
    ranks: Annotated[int, typer.Option(min=1, help="Tensor-parallel ranks (megatron).")] = 1,
    qkv_version: Annotated[
        QkvVersion, typer.Option(help="Megatron's checkpoint version, which orders the rows of qkv.")
    ] = QkvVersion.v2,
    int8: Annotated[
        bool, typer.Option("--int8", help="Matrices as int8 with a scale for each channel (onnx).")
    ] = False,
    rows: Annotated[
        int, typer.Option(min=1, help="Completions side by side that are compiled for (aot).")
    ] = 1,
    slots: Annotated[
        int, typer.Option(min=1, help="Tokens of prompt and completion that are compiled for (aot).")
    ] = 256,
    precision: PrecisionName = "fp32",
) -> None:
    """Write a run's newest checkpoint for other programs.

    mainspring export runs/quickstart --to models/quickstart

    mainspring export runs/gpt2 --to models/shares --format megatron --ranks 4

    mainspring export runs/gpt2 --to models/graph --format onnx

    mainspring export models/minilm --to graphs/minilm --format onnx --int8

    mainspring export models/minilm --to services/minilm --format aot
    """
    from mainspring.errors import UsageError
    from mainspring.recipes.exchange import export_run
    from mainspring.recipes.graphs import export_graph

    if int8 and layout is not Layout.onnx:
        raise UsageError(f"--int8 goes with --format onnx, not {layout.value}")
    if layout is Layout.aot:
        _compile(path, to, precision, rows, slots)
        return
    if layout is Layout.onnx:
        for file in export_graph(path, to, int8=int8):
            out().print(str(file), markup=False)
        return
    others: dict[Layout, exchange.Layout] = {
        Layout.hf: "hf",
        Layout.megatron: "megatron",
        Layout.safetensors: "safetensors",
    }
    export_run(path, to, others[layout], ranks=ranks, version=qkv_version.value)
    out().print(str(to), markup=False)


def _compile(path: Path, to: Path, precision: str, rows: int, slots: int) -> None:
    from mainspring.infer import Engine
    from mainspring.infer.ahead import require_compiler
    from mainspring.infer.compiled import SMALLEST, rounded

    require_compiler()
    engine = Engine.load(path, precision=precision)
    with err().status("compiling"):
        engine.compile_to(to, steps=((rounded(rows), rounded(slots, SMALLEST)),))
    out().print(str(to), markup=False)


def import_(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="Directory of a model in one of the layouts that export writes, or its name on the Hugging "
            "Face hub: owner/name, or owner/name@revision.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Run directory to make.", show_default=False)],
    data: Annotated[str, typer.Option(help="Data directory that the run's recipe names.")] = "data/tokens",
    family: Annotated[
        str | None,
        typer.Option(show_default=False, help="Family, where several share a layout: minilm for a BERT, ..."),
    ] = None,
) -> None:
    """Make a run out of a model: it can be evaluated, served and exported like one trained here.

    mainspring import models/gpt2 --to runs/gpt2

    mainspring import FacebookAI/xlm-roberta-base --to runs/xlm-r
    """
    from mainspring.recipes.exchange import import_run

    import_run(path, to, data=data, family=family)
    out().print(str(to), markup=False)
