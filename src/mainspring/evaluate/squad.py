"""SQuAD's measures: exact match and F1 of answers (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1).

XQuAD is measured the same way in every language, as its authors do.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """An answer without case, ASCII punctuation and English articles, with one space between words.

    >>> normalised("The  Mainspring, of a watch.")
    'mainspring of watch'
    """
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 where an answer is one of those that are right, once normalised, else 0."""
    return _best(lambda gold: float(normalised(answer) == normalised(gold)), golds)


def f1(answer: str, golds: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of an answer's words, of the right answer that fits best."""
    return _best(lambda gold: _f1(normalised(answer).split(), normalised(gold).split()), golds)


def _best(score: Callable[[str], float], golds: Sequence[str]) -> float:
    return max((score(gold) for gold in golds), default=0.0)


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    common = (Counter(answer) & Counter(gold)).total()
    return 2 * common / (len(answer) + len(gold)) if common else 0.0
