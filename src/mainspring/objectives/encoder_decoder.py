"""Writing a text from another with an encoder and a decoder: denoising and translation.

Raffel et al. 2020 (T5, arXiv 1910.10683), section 3.1.4 (spans behind sentinels); Lewis et al. 2020 (BART,
arXiv 1910.13461), section 2.2 (infilling), with word order after Lample et al. 2018; translation and
denoising together are the tasks of Z-code M3 (Kim et al. 2021, arXiv 2109.10465).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import nn

from mainspring.data.batch import TokenBatch
from mainspring.data.noise import corrupted, infilled, noise_spans, shuffled
from mainspring.data.pair_batch import pairs_of
from mainspring.data.token_row import Ints, TokenRow, collate, rows_of, token_row
from mainspring.errors import ConfigError
from mainspring.objectives.base import Loss, Views, check_generators, labelled
from mainspring.objectives.config import DenoisingConfig, TranslateConfig
from mainspring.objectives.cross_entropy import smoothed_cross_entropy
from mainspring.objectives.replacement import required
from mainspring.objectives.words import Vocabulary


class EncoderDecoder:
    """Cross entropy of a target, written from left to right, given a source that the encoder reads.

    The view `source` is what the encoder reads; the other has the decoder's input, which begins with the
    separator, and its labels, which end with it (M2M-100 and BART begin so).
    """

    NAME: ClassVar[str]
    SOURCE = "source"

    def __init__(self, kind: str, smoothing: float, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._smoothing = smoothing
        self._end = required(vocabulary.separator, "separator", kind)

    def counts(self, views: Views) -> dict[str, int]:
        """Number of tokens of the targets, their ends included."""
        return {self.NAME: int(labelled(views[self.NAME]).sum())}

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """Summed (smoothed) cross entropy, in nats."""
        view = views[self.NAME]
        assert view.labels is not None
        where = labelled(view)
        out = model(view, source=views[self.SOURCE], select=where, columns="own")
        pad, labels = self.vocabulary.pad, view.labels[where]
        total = smoothed_cross_entropy(out.logits, labels, self._smoothing, pad, out.vocabulary)
        return {self.NAME: Loss(total, 1.0, int(where.sum()))}

    def _views(self, sources: list[TokenRow], targets: list[TokenRow], like: TokenBatch) -> Views:
        pad, device = self.vocabulary.pad, like.ids.device
        return {
            self.NAME: collate(targets, pad=pad, device=device),
            self.SOURCE: collate(sources, pad=pad, device=device),
        }

    def _source(self, ids: Ints, lang: int, tag: int | None = None) -> TokenRow:
        """`[tag] source [SEP]`."""
        before = [] if tag is None else [tag]
        return token_row(np.concatenate([before, ids, [self._end]]).astype(np.int64), lang=lang)

    def _target(self, ids: Ints, lang: int) -> TokenRow:
        """`[SEP] target`, labelled `target [SEP]`."""
        row = token_row(
            np.concatenate([[self._end], ids]).astype(np.int64), lang=lang, rank=np.arange(len(ids) + 1)
        )
        return row._replace(labels=np.concatenate([ids, [self._end]]).astype(np.int64))


class Denoising(EncoderDecoder):
    """Undo noise: name the spans that are missing, or write the whole text.

    Raises:
        ConfigError: nothing ends a text, the tokenizer has no mask (noise `infill`), or there are no
            sentinels or one is no token (noise `spans`).
    """

    NAME = "dae"

    def __init__(self, config: DenoisingConfig, vocabulary: Vocabulary) -> None:
        super().__init__(config.kind, config.label_smoothing, vocabulary)
        self.config = config
        if config.noise == "infill":
            required(vocabulary.mask, "mask", config.kind)
        if config.noise == "spans":
            if not config.sentinels:
                raise ConfigError(
                    "objective.noise = 'spans' needs objective.sentinels: ids of tokens that stand for the "
                    "spans and occur in no text"
                )
            outside = [token for token in config.sentinels if not 0 <= token < len(vocabulary.special)]
            if outside:
                raise ConfigError(
                    f"objective.sentinels: {outside[0]} is no token (0 to {len(vocabulary.special) - 1})"
                )

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Noise every row of a batch [B, T] of text, its special tokens left out; row r draws from
        `rngs[r]`."""
        check_generators(batch, rngs)
        sources, targets = [], []
        for row, rng in zip(rows_of(batch), rngs, strict=True):
            ids = row.ids[~self.vocabulary.special[row.ids]]
            lang = int(row.lang[0]) if row.length else 0
            source, target = self._noised(ids, rng) if len(ids) > 1 else (ids, ids)
            sources.append(self._source(source, lang))
            targets.append(self._target(target, lang))
        return self._views(sources, targets, batch)

    def _noised(self, ids: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        config = self.config
        if config.noise == "order":
            return shuffled(ids, config.distance, rng), ids
        noise = noise_spans(len(ids), config.rate, config.mean_span, rng)
        if config.noise == "spans":
            return corrupted(ids, noise, config.sentinels)
        assert self.vocabulary.mask is not None
        return infilled(ids, noise, self.vocabulary.mask), ids


class Translate(EncoderDecoder):
    """Write the target of each pair from its source.

    Raises:
        ConfigError: nothing ends a text, or a language tag is no token.
    """

    NAME = "mt"

    def __init__(self, config: TranslateConfig, vocabulary: Vocabulary) -> None:
        super().__init__(config.kind, config.label_smoothing, vocabulary)
        self.config = config
        for tag in config.language_tags:
            if not 0 <= tag < len(vocabulary.special):
                raise ConfigError(
                    f"objective.language_tags: {tag} is no token (0 to {len(vocabulary.special) - 1})"
                )

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Sources and targets of a batch of pairs; no chance is involved."""
        sources, targets = [], []
        for source, target in pairs_of(batch):
            here, there = int(source.lang[0]), int(target.lang[0])
            sources.append(self._source(source.ids[: self.config.max_source], here, self.tag(there)))
            targets.append(self._target(target.ids[: self.config.max_target], there))
        return self._views(sources, targets, batch)

    def tag(self, lang: int) -> int | None:
        """The token that asks for language `lang`, where there are such tokens.

        Raises:
            ConfigError: there is none for it.
        """
        tags = self.config.language_tags
        if not tags:
            return None
        if lang >= len(tags):
            raise ConfigError(f"objective.language_tags: {len(tags)} tags, and a target has language {lang}")
        return tags[lang]
