"""mainspring embed: vectors of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.console import err, out
from mainspring.cli.inference import (
    Device,
    FromFile,
    ModelPath,
    PrecisionName,
    SelfCheck,
    Texts,
    in_chunks,
    read_texts,
    tell,
)
from mainspring.errors import UsageError


def embed(
    path: ModelPath,
    texts: Texts = None,
    file: FromFile = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="Write the vectors here (.npy, float32) in place of JSON lines.", show_default=False
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="How tokens become a vector: mean, cls, max, last, mean_sqrt, weighted_mean.",
            show_default="as the model was published",
        ),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize", help="Bring vectors to length 1.", show_default="as published"
        ),
    ] = None,
    precision: PrecisionName = "fp32",
    self_check: SelfCheck = False,
    device: Device = "cpu",
) -> None:
    """Turn texts into vectors, one JSON line each: {"text": ..., "vector": [...]}.

    mainspring embed models/minilm "A cat sat." "A feline rested."

    mainspring embed models/minilm --file sentences.txt --to vectors.npy
    """
    import numpy as np
    from numpy.typing import NDArray

    from mainspring.finetune.pooling import pooling_named
    from mainspring.infer import Engine

    given = read_texts(texts, file)
    if to is not None and to.suffix != ".npy":
        raise UsageError(f"--to {to}: vectors are written as .npy; give a name that ends so")
    chosen = None if pooling is None else pooling_named(pooling)
    engine = Engine.load(path, device, precision, self_check=self_check)
    tell(engine)
    parts: list[NDArray[np.float32]] = []
    cut = 0
    for part in in_chunks(given, "embedding"):
        made = engine.embed(part, pooling=chosen, normalize=normalize)
        cut += sum(made.cut)
        if to is None:
            for text, vector in zip(part, made.vectors.tolist(), strict=True):
                line = json.dumps({"text": text, "vector": [round(x, 7) for x in vector]}, ensure_ascii=False)
                out().print(line, markup=False)
        else:
            parts.append(made.vectors.numpy())
    if cut:
        limit = engine.tasks.max_tokens if engine.tasks is not None else 0
        err().print(f"note: {cut} texts were longer than {limit} tokens and were cut", style="yellow")
    if to is not None:
        vectors = np.concatenate(parts) if parts else np.zeros((0, engine.model.config.d_model), np.float32)
        np.save(to, vectors)
        out().print(f"{to}: {vectors.shape[0]} vectors of {vectors.shape[1]}", markup=False)
