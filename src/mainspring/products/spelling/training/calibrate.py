"""How cautious a language's speller has to be: measured on clean text that its lexicon was not made from.

The learning half's sentences are dealt into folds; a lexicon is made without each in turn, and every word of
the fold that would be changed is a false correction. A language is given the least caution (log odds added to
"it is a word that the lexicon lacks") under which no more than `TARGET` of the words are. Where a lexicon is
small, nothing but the clearest slips are corrected then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mainspring.products.spelling.cases import Case, cases
from mainspring.products.spelling.engine import engine_of
from mainspring.products.spelling.judge import margins
from mainspring.products.spelling.languages import Language
from mainspring.products.spelling.parameters import Parameters
from mainspring.products.spelling.speller import NOUNS_CAPITALISED
from mainspring.products.spelling.tokens import tokenize
from mainspring.products.spelling.training.lexicons import Lists, build
from mainspring.products.spelling.training.texts import of_half

TARGET = 0.004
"""Share of the words of clean text that may be changed."""
FOLDS = 4
_FEWER = 2
"""Folds where lists have most of the lexicon's words, so that the text adds little."""
_SENTENCES = 400
_AT_ONCE = 256
_MOST = 20.0


class Calibration(NamedTuple):
    """What was found for a language."""

    caution: float
    words: int
    """Of clean text."""
    before: int
    """Of them changed without caution,"""
    after: int
    """and with it."""


def calibrate(language: Language, data: Path, lists: Lists, parameters: Parameters) -> Calibration:
    """The caution of a language."""
    text = of_half(language, data, 0)
    folds = _FEWER if lists.lemma_of or lists.frequencies else FOLDS
    step = max(1, math.ceil(len(text) / _SENTENCES))
    words, found = 0, []
    for fold in range(folds):
        lexicon = build(language, [s for i, s in enumerate(text) if i % folds != fold], lists)
        if not len(lexicon):
            continue
        engine = engine_of(lexicon, parameters, language.tag)
        pending: list[Case] = []
        for sentence in text[fold::folds][::step]:
            words += len(sentence.split())
            tokens = tokenize(sentence, nouns_capitalised=language.tag in NOUNS_CAPITALISED)
            pending += cases(tokens, sentence, engine)
        for at in range(0, len(pending), _AT_ONCE):
            found += margins(engine, parameters.weights, pending[at : at + _AT_ONCE])
    return least(found, words)


def least(margins: Sequence[float], words: int, target: float = TARGET) -> Calibration:
    """The least caution under which no more than a share of the words are changed.

    Args:
        margins: of each word that is looked into, the caution from which it is left alone.
        words: of the text.
        target: the share.
    """
    wrong = np.sort([m for m in margins if m >= 0])[::-1]
    allowed = math.floor(target * words)
    caution = min(_MOST, float(wrong[allowed]) + 1e-3) if len(wrong) > allowed else 0.0
    return Calibration(round(caution, 3), words, len(wrong), int((wrong >= caution).sum()))
