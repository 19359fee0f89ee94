"""Replaced token detection: a generator fills masks, and the network finds what is not the original.

Clark et al. 2020 (ELECTRA), section 2; with the embeddings of He et al. 2023 (DeBERTa-v3), section 3.2; on
text of many languages and on translation pairs it is MRTD and TRTD of Chi et al. 2022 (XLM-E, arXiv
2106.16138), section 3. L = L_MLM + weight * L_RTD, where L_RTD is over every token that is no padding.

The generator's loss goes backward before the discriminator runs: nothing of the generator is kept meanwhile.
Both then take one optimizer step together; the published code of DeBERTa steps the generator first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.data.pair_batch import packed_pairs_of
from mainspring.data.token_row import Ints, TokenRow, collate, rows_of
from mainspring.data.translation_pair import translation_rows
from mainspring.nn.transformer import Transformer
from mainspring.nn.vocabulary import Vocabulary as TokenRows
from mainspring.objectives.base import Loss, Views, check_generators, labelled
from mainspring.objectives.config import ReplacedConfig
from mainspring.objectives.cross_entropy import summed_cross_entropy
from mainspring.objectives.generator import (
    GeneratorAndDiscriminator,
    discriminator_state,
    generator_config,
    sample_tokens,
)
from mainspring.objectives.masked import mask_row
from mainspring.objectives.replacement import Replacement, required
from mainspring.objectives.words import Vocabulary, word_starts

_DRAWS = 1 << 31
"""Chance of a sampled token, drawn when the view is built, in so many steps."""


class ReplacedTokens:
    """Losses of the generator (`mlm`) and of the discriminator (`rtd`).

    The view `mlm` has the hidden tokens as labels. The view `rtd` has the original text; its labels hold, at
    the hidden tokens, the chance by which the generator's prediction is sampled, as an integer below 2^31, so
    that the sample belongs to the row, on whatever rank it is computed; and 2^31 at all other tokens.

    Raises:
        ConfigError: the tokenizer lacks a special token that the layout needs.
    """

    MLM, RTD = "mlm", "rtd"

    def __init__(self, config: ReplacedConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self._replacement = Replacement(config, vocabulary, config.kind)
        if config.text == "pairs":
            required(vocabulary.separator, "separator", config.kind)

    def assemble(self, network: Transformer) -> GeneratorAndDiscriminator:
        """The network with its generator: what is trained in its place."""
        generator = Transformer(generator_config(network.config, self.config.generator))
        return GeneratorAndDiscriminator(network, generator, self.config.embeddings)

    def network_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's weights out of those of what was trained."""
        return discriminator_state(state, self.config.embeddings)

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Hide tokens of every row of a batch [B, T]; row r draws from `rngs[r]` alone."""
        check_generators(batch, rngs)
        masked, originals = [], []
        for row, rng in zip(self._rows(batch), rngs, strict=True):
            hidden = self._choose(row, rng)
            masked.append(row.hide(hidden, self._replacement.draw(row.ids[hidden], rng)))
            draws: Ints = np.full(row.length, _DRAWS)
            draws[hidden] = rng.integers(_DRAWS, size=int(hidden.sum()))
            originals.append(row._replace(labels=draws))
        pad, device = self.vocabulary.pad, batch.ids.device
        return {
            self.MLM: collate(masked, pad=pad, device=device),
            self.RTD: collate(originals, pad=pad, device=device),
        }

    def counts(self, views: Views) -> dict[str, int]:
        """Number of hidden tokens, and of all tokens."""
        return {name: int(labelled(views[name]).sum()) for name in (self.MLM, self.RTD)}

    def passes(self, model: nn.Module, views: Views) -> Sequence[Callable[[], dict[str, Loss]]]:
        """The generator's forward, then the discriminator's; the second needs that the first has run."""
        counts, sampled = self.counts(views), list[Tensor]()

        def generate() -> dict[str, Loss]:
            view = views[self.MLM]
            where = labelled(view)
            assert view.labels is not None
            out = model(view, part="generator", select=where, columns="own")
            sampled.append(self._replace(views[self.RTD], out.logits.detach(), out.vocabulary))
            total = summed_cross_entropy(out.logits, view.labels[where], out.vocabulary)
            return {self.MLM: Loss(total, 1.0, counts[self.MLM])}

        def discriminate() -> dict[str, Loss]:
            text = views[self.RTD]
            where = labelled(text)
            view = text._replace(ids=sampled[0], labels=None)
            scores = model(view, part="discriminator", select=where).logits.squeeze(-1)
            replaced = (view.ids != text.ids)[where]
            total = F.binary_cross_entropy_with_logits(scores.float(), replaced.float(), reduction="sum")
            return {self.RTD: Loss(total, self.config.weight, counts[self.RTD])}

        return generate, discriminate

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """Both losses, in nats."""
        losses: dict[str, Loss] = {}
        for run in self.passes(model, views):
            losses |= run()
        return losses

    def _rows(self, batch: TokenBatch) -> list[TokenRow]:
        if self.config.text == "plain":
            return [row._replace(rank=np.zeros_like(row.rank)) for row in rows_of(batch)]
        first, end = self.vocabulary.first, self.vocabulary.separator
        assert end is not None
        reset = self.config.reset_positions
        rows = packed_pairs_of(batch)
        return [translation_rows(pairs, first, end, reset_positions=reset) for pairs in rows]

    def _choose(self, row: TokenRow, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        starts = np.ones(row.length, bool)
        if self.config.whole_words:
            starts = word_starts(row.ids, self.vocabulary, row.doc)
        maskable = ~self.vocabulary.special[row.ids]
        return mask_row(starts, maskable, self.config.rate, self.config.max_ngram, rng, doc=row.doc)

    def _replace(self, text: TokenBatch, logits: Tensor, vocabulary: TokenRows) -> Tensor:
        """The text with the generator's samples at the hidden places: ids [B, T]."""
        assert text.labels is not None
        where = labelled(text) & (text.labels < _DRAWS)
        draws = (text.labels[where].double() + 0.5) / _DRAWS
        ids = text.ids.clone()
        ids[where] = sample_tokens(logits, draws, vocabulary)
        return ids
