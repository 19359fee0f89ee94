"""Unicoder's three tasks on pairs: recover words from a translation, tell translations, read two languages.

Huang et al. 2019 (arXiv 1909.00964), section 3.2. Embeddings x and y of the attention are what enters the
first layer. A pair that is none takes its target from another pair of its row, a neighbour in the text; the
paper looks for similar ones in the whole corpus with an averaging network. The cross-lingual document is a
row's pairs with every other sentence in the other language, so rows should hold several pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import IGNORE, TokenBatch
from mainspring.data.pair_batch import Sides, packed_pairs_of
from mainspring.data.token_row import TokenRow, collate
from mainspring.data.translation_pair import sentence_row, translation_row
from mainspring.nn.transformer import Transformer
from mainspring.objectives.around import network_tensors
from mainspring.objectives.base import Loss, Views, check_generators, labelled, labelled_loss
from mainspring.objectives.config import UnicoderConfig
from mainspring.objectives.cross_entropy import summed_cross_entropy
from mainspring.objectives.cross_lingual_network import CrossLingualNetwork
from mainspring.objectives.replacement import Replacement, required
from mainspring.objectives.translation import uniform_choice
from mainspring.objectives.words import Vocabulary


class Unicoder:
    """Losses `recovery` (over words), `paraphrase` (over pairs) and `xmlm` (over hidden tokens).

    The labels of the view `paraphrase` stand at each row's first token: 1 for a pair, 0 for none.

    Raises:
        ConfigError: the tokenizer has no mask, or nothing that ends a text.
    """

    RECOVERY, PARAPHRASE, MASKED = "recovery", "paraphrase", "xmlm"
    OTHER = "translation"

    def __init__(self, config: UnicoderConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self._separator = required(vocabulary.separator, "separator", config.kind)
        self._replacement = Replacement(config, vocabulary, config.kind)

    def assemble(self, network: Transformer) -> CrossLingualNetwork:
        """The network with the attention over translations and the classifier."""
        return CrossLingualNetwork(network)

    def network_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's weights alone."""
        return network_tensors(state)

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """The views of all tasks; those of pairs have a row for each pair. Row r draws from `rngs[r]`."""
        check_generators(batch, rngs)
        rows: dict[str, list[TokenRow]] = {
            name: [] for name in (self.RECOVERY, self.PARAPHRASE, self.MASKED, self.OTHER)
        }
        for pairs, rng in zip(packed_pairs_of(batch), rngs, strict=True):
            for index, sides in enumerate(pairs):
                word, other = self._recovery(sides, rng)
                rows[self.RECOVERY].append(word)
                rows[self.OTHER].append(other)
                rows[self.PARAPHRASE].append(self._paraphrase(pairs, index, rng))
            rows[self.MASKED].append(self._document(pairs, rng))
        pad, device = self.vocabulary.pad, batch.ids.device
        return {name: collate(some, pad=pad, device=device) for name, some in rows.items()}

    def counts(self, views: Views) -> dict[str, int]:
        """Number of words, pairs and hidden tokens."""
        names = (self.RECOVERY, self.PARAPHRASE, self.MASKED)
        return {name: int(labelled(views[name]).sum()) for name in names}

    def passes(self, model: nn.Module, views: Views) -> Sequence[Callable[[], dict[str, Loss]]]:
        """One task after another."""
        counts = self.counts(views)

        def recover() -> dict[str, Loss]:
            view = views[self.RECOVERY]
            where = labelled(view)
            assert view.labels is not None
            out = model(view, part="recover", other=views[self.OTHER], select=where, columns="own")
            total = summed_cross_entropy(out.logits, view.labels[where], out.vocabulary)
            return {self.RECOVERY: Loss(total, self.config.recovery_weight, counts[self.RECOVERY])}

        def paraphrase() -> dict[str, Loss]:
            view = views[self.PARAPHRASE]
            assert view.labels is not None
            scores = model(view, part="classify").float()
            total = F.cross_entropy(scores, view.labels[:, 0], reduction="sum")
            return {self.PARAPHRASE: Loss(total, self.config.paraphrase_weight, counts[self.PARAPHRASE])}

        def masked() -> dict[str, Loss]:
            total = labelled_loss(model, views[self.MASKED])
            return {self.MASKED: Loss(total, self.config.masked_weight, counts[self.MASKED])}

        return recover, paraphrase, masked

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """All losses, in nats."""
        losses: dict[str, Loss] = {}
        for run in self.passes(model, views):
            losses |= run()
        return losses

    def _recovery(self, sides: Sides, rng: np.random.Generator) -> tuple[TokenRow, TokenRow]:
        """A side whose words are to be recovered, and the other, in an order that chance decides."""
        one, two = (sentence_row([side], self.vocabulary.first, self._separator) for side in sides)
        if rng.random() < 0.5:
            one, two = two, one
        words = ~self.vocabulary.special[one.ids]
        return one._replace(labels=np.where(words, one.ids, IGNORE)), two

    def _paraphrase(self, pairs: list[Sides], index: int, rng: np.random.Generator) -> TokenRow:
        """A pair, or, half of the time where there is another, its source with the other's target."""
        source, target = pairs[index]
        alike = len(pairs) == 1 or rng.random() < 0.5
        if not alike:
            step = int(rng.integers(1, len(pairs)))
            target = pairs[(index + step) % len(pairs)][1]
        row = translation_row(
            (source, target),
            self.vocabulary.first,
            self._separator,
            reset_positions=self.config.reset_positions,
        )
        labels = np.full(row.length, IGNORE)
        labels[0] = alike
        return row._replace(labels=labels)

    def _document(self, pairs: list[Sides], rng: np.random.Generator) -> TokenRow:
        """The sentences of a row, in turn of one language and the other, some of their tokens hidden."""
        first = int(rng.integers(2))
        parts = [sides[(first + number) % 2] for number, sides in enumerate(pairs)]
        row = sentence_row(parts, self.vocabulary.first, self._separator)
        hidden = uniform_choice(row, self.vocabulary, self.config.rate, rng)
        return row.hide(hidden, self._replacement.draw(row.ids[hidden], rng))
