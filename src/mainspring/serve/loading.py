"""From an engine to a model that is served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mainspring.errors import UsageError
from mainspring.infer.batching import Batcher, BatchSettings, SpreadBatcher
from mainspring.infer.chat_template import ChatTemplate, find_template
from mainspring.infer.engine import Engine
from mainspring.serve.engine_reader import EngineReader, ReadingEngine
from mainspring.serve.models import Model


def serve_engine(
    engine: Engine, *, batching: BatchSettings | None = None, folder: Path | None = None, spread: bool = False
) -> Model:
    """An engine as a model that is served.

    Args:
        engine: what writes or reads.
        batching: bounds of its running batch.
        folder: where its tokenizer's files are, for the chat template; None: the default template.
        spread: whether it is cut over ranks, of which this is the first and the others `follow`; it writes
            then, and reads nothing.
    """
    reader = None
    if not spread and isinstance(engine, ReadingEngine):
        reader = None if engine.tasks is None else EngineReader(engine)
        if not engine.writes:
            return Model(reader=reader)
    batcher = SpreadBatcher(engine, batching) if spread else Batcher(engine, batching)
    template = None
    if engine.layout.continues:
        source = None if folder is None else find_template(folder)
        template = ChatTemplate(engine.tokenizer, source)
    return Model(writer=batcher, reader=reader, template=template, alone=batcher.alone)


def about(name: str, model: Model) -> list[str]:
    """What whoever runs a server should know about a model."""
    lines = []
    if model.alone is not None:
        lines.append(f"{name}: requests are written one after another: {model.alone}")
    if model.template is not None and model.template.is_default:
        lines.append(
            f"{name}: the tokenizer brings no chat template; /v1/chat/completions writes roles and colons"
        )
    return lines


def names_of(paths: Sequence[str | Path], names: Sequence[str]) -> list[str]:
    """What each path is called: as it is told, or as its folder is.

    Raises:
        UsageError: not as many names as paths, or a name twice.
    """
    if names and len(names) != len(paths):
        raise UsageError(
            f"{len(names)} names for {len(paths)} models; give one for each (--name A --name B), or none"
        )
    found = list(names) or [Path(path).resolve().name for path in paths]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two models are called {twice!r}; give each a name of its own with --name")
    return found
