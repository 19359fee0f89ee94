"""Reader: an encoder over many texts, in batches of like length and without padding.

Texts are sorted by length and dealt into batches of so many tokens. A batch of one length is run as rows;
others are packed one after another into one row (`nn.packed`), so that no work is done on padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch
from mainspring.data.token_row import TokenRow, collate, join, token_row
from mainspring.errors import UsageError
from mainspring.nn.packed import Slots, packed_rows, takes_packed
from mainspring.nn.transformer import Transformer
from mainspring.text.framing import Frame

BATCH_TOKENS = 2048
"""Tokens of a batch: enough for matrix products at full speed, few enough to stay in a processor's caches."""


class Encoded(NamedTuple):
    """A batch of texts after the encoder. S texts, W tokens of the longest, D width."""

    numbers: list[int]
    """Which of the texts these are."""
    hidden: Tensor
    """[S, W, D]."""
    valid: Tensor | None
    """bool [S, W], False at padding; None: there is none."""


class Reader:
    """Runs an encoder over framed texts."""

    def __init__(
        self,
        encoder: Transformer,
        *,
        causal: bool = False,
        batch_tokens: int = BATCH_TOKENS,
        packs: bool = True,
    ) -> None:
        """`causal`: each token sees those before it alone; `packs`: leave padding out where the model can."""
        self.causal = causal
        """Whether each token sees those before it alone."""
        self._tokens = batch_tokens
        self._device = next(encoder.parameters()).device
        self._segments = encoder.config.type_vocab > 1
        self._encoder, self._packs = encoder, packs and takes_packed(encoder)
        self.forward: Callable[[TokenBatch], Tensor] = partial(hidden_states, encoder)
        """The encoder as a function of a batch; transformations put another in its place."""

    def run(self, frames: Sequence[Frame]) -> Iterator[Encoded]:
        """Encode texts, longest first. Every text is in one of the batches.

        Raises:
            UsageError: a text has no tokens.
        """
        for number, frame in enumerate(frames):
            if not frame.ids:
                raise UsageError(f"text {number} is empty, and the tokenizer's template adds nothing to it")
        order = sorted(range(len(frames)), key=lambda k: -len(frames[k].ids))
        while order:
            width = len(frames[order[0]].ids)
            batch = self._take(frames, order)
            order = order[len(batch) :]
            yield self._encode(batch, [frames[k] for k in batch], width)

    def _take(self, frames: Sequence[Frame], order: list[int]) -> list[int]:
        """The first of `order` that make up a batch."""
        taken, used = [order[0]], len(frames[order[0]].ids)
        for k in order[1:]:
            # Without packing, each is as long as the longest.
            used += len(frames[k].ids) if self._packs else len(frames[order[0]].ids)
            if used > self._tokens:
                break
            taken.append(k)
        return taken

    @torch.inference_mode()
    def _encode(self, numbers: list[int], frames: list[Frame], width: int) -> Encoded:
        device = self._device
        rows = [self._row(frame) for frame in frames]
        if self._packs and len(frames[-1].ids) < width:
            packed = join([row._replace(doc=row.doc + number) for number, row in enumerate(rows)])
            batch = collate([packed], device=device)._replace(labels=None)
            with packed_rows(self._encoder):
                hidden = self.forward(batch)
            assert batch.doc is not None
            slots = Slots.of(batch.doc[0])
            return Encoded(numbers, slots.spread(hidden[0]), slots.valid)
        batch = collate(rows, device=device)._replace(labels=None)
        return Encoded(numbers, self.forward(batch), batch.valid)

    def _row(self, frame: Frame) -> TokenRow:
        row = token_row(frame.ids, rank=np.arange(len(frame.ids)) if self.causal else 0)
        return row._replace(type=np.array(frame.types, dtype=np.int64)) if self._segments else row


def hidden_states(encoder: Transformer, batch: TokenBatch) -> Tensor:
    """What leaves the last layer, [B, T, D], without the work of a head."""
    nowhere = None if encoder.config.head == "none" else torch.zeros_like(batch.ids, dtype=torch.bool)
    hidden: Tensor = encoder(batch, select=nowhere).hidden
    return hidden
