"""Cross-lingual contrast: a text has to be told from others by its translation.

Chi et al. 2021 (InfoXLM, arXiv 2007.07834), section 3.3: -log exp(q.k+ / t) / sum_k exp(q.k / t) over the
translation's key and the keys of a queue (equation 8), with mixup contrast where a row holds two pairs. As in
the published code: representations are not normalised, both texts are masked, and the first token of layer 8
stands for a row. Translation language modelling on the same pairs goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import IGNORE, TokenBatch
from mainspring.data.pair_batch import Sides, packed_pairs_of
from mainspring.data.token_row import TokenRow, collate
from mainspring.data.translation_pair import mixed_sides, sentence_row
from mainspring.nn.transformer import Transformer
from mainspring.objectives.around import network_tensors
from mainspring.objectives.base import Gather, Loss, Views, check_generators, labelled, labelled_loss
from mainspring.objectives.config import ContrastConfig, TranslationConfig
from mainspring.objectives.momentum import MomentumContrast
from mainspring.objectives.replacement import Replacement, required
from mainspring.objectives.translation import TranslationLM, uniform_choice
from mainspring.objectives.words import Vocabulary


class CrossLingualContrast:
    """Losses `xlco`, over rows, and, with a weight, `tlm`, over hidden tokens.

    In the view `query` a row's first token is labelled 0, the class of its own key; a row without that label
    counts nothing, and its key is not kept.

    The keys of a step enter the queue after it, those of all ranks in the order of the global batch; so how a
    batch is cut changes nothing. Until keys have been stored a row has nothing to be told from and no loss.

    Raises:
        ConfigError: the tokenizer has no mask, or nothing that ends a text.
    """

    XLCO, TLM = "xlco", "tlm"
    QUERY, KEY = "query", "key"

    def __init__(self, config: ContrastConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self._separator = required(vocabulary.separator, "separator", config.kind)
        self._replacement = Replacement(config, vocabulary, config.kind)
        translation = TranslationConfig(
            rate=config.rate,
            reset_positions=False,
            mask_share=config.mask_share,
            random_share=config.random_share,
        )
        self._translation = TranslationLM(translation, vocabulary)

    def assemble(self, network: Transformer) -> MomentumContrast:
        """The network with projection, slow copy and queue."""
        return MomentumContrast(network, self.config.layer, self.config.queue)

    def network_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's weights, without projection, copy and queue."""
        return network_tensors(state)

    def start(self, model: nn.Module) -> None:
        """The copy begins as the network does, and the queue empty."""
        assert isinstance(model, MomentumContrast)
        model.start()

    def after_step(self, model: nn.Module, gather: Gather, applied: bool) -> None:
        """Store the keys of all ranks, and let the copy follow the network, if the step was `applied`."""
        assert isinstance(model, MomentumContrast)
        if applied and model.pending:
            model.store(gather(torch.cat(model.pending)))
            model.follow(self.config.momentum)
        model.pending.clear()

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Queries and keys of every row; row r draws from `rngs[r]` alone."""
        check_generators(batch, rngs)
        pad, device = self.vocabulary.pad, batch.ids.device
        views: Views = {}
        if self.config.tlm_weight > 0:
            views |= self._translation.build(batch, rngs)
        rows = [self._sides(pairs, rng) for pairs, rng in zip(packed_pairs_of(batch), rngs, strict=True)]
        for name, side in ((self.QUERY, 0), (self.KEY, 1)):
            views[name] = collate([row[side] for row in rows], pad=pad, device=device)
        return views

    def counts(self, views: Views) -> dict[str, int]:
        """Number of rows, and of hidden tokens."""
        tokens = self._translation.counts(views) if self.TLM in views else {}
        return {self.XLCO: int(labelled(views[self.QUERY]).sum()), **tokens}

    def passes(self, model: nn.Module, views: Views) -> Sequence[Callable[[], dict[str, Loss]]]:
        """The contrast, then translation language modelling."""
        counts = self.counts(views)

        def contrast() -> dict[str, Loss]:
            counted = labelled(views[self.QUERY])[:, 0]
            key = model(views[self.KEY], part="key")[counted]
            query = model(views[self.QUERY], part="query")[counted]
            assert isinstance(model, MomentumContrast)
            if torch.is_grad_enabled():
                model.pending.append(key)
            total = summed_info_nce(query, key, model.negatives(), self.config.temperature)
            return {self.XLCO: Loss(total, 1.0, counts[self.XLCO])}

        def translate() -> dict[str, Loss]:
            total = labelled_loss(model, views[self.TLM])
            return {self.TLM: Loss(total, self.config.tlm_weight, counts[self.TLM])}

        return (contrast, translate) if self.TLM in views else (contrast,)

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """All losses, in nats."""
        losses: dict[str, Loss] = {}
        for run in self.passes(model, views):
            losses |= run()
        return losses

    def _sides(self, pairs: list[Sides], rng: np.random.Generator) -> tuple[TokenRow, TokenRow]:
        query, key = (
            self._masked(sentence_row(parts, self.vocabulary.first, self._separator), rng)
            for parts in mixed_sides(pairs, rng)
        )
        own = query.labels.copy()
        own[0] = 0
        return query._replace(labels=own), key

    def _masked(self, row: TokenRow, rng: np.random.Generator) -> TokenRow:
        hidden = uniform_choice(row, self.vocabulary, self.config.rate, rng)
        masked = row.hide(hidden, self._replacement.draw(row.ids[hidden], rng))
        return masked._replace(labels=np.full(row.length, IGNORE))


def summed_info_nce(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Sum over rows of the cross entropy of the own key against itself and the negatives: fp32 scalar.

    Args:
        query, key: [B, D].
        negatives: [K, D].
        temperature: divides the products.
    """
    own = (query * key).sum(1, keepdim=True)
    logits = torch.cat([own, query @ negatives.T], dim=1).float() / temperature
    first = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    return F.cross_entropy(logits, first, reduction="sum")
