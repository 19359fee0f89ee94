"""UniLM v1's mixture: one network, and for each row of text one of four ways to read it.

Dong et al. 2019 (arXiv 1905.03197), sections 2.2 to 2.4: a third of the rows bidirectional, a third from a
source to a target, a sixth in each direction; 15 % of the tokens hidden, 80 % of the time one and else two or
three together. With a weight, bidirectional rows are also told apart by whether their second part goes on
with the first, BERT's next-sentence task (Devlin et al. 2019, arXiv 1810.04805, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import IGNORE, TokenBatch
from mainspring.data.directions import Direction, directed, documents, ends_of_targets
from mainspring.data.token_row import Ints, TokenRow, collate, join, rows_of
from mainspring.errors import ConfigError
from mainspring.nn.transformer import Transformer
from mainspring.objectives.base import Loss, Views, check_generators, labelled, labelled_loss
from mainspring.objectives.config import UnilmConfig
from mainspring.objectives.cross_entropy import summed_cross_entropy
from mainspring.objectives.masked import mask_row
from mainspring.objectives.replacement import Replacement, required
from mainspring.objectives.words import Vocabulary

NEXT, ELSEWHERE = 0, 1
"""Classes of a second part, as the published heads have them."""


class UnilmMixture:
    """Loss `unilm` of hidden tokens, each row read in a direction of its own, and, with a weight, `next` of
    second parts.

    A row's documents get the special tokens of their layout; what then goes beyond the row's length is cut
    off, and documents of fewer than two tokens are left out. With the next-sentence task a bidirectional row
    is its longest document alone, and half of the time its second part comes from the text elsewhere that the
    row brings. The view `next` has the class of each such row as its first token's label.

    Raises:
        ConfigError: the tokenizer has no mask, no first token or no separator; or no direction has a share.
    """

    NAME, NEXT = "unilm", "next"

    def __init__(self, config: UnilmConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self._first = required(vocabulary.first, "first ([CLS])", config.kind)
        self._separator = required(vocabulary.separator, "separator", config.kind)
        self._replacement = Replacement(config, vocabulary, config.kind)
        self._directions: tuple[Direction, ...] = get_args(Direction)
        shares = np.array([getattr(config, direction) for direction in self._directions])
        if shares.sum() <= 0:
            raise ConfigError("objective: bidirectional, seq2seq, left_to_right and right_to_left are all 0")
        self._law = shares / shares.sum()

    @property
    def wants_elsewhere(self) -> bool:
        """Whether second parts are told apart."""
        return self.config.next_sentence_weight > 0

    def assemble(self, network: Transformer) -> Transformer:
        """The network as it is.

        Raises:
            ConfigError: second parts are to be told apart, and it has no classes for them.
        """
        if self.wants_elsewhere and network.config.pair_classes != 2:
            raise ConfigError(
                f"objective.next_sentence_weight = {self.config.next_sentence_weight} needs two classes of "
                f"pairs, and the model has {network.config.pair_classes}: set model.config.pooler = true and "
                "model.config.pair_classes = 2"
            )
        return network

    def network_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """All of it."""
        return state

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Direct and hide every row of a batch [B, T]; row r draws from `rngs[r]` alone."""
        check_generators(batch, rngs)
        pad, device = self.vocabulary.pad, batch.ids.device
        rows = [self._row(row, rng) for row, rng in zip(rows_of(batch), rngs, strict=True)]
        views = {self.NAME: collate([row for row, _ in rows], pad=pad, device=device)}
        if self.wants_elsewhere:
            labels = torch.full_like(views[self.NAME].ids, IGNORE)
            labels[:, 0] = torch.tensor([IGNORE if kind is None else kind for _, kind in rows])
            views[self.NEXT] = views[self.NAME]._replace(labels=labels)
        return views

    def counts(self, views: Views) -> dict[str, int]:
        """Number of hidden tokens, and of rows that have a second part to tell."""
        return {name: int(labelled(view).sum()) for name, view in views.items()}

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """Summed cross entropies, in nats, from one forward."""
        view, counts = views[self.NAME], self.counts(views)
        if self.NEXT not in views:
            return {self.NAME: Loss(labelled_loss(model, view), 1.0, counts[self.NAME])}
        where, kinds = labelled(view), views[self.NEXT].labels
        assert view.labels is not None and kinds is not None
        out = model(view, select=where, columns="own")
        hidden = summed_cross_entropy(out.logits, view.labels[where], out.vocabulary)
        told = F.cross_entropy(out.pair_logits.float(), kinds[:, 0], ignore_index=IGNORE, reduction="sum")
        return {
            self.NAME: Loss(hidden, 1.0, counts[self.NAME]),
            self.NEXT: Loss(told, self.config.next_sentence_weight, counts[self.NEXT]),
        }

    def _row(self, row: TokenRow, rng: np.random.Generator) -> tuple[TokenRow, int | None]:
        """A row laid out and hidden, and the class of its second part, if that is to be told."""
        row, other = row.take(row.type == 0), row.take(row.type == 1)
        direction = self._directions[int(rng.choice(len(self._directions), p=self._law))]
        if self.wants_elsewhere and direction == "bidirectional" and other.length:
            laid, kind = self._two_parts(row, other, rng)
            if laid.length:
                return self._hidden(laid.take(slice(0, row.length)), rng), kind
        parts = [row.take(slice(0, 0))]
        for number, document in enumerate(documents(row)):
            ids = self._words(document)
            if len(ids) >= 2:
                cut = int(rng.integers(1, len(ids)))
                parts.append(directed(ids, cut, direction, self._first, self._separator, number))
        return self._hidden(join(parts).take(slice(0, row.length)), rng), None

    def _two_parts(self, row: TokenRow, other: TokenRow, rng: np.random.Generator) -> tuple[TokenRow, int]:
        """The longest document of a row, half of the time with text from elsewhere for its second part."""
        ids = max((self._words(document) for document in documents(row)), key=len)
        theirs = self._words(other)
        if len(ids) < 2:
            return row.take(slice(0, 0)), NEXT
        cut = int(rng.integers(1, len(ids)))
        kind = ELSEWHERE if len(theirs) and rng.random() < 0.5 else NEXT
        if kind == ELSEWHERE:
            ids = np.concatenate([ids[:cut], theirs[: len(ids) - cut]])
        return directed(ids, cut, "bidirectional", self._first, self._separator, 0), kind

    def _words(self, row: TokenRow) -> Ints:
        return row.ids[~self.vocabulary.special[row.ids]]

    def _hidden(self, laid: TokenRow, rng: np.random.Generator) -> TokenRow:
        maskable = ~self.vocabulary.special[laid.ids] | ends_of_targets(laid)
        alone = np.ones(laid.length, bool)
        several = self.config.ngram_share / 2
        hidden = mask_row(
            alone,
            maskable,
            self.config.rate,
            3,
            rng,
            doc=laid.doc,
            shares=(1 - self.config.ngram_share, several, several),
        )
        return laid.hide(hidden, self._replacement.draw(laid.ids[hidden], rng))
