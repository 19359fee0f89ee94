"""A trained model to make small: read from wherever it is, written back as a folder that everything loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mainspring.config import parse
from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch, pad_rows
from mainspring.data.readers import read
from mainspring.errors import DataError, UsageError
from mainspring.models import FAMILIES, ModelConfig
from mainspring.models.exchange import layout_of
from mainspring.models.weights import expected_shapes
from mainspring.nn.config import TransformerConfig
from mainspring.nn.transformer import Transformer
from mainspring.text.tokenizer import Tokenizer
from mainspring.train.source import checkpoint_of, read_weights

FIELD = "MODEL"
"""What messages call the model."""


@dataclass(frozen=True)
class Subject:
    """A model and what stands beside it."""

    path: Path
    family: str
    model: Transformer
    """In evaluation, in fp32, on the CPU."""
    tokenizer_json: Path | None

    @property
    def config(self) -> TransformerConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def named(self) -> ModelConfig:
        """The model as a recipe names it."""
        return parse(ModelConfig, {"family": self.family})

    @property
    def causal(self) -> bool:
        """Whether its tokens see those before them alone."""
        return FAMILIES[self.family].causal

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer.

        Raises:
            UsageError: there is none beside it.
        """
        if self.tokenizer_json is None:
            raise UsageError(f"{self.path}: text is needed, and no tokenizer.json is beside the model")
        return Tokenizer.load(self.tokenizer_json)


def open_subject(path: str | Path) -> Subject:
    """Read the model of a run (its newest checkpoint), a checkpoint or an exported model's folder.

    Raises:
        UsageError: none of them is there, or it cannot be read.
    """
    found = read_weights(path, FIELD)
    place = Path(path)
    tokenizer = checkpoint_of(place)[0].tokenizer if layout_of(place) is None else place / "tokenizer.json"
    config = found.config.replace(dropout=0.0, attention_dropout=0.0)
    missing = set(expected_shapes(config)) - set(found.state)
    if missing and all(name.startswith("head.") for name in missing):  # published without it
        config = config.replace(head="none", head_transform=False, head_bias=False)
    with torch.device("meta"):
        model = Transformer(config)
    values = {name: tensor.float() for name, tensor in found.state.items()}
    model.load_state_dict(values, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Subject(place, found.family, model.eval(), tokenizer if tokenizer.is_file() else None)


def texts_of(
    subject: Subject, text: str | Path, *, length: int, count: int, rows: int = 8
) -> list[TokenBatch]:
    """Calibration text for a model, as it reads: a batch of `rows` texts at a time.

    Args:
        subject: whose tokenizer encodes it.
        text: a file or folder of text (each document, or paragraph of plain text, is a text).
        length: most tokens of a text.
        count: texts to take, from the beginning.

    Raises:
        DataError: there is no text.
    """
    tokenizer = subject.tokenizer()
    length = min(length, subject.config.max_positions)
    encoded: list[list[int]] = []
    for document in read(str(text)):
        for paragraph in document.text.split("\n\n"):
            ids = tokenizer.encode(paragraph.strip(), template=not subject.causal)
            if len(ids) > (2 if not subject.causal else 1):
                encoded.append([*ids[: length - 1], ids[-1]] if len(ids) > length else ids)
        if len(encoded) >= count:
            break
    if not encoded:
        raise DataError(f"{text}: no text was found to calibrate with")
    encoded = encoded[:count]
    batches = []
    for start in range(0, len(encoded), rows):
        padded, valid = pad_rows(encoded[start : start + rows], tokenizer.pad or 0)
        kind = causal_batch if subject.causal else bidirectional_batch
        batches.append(kind(padded, valid=None if bool(valid.all()) else valid))
    return batches
