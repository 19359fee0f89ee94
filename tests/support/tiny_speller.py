"""A speller of a few words, made in a moment."""

import math
from pathlib import Path

import numpy as np

from mainspring.products.spelling import parameters as learnt
from mainspring.products.spelling.bigrams import Bigrams
from mainspring.products.spelling.lexicon import Lexicon, Lexicons, pack
from mainspring.products.spelling.rank import FEATURES, UNKNOWN, Weights
from mainspring.products.spelling.speller import LEXICONS, PARAMETERS, Speller
from mainspring.products.spelling.training.fit_channel import generic

WORDS = {
    "the": 6000, "a": 2500, "lot": 40, "of": 3000, "receive": 20, "relieve": 3, "package": 15, "passage":
    18, "sister": 30, "is": 1500, "here": 150, "i": 900, "with": 800, "good": 300, "time": 500, "word": 60,
    "words": 50, "world": 90, "hello": 30, "program": 40, "together": 45, "to": 2500, "get": 300, "her":
    400, "cat": 25, "cats": 12, "sat": 15, "on": 900, "mat": 3, "and": 2600, "watch": 30, "what": 600,
    "drives": 9, "spring": 20, "search": 40,
}  # fmt: skip
_UNKNOWN = 0.02


def write(folder: Path) -> Path:
    """The files of a speller of English and a little German."""
    facts = {"sources": ["a test"], "unknown": _UNKNOWN, "pairs": 0}
    german = {"und": 500, "der": 900, "haus": 40, "häuser": 12, "straße": 20, "schön": 15}
    pack({"en": Lexicon.of(WORDS, facts), "de": Lexicon.of(german, facts)}, folder / LEXICONS)
    candidate = np.zeros(len(FEATURES))
    candidate[:2] = 1.0, 0.6
    candidate[FEATURES.index("split")] = -3.0
    candidate[FEATURES.index("context")] = 0.5
    unknown = np.zeros(len(UNKNOWN))
    unknown[:3] = -5.0 - math.log(_UNKNOWN), 0.5, 1.0
    bigrams = {"en": Bigrams.of({("a", "lot"): 4.0, ("the", "package"): 2.0})}
    learnt.save(
        learnt.Parameters({learnt.SHARED: generic()}, Weights(candidate, unknown), bigrams),
        folder / PARAMETERS,
        {},
    )
    return folder


def speller(folder: Path) -> Speller:
    """A speller of those files."""
    return Speller.load(write(folder))


def lexicons(folder: Path) -> Lexicons:
    """Its lexicons."""
    return Lexicons(write(folder) / LEXICONS)
