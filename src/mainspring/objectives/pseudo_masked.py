"""Pseudo-masked language modelling: autoencoding and partially autoregressive prediction in one forward.

Bao et al. 2020 (UniLMv2, arXiv 2002.12804), section 3: L = L_AE + L_PAR (equation 7). L_AE predicts each
hidden token from the text that is left; L_PAR predicts blocks one after another, each from the text that is
left and the blocks before it. Pseudo-masks are the tokenizer's mask token, as in the published s2s-ft code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.data.pseudo_masks import draw_blocks, pseudo_masked_row
from mainspring.data.token_row import TokenRow, collate, rows_of
from mainspring.objectives.base import Loss, Views, check_generators, labelled
from mainspring.objectives.config import PseudoMaskedConfig
from mainspring.objectives.cross_entropy import cross_entropies
from mainspring.objectives.replacement import Replacement
from mainspring.objectives.words import Vocabulary


class PseudoMaskedLM:
    """Cross entropies of hidden tokens at their masks (`ae`) and at their pseudo-masks (`par`).

    Raises:
        ConfigError: the tokenizer has no mask token.
    """

    VIEW = "pmlm"
    AE, PAR = "ae", "par"

    def __init__(self, config: PseudoMaskedConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self._replacement = Replacement(config, vocabulary, config.kind)

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Draw blocks in every row of a batch [B, T] and append their steps; row r draws from `rngs[r]`.

        What is appended begins in the same column of every row, so that attention can go by parts.
        """
        check_generators(batch, rngs)
        texts = rows_of(batch)
        rows = [self._row(row, rng) for row, rng in zip(texts, rngs, strict=True)]
        leads = [row.length for row in texts]
        return {self.VIEW: collate(rows, device=batch.ids.device, leads=leads)}

    def counts(self, views: Views) -> dict[str, int]:
        """Number of hidden tokens; each is predicted twice, once for each loss."""
        at_probe, at_mask = _parts(views[self.VIEW])
        return {self.AE: int(at_mask.sum()), self.PAR: int(at_probe.sum())}

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """Summed cross entropies of one forward, in nats."""
        view = views[self.VIEW]
        assert view.labels is not None
        at_probe, at_mask = _parts(view)
        where = at_probe | at_mask
        out = model(view, select=where, columns="own")
        terms = cross_entropies(out.logits, view.labels[where], out.vocabulary)
        losses = {}
        for name, weight, part in ((self.AE, 1.0, at_mask), (self.PAR, self.config.par_weight, at_probe)):
            chosen = part[where]
            losses[name] = Loss(terms[chosen].sum(), weight, int(chosen.sum()))
        return losses

    def _row(self, row: TokenRow, rng: np.random.Generator) -> TokenRow:
        config = self.config
        maskable = ~self.vocabulary.special[row.ids]
        blocks = draw_blocks(maskable, row.doc, config.rate, config.block_share, config.max_block, rng)
        where = np.zeros(row.length, bool)
        for block in blocks:
            where[block] = True
        hidden = self._replacement.draw(row.ids[where], rng)
        return pseudo_masked_row(row, blocks, hidden, self._replacement.mask)


def _parts(view: TokenBatch) -> tuple[Tensor, Tensor]:
    """Where labels stand: at pseudo-masks, and elsewhere; each bool [B, T]."""
    where = labelled(view)
    if view.probe is None:
        return where & False, where
    return where & view.probe, where & ~view.probe
