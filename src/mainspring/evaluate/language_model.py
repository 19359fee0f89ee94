"""Bits per byte and perplexity of a language model on held-out text, beside baselines on the very same
tokens.

Bits per byte is the sum of -log2 p over the scored tokens, divided by the UTF-8 bytes those tokens stand
for: it does not depend on the tokenizer. Perplexity is 2 to the mean bits per token, and does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mainspring.data.batch import IGNORE, TokenBatch
from mainspring.data.dataset import TokenData
from mainspring.data.loader import holdout_rows
from mainspring.errors import DataError
from mainspring.evaluate.ngram import KneserNey, Unigram
from mainspring.evaluate.stream import Bools, Ints, Stream, labelled_stream
from mainspring.nn.transformer import Transformer
from mainspring.text.tokenizer import Tokenizer

Progress = Callable[[int], None]
"""Told the number of tokens scored so far."""


@dataclass(frozen=True)
class LMScore:
    """How well a language model predicts a text."""

    bits_per_byte: float
    """-log2 p of the scored tokens over the UTF-8 bytes they stand for."""
    perplexity: float
    """2 to the mean of -log2 p over the scored tokens."""
    tokens: int
    """Tokens scored, each once."""
    bytes: int
    """UTF-8 bytes they stand for."""

    @classmethod
    def of(cls, bits: float, tokens: int, size: int) -> LMScore:
        """From total bits, tokens and bytes.

        Raises:
            DataError: there is nothing to score.
        """
        if not tokens or not size:
            raise DataError(
                f"the held-out text has {tokens} tokens to predict ({size} bytes); it needs one or more: "
                "build the data with a larger --holdout or more text"
            )
        return cls(bits / size, 2 ** (bits / tokens), tokens, size)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def score_rows(
    model: Transformer, rows: Iterable[TokenBatch], tokenizer: Tokenizer, *, progress: Progress | None = None
) -> LMScore:
    """Score a causal model on labelled rows; the model is put into evaluation mode and back.

    Args:
        model: weights on any device, in fp32 or bf16; probabilities are summed in fp64 from fp32.
        rows: batches [B, T] whose labels are the next tokens.
        tokenizer: tells how many bytes a token stands for.
        progress: told the number of tokens scored so far after each batch.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    bits, tokens, size = 0.0, 0, 0
    try:
        with torch.inference_mode():
            for batch in rows:
                if batch.labels is None:
                    continue
                labels = batch.labels[batch.labels != IGNORE]
                if not len(labels):
                    continue
                tokens += len(labels)
                size += tokenizer.token_bytes(labels.numpy())
                here = batch.to(device)
                assert here.labels is not None
                chosen = here.labels != IGNORE
                logits_NV = model(here, select=chosen).logits.float()
                nats = F.cross_entropy(logits_NV, here.labels[chosen], reduction="none")
                bits += float(nats.double().sum()) / np.log(2)
                if progress is not None:
                    progress(tokens)
    finally:
        model.train(was_training)
    return LMScore.of(bits, tokens, size)


def evaluate(
    model: Transformer,
    data: TokenData,
    *,
    seq_len: int,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> LMScore:
    """Score a causal model on the held-out part of a data set, every token once.

    Args:
        model: as for `score_rows`.
        data: its tokenizer is the model's.
        seq_len: tokens of context at most, T.
        max_tokens: stop after about so many tokens; None takes all.
        progress: as for `score_rows`.

    Raises:
        DataError: the data has no held-out text.
    """
    return score_rows(model, held_out(data, seq_len, max_tokens), data.tokenizer, progress=progress)


def held_out(data: TokenData, seq_len: int, max_tokens: int | None = None) -> Iterator[TokenBatch]:
    """The held-out rows of a data set in order, up to about `max_tokens` tokens."""
    seen = 0
    for batch in holdout_rows(data, seq_len):
        if max_tokens is not None and seen >= max_tokens:
            return
        seen += batch.ids.numel()
        yield batch


def baselines(
    data: TokenData,
    *,
    seq_len: int,
    order: int = 5,
    max_tokens: int | None = None,
    max_train_tokens: int = 20_000_000,
) -> dict[str, LMScore]:
    """Unigram and Kneser-Ney scores on the tokens that `evaluate` scores, each n-gram with its whole
    document behind it.

    Args:
        data: trained on its training part, scored on its held-out part.
        seq_len: as for `evaluate`; it decides only which tokens are scored.
        order: longest n-gram.
        max_tokens: as for `evaluate`.
        max_train_tokens: bound of the training tokens used, and so of memory (about 150 bytes each).
    """
    stream, scored = labelled_stream(held_out(data, seq_len, max_tokens))
    train = training_stream(data, max_train_tokens)
    vocab = data.tokenizer.vocab_size
    size = data.tokenizer.token_bytes(stream.ids[scored])
    unigram = Unigram(train, vocab).log2_probabilities(stream)
    kneser_ney = KneserNey(train, vocab, order=order).log2_probabilities(stream)
    return {"unigram": _score(unigram, scored, size), f"kneser_ney_{order}": _score(kneser_ney, scored, size)}


def _score(log2_p: np.ndarray[Any, np.dtype[np.float64]], scored: Bools, size: int) -> LMScore:
    return LMScore.of(-float(log2_p[scored].sum()), int(scored.sum()), size)


def training_stream(data: TokenData, max_tokens: int) -> Stream:
    """Training documents of every stream, in proportion to its size, up to about `max_tokens` tokens."""
    streams = data.split("train").values()
    share = min(1.0, max_tokens / max(1, sum(stream.tokens for stream in streams)))
    ids: list[Ints] = []
    starts: list[Bools] = []
    for stream in streams:
        window = stream.window(0, int(stream.tokens * share))
        ids.append(window.ids)
        starts.append(np.diff(window.doc, prepend=-1) != 0)
    return Stream(np.concatenate(ids), np.concatenate(starts)) if ids else Stream.of_documents([])
