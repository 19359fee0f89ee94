"""mainspring classify: what a task model says of texts: classes, scores, tags, or spans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring.cli.console import out
from mainspring.cli.inference import (
    Device,
    FromFile,
    ModelPath,
    PrecisionName,
    SelfCheck,
    Texts,
    as_pairs,
    in_chunks,
    read_texts,
    tell,
)
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.infer import Engine


def classify(
    path: ModelPath,
    texts: Texts = None,
    file: FromFile = None,
    no_answer: Annotated[
        bool, typer.Option("--no-answer", help="Spans: there may be no answer (models trained so).")
    ] = False,
    precision: PrecisionName = "fp32",
    self_check: SelfCheck = False,
    device: Device = "cpu",
) -> None:
    """Say what a task model says, one JSON line for each text: classes, a score, tags, or a span.

    What it is depends on the model's head. A pair of texts is given as one, with a tab between them; for a
    span, the question and then the context.

    mainspring classify models/sentiment "a fine film"

    mainspring classify models/qa $'Who sat?\\tThe cat sat on the mat.'
    """
    from mainspring.infer import Engine

    given: Sequence[Any] = as_pairs(read_texts(texts, file))
    engine = Engine.load(path, device, precision, self_check=self_check)
    tell(engine)
    for part in in_chunks(given, "reading"):
        for text, found in zip(part, _answers(engine, part, no_answer), strict=True):
            shown = list(text) if isinstance(text, tuple) else text
            out().print(json.dumps({"text": shown, **found}, ensure_ascii=False), markup=False)


def _answers(engine: Engine, texts: Sequence[Any], no_answer: bool) -> Sequence[Mapping[str, Any]]:
    """What the model's head gives."""
    task = None if engine.tasks is None else engine.tasks.task
    if task == "span":
        if not all(isinstance(text, tuple) for text in texts):
            raise UsageError(
                "a span is found in a context: give question and context with a tab between them"
            )
        found = [asdict(answer) for answer in engine.span(texts, no_answer=no_answer)]
        return [{"answer": answer.pop("text"), **answer} for answer in found]
    if no_answer:
        raise UsageError("--no-answer goes with a model that finds spans")
    if task == "tag":
        if any(isinstance(text, tuple) for text in texts):
            raise UsageError("tags are of single texts; these have tabs")
        return [asdict(tags) for tags in engine.tag(texts)]
    if task == "score":
        return [{"score": score} for score in engine.score(texts)]
    return [asdict(one) for one in engine.classify(texts)]
