"""Models made small, from a path to a folder: what the commands do, with the model's task kept beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mainspring.compress import (
    Measure,
    Method,
    Narrowed,
    Subject,
    drop_layers,
    drop_parts,
    formats_for,
    importance,
    open_subject,
    quantize,
    spread_layers,
    texts_of,
)
from mainspring.errors import UsageError
from mainspring.infer.written import Written, keep, kept, written_by
from mainspring.models.exchange import layout_of
from mainspring.models.native import export_native
from mainspring.numerics import format_named
from mainspring.objectives import Vocabulary
from mainspring.train.source import checkpoint_of

CALIBRATION_TEXTS = 64
CALIBRATION_LENGTH = 128


@dataclass(frozen=True)
class Text:
    """Calibration text."""

    path: Path
    """A file or a folder."""
    count: int = CALIBRATION_TEXTS
    """Texts to take."""
    length: int = CALIBRATION_LENGTH
    """Most tokens of each."""

    def batches(self, subject: Subject) -> list[Any]:
        """As the model reads it."""
        return texts_of(subject, self.path, length=self.length, count=self.count)


def quantize_model(
    path: str | Path,
    to: str | Path,
    *,
    form: str,
    method: Method = "rtn",
    layers: Mapping[str, str] | None = None,
    embeddings: str | None = None,
    text: Text | None = None,
    strength: float = 0.5,
    activations: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Narrowed:
    """Write a model with its matrices in a narrow format; every loader of models reads the folder.

    Args:
        path: a run, a checkpoint or an exported model.
        to: folder to write.
        form: format of the linear maps, by name.
        method: how weights are rounded.
        layers: formats of some layers or maps, by the beginning of their names.
        embeddings: format of the tables of tokens (None: they stay).
        text: to calibrate with.
        strength: of a migration (`smooth`).
        activations: also find static scales of inputs.
        progress: is told layers done and their total.

    Raises:
        UsageError: no model is there, or the settings do not go together.
    """
    subject = open_subject(path)
    formats = formats_for(
        subject.model,
        format_named(form),
        layers={name: format_named(other) for name, other in (layers or {}).items()},
        embeddings=None if embeddings is None else format_named(embeddings),
    )
    done = quantize(
        subject.model,
        formats,
        method=method,
        batches=[] if text is None else text.batches(subject),
        strength=strength,
        activations=activations,
        progress=progress,
    )
    notes: dict[str, Any] = {"method": method, "changes": [asdict(change) for change in done.changes]}
    if done.input_scales:
        notes["input_scales"] = done.input_scales
    write_subject(subject, to, encoded=done, notes={"quantized": notes})
    return done


def write_subject(
    subject: Subject,
    to: str | Path,
    *,
    encoded: Narrowed | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model that was made small, with its tokenizer and what it has learnt to do."""
    out = export_native(
        subject.named,
        subject.config,
        subject.model.state_dict(),
        subject.tokenizer_json,
        to,
        encoded=None if encoded is None else encoded.encoded,
        formats=None if encoded is None else encoded.formats,
        notes=notes,
    )
    if (learnt := _learnt(subject.path)) is not None:
        keep(out, learnt)
    return out


def _learnt(path: Path) -> Written | None:
    if layout_of(path) is not None:
        return kept(path)
    run, _ = checkpoint_of(path)
    recipe = run.read_recipe()
    return written_by(recipe, open_subject(path).config, run.dir)


def folder_bytes(folder: str | Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def prune_model(
    path: str | Path,
    to: str | Path,
    *,
    layers: int | Sequence[int] | None = None,
    heads: int | None = None,
    d_ff: int | None = None,
    text: Text | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Subject:
    """Write a smaller model: some layers of another, and the most important parts of each.

    Args:
        path: a run, a checkpoint or an exported model.
        to: folder to write.
        layers: how many to keep, at equal distances, or which.
        heads: to keep in each layer.
        d_ff: columns of the feed-forward to keep in each layer.
        text: to measure importance on; needed for heads and d_ff.
        progress: is told batches done and their total.

    Raises:
        UsageError: no model is there, nothing is asked for, or the model cannot be pruned so.
    """
    if layers is None and heads is None and d_ff is None:
        raise UsageError("nothing is to be taken out: give layers, heads or d_ff to keep")
    if text is None and (heads is not None or d_ff is not None):
        raise UsageError("which heads and columns matter is measured on text: give some with --calibrate")
    subject = open_subject(path)
    if layers is not None:
        keep = spread_layers(subject.config.n_layers, layers) if isinstance(layers, int) else list(layers)
        subject = replace(subject, model=drop_layers(subject.model, keep))
    if text is not None and (heads is not None or d_ff is not None):
        vocabulary = Vocabulary.of_tokenizer(subject.tokenizer())
        batches = text.batches(subject)
        measure = Measure(subject.model, batches, causal=subject.causal, vocabulary=vocabulary)
        found = importance(subject.model, measure, progress)
        subject = replace(subject, model=drop_parts(subject.model, found, heads=heads, d_ff=d_ff))
    write_subject(subject, to)
    return subject
