"""SlotReader: a model as "the logits of the next token" for rows that do not go in step.

What `runner.CachedRunner` is for rows that begin together. Shapes: R rows of a call, T tokens of the longest,
V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch, pad_rows
from mainspring.data.token_row import TokenRow, collate
from mainspring.infer.layout import Layout
from mainspring.infer.quantized.native import DecodeStep
from mainspring.nn.slot_cache import SlotCache
from mainspring.nn.transformer import Transformer


class SlotReader:
    """Reads parts of prompts, and generated tokens, into slots of a cache."""

    def __init__(
        self, model: Transformer, vocabulary: int, layout: Layout, *, slots: int, context: int
    ) -> None:
        """`vocabulary`: entries of the model's table that are tokens; `slots` and `context` as for
        `SlotCache`."""
        parameter = next(model.parameters())
        self._model, self._vocabulary, self._layout = model, vocabulary, layout
        # Where a mask asks for the next token, it stands in the row until it is answered.
        room = context + (layout.mask is not None)
        self.cache = SlotCache(
            model.config, slots, room, parameter.dtype, parameter.device, heads=model.heads
        )
        self._given = [0] * slots
        self._at_once = None if layout.mask is not None else DecodeStep.of(model)

    @torch.inference_mode()
    def prompts(self, slots: Sequence[int], parts: Sequence[TokenRow]) -> list[Tensor]:
        """Read the next part of each row's prompt -> logits after its last token, fp32 [V] each."""
        counts = [part.length for part in parts]
        batch = collate(parts, device=self.cache.kv.device)._replace(labels=None)
        wanted = torch.zeros(batch.ids.shape, dtype=torch.bool)
        wanted[range(len(parts)), [count - 1 for count in counts]] = True
        rows = self.cache.rows(slots, counts)
        logits = self._model(batch, cache=rows, select=wanted.to(batch.ids.device)).logits
        return list(logits[:, : self._vocabulary].float())

    def begin(self, slot: int, given: int) -> None:
        """Say how many of a slot's tokens belong to the source (`Layout.given`)."""
        self._given[slot] = given

    @torch.inference_mode()
    def read(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> list[Tensor]:
        """Read generated tokens into each row -> logits after each of them, fp32 [tokens, V] a row.

        Where a mask asks for the next token, the logits are those after the last one alone, [1, V]; there may
        be no token then.
        """
        layout, device = self._layout, self.cache.kv.device
        asking = [] if layout.mask is None else [layout.mask]
        ids, valid = pad_rows([[*row, *asking] for row in tokens], 0)
        counts = valid.sum(1).tolist()
        lengths = torch.tensor([self.cache.lengths[slot] for slot in slots])
        place = lengths[:, None] + torch.arange(ids.shape[1])
        # Padding may stand behind the model's last position.
        place = place.minimum(lengths[:, None] + torch.tensor(counts)[:, None] - 1)
        rank = place
        if layout.whole:
            rank = place - torch.tensor([self._given[slot] for slot in slots])[:, None] + 1
        batch = TokenBatch(
            ids,
            place,
            rank,
            type=torch.full_like(ids, layout.types[1]) if layout.types[1] else None,
            lang=torch.full_like(ids, layout.langs[1]) if layout.langs[1] else None,
            valid=None if min(counts) == ids.shape[1] else valid,
        ).to(device)
        if self._at_once is not None and ids.shape[1] == 1:
            return list(self._read_at_once(self._at_once, slots, batch, lengths)[:, None])
        wanted = valid
        if asking:
            wanted = torch.zeros_like(valid)
            wanted[range(len(counts)), [count - 1 for count in counts]] = True
        rows = self.cache.rows(slots, counts)
        logits = self._model(batch, cache=rows, select=wanted.to(device)).logits
        if asking:
            for slot in slots:
                self.cache.truncate(slot, self.cache.lengths[slot] - 1)
        return list(logits[:, : self._vocabulary].float().split(wanted.sum(1).tolist()))

    def _read_at_once(
        self, step: DecodeStep, slots: Sequence[int], batch: TokenBatch, lengths: Tensor
    ) -> Tensor:
        """Read a token of each row in one call of the compiled tier, [R, V]."""
        self.cache.rows(slots, [1] * len(slots)).push(batch)
        x = self._model.embeddings(batch)[:, 0]
        keys, values = self.cache.by_layer()
        return step(x, keys, values, torch.tensor(slots), lengths)[:, : self._vocabulary]

    def copy(self, source: int, target: int) -> None:
        """Make a slot go on from where another is."""
        self.cache.copy(source, target)
        self._given[target] = self._given[source]

    def swap(self, one: int, other: int) -> None:
        """Exchange two slots."""
        self.cache.swap(one, other)
        self._given[one], self._given[other] = self._given[other], self._given[one]
