"""Layout: how a prompt stands in the row that a model reads, and what it reads to predict the next token.

Text that is continued is the plain case. A source and the text to be written from it are laid out as the
objectives lay them out for training (data.seq2seq, objectives.prefix, objectives.encoder_decoder): in one row
with ranks, or the source before an encoder. Where a mask predicts (Dong et al. 2019, arXiv 1905.03197,
section 2.5), the row is read with a mask after it, and the mask gives way to the token that it predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mainspring.data.token_row import TokenRow, token_row
from mainspring.objectives.config import (
    CausalConfig,
    DenoisingConfig,
    ObjectiveConfig,
    PrefixConfig,
    Seq2SeqConfig,
    TranslateConfig,
)
from mainspring.objectives.encoder_decoder import Denoising, Translate
from mainspring.objectives.replacement import required
from mainspring.objectives.words import Vocabulary
from mainspring.text.tokenizer import Tokenizer

GENERATING = ("clm", "prefix", "s2s", "dae", "mt")
"""Kinds of objective that learn to write text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A row is `before prompt after opening generated`, then the mask that asks; with an encoder, what
    stands up to `after` is the encoder's row. The default is text that is continued."""

    end: int | None = None
    """Token that ends what is generated."""
    before: tuple[int, ...] = ()
    """Tokens before a source."""
    after: tuple[int, ...] = ()
    """Tokens after it."""
    opening: tuple[int, ...] = ()
    """Tokens that open a target."""
    mask: int | None = None
    """What asks for the next token; None: the last token does."""
    encoder: bool = False
    """Whether the source goes to an encoder."""
    whole: bool = False
    """Whether the tokens of a source all see one another; else each sees those before it."""
    types: tuple[int, int] = (0, 0)
    """Segments of source and target."""
    langs: tuple[int, int] = (0, 0)
    """Language indices of source and target."""
    continues: bool = True
    """Whether what is generated goes on with the prompt's text, or is a text of its own."""

    def framed(self, prompt: Sequence[int]) -> int:
        """Tokens of a prompt with what stands around it."""
        return len(self.before) + len(prompt) + len(self.after)

    def given(self, prompt: Sequence[int]) -> int:
        """Tokens of the decoder's row that belong to the source."""
        return 0 if self.encoder else self.framed(prompt)

    def source(self, prompt: Sequence[int]) -> TokenRow:
        """What the encoder reads."""
        ids = [*self.before, *prompt, *self.after]
        return token_row(ids, type=self.types[0], lang=self.langs[0])

    def row(self, prompt: Sequence[int], generated: Sequence[int] = (), *, asks: bool = False) -> TokenRow:
        """What the decoder reads; `asks`: with the mask at its end, where there is one."""
        given = self.given(prompt)
        mask = [self.mask] if asks and self.mask is not None else []
        source = [] if self.encoder else [*self.before, *prompt, *self.after]
        ids = np.array([*source, *self.opening, *generated, *mask], dtype=np.int64)
        index = np.arange(len(ids))
        row = token_row(ids, rank=np.maximum(index - given + 1, 0) if self.whole else index)
        target = index >= given
        return row._replace(
            type=np.where(target, *self.types[::-1]), lang=np.where(target, *self.langs[::-1])
        )


def continuing(tokenizer: Tokenizer) -> Layout:
    """Text that is continued to the end-of-text token."""
    return Layout(end=tokenizer.eos)


def layout_of(
    config: ObjectiveConfig, tokenizer: Tokenizer, langs: tuple[int, int] = (0, 0)
) -> Layout | None:
    """The layout that a model trained with `config` knows; None: it has not learnt to write text.

    Args:
        config: the objective.
        tokenizer: the run's.
        langs: language indices of source and target.

    Raises:
        ConfigError: the tokenizer lacks a token that the objective needs.
    """
    if isinstance(config, CausalConfig):
        return continuing(tokenizer)
    if not isinstance(config, PrefixConfig | Seq2SeqConfig | DenoisingConfig | TranslateConfig):
        return None
    vocabulary = Vocabulary.of_tokenizer(tokenizer)
    end = required(vocabulary.separator, "separator", config.kind)
    match config:
        case PrefixConfig():
            return Layout(end=end, whole=config.bidirectional, types=(0, 1), continues=False)
        case Seq2SeqConfig():
            shift = config.mode == "shift"
            return Layout(
                end=end,
                before=() if vocabulary.first is None else (vocabulary.first,),
                after=(end,),
                opening=(end,) if shift else (),
                mask=None if shift else required(vocabulary.mask, "mask", config.kind),
                whole=True,
                types=(config.source_type, config.target_type),
                langs=langs,
                continues=False,
            )
        case DenoisingConfig():
            Denoising(config, vocabulary)  # checks the tokens
            langs, tag = (langs[1], langs[1]), None
        case TranslateConfig():
            tag = Translate(config, vocabulary).tag(langs[1])
    before = () if tag is None else (tag,)
    return Layout(
        end=end, before=before, after=(end,), opening=(end,), encoder=True, langs=langs, continues=False
    )
