"""Questions made from statements: a name, a date or a number is taken out of a sentence and asked for.

Unsupervised question answering by cloze translation (Lewis, Denoyer and Riedel 2019, arXiv 1906.04980,
sections 2.2 and 2.3, the rule that shuffles and drops words), with rules in place of a tagger. The questions
are no good English; they teach a reader to line up a question with the sentence that answers it, and what
kind of thing is asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from mainspring.finetune.reader import UNKNOWN
from mainspring.recipes.search.examples import Example, sentences

DROPPED = 0.15
"""Share of a question's words that are left out."""
_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_KINDS = (
    (
        re.compile(rf"\b(?:{_MONTH})(?: \d{{1,2}},?)?(?: \d{{4}})?\b|\b(?:1[5-9]|20)\d\d\b"),
        ("when", "what year"),
    ),
    (
        re.compile(
            r"\b\d[\d,.]*\d?(?: (?:million|billion|percent|per cent|years|days|miles|km|feet|metres))?\b"
        ),
        ("how many", "how much", "what number"),
    ),
    (
        re.compile(r"\b(?:[A-Z][\w'’-]+|[A-Z]\.)(?: (?:(?:of|the|de|von|and) )?(?:[A-Z][\w'’-]+|[A-Z]\.))*"),
        ("who", "what", "which", "where"),
    ),
)
_NAMES_BEGIN = re.compile(r"\b(?:in|at|from|to|near|of) $")


class Blank(NamedTuple):
    """Something to ask for."""

    start: int
    stop: int
    words: tuple[str, ...]
    """How one asks for it."""


def blanks(text: str) -> list[Blank]:
    """Dates, numbers and names within a text, without such as begin a sentence."""
    found: list[Blank] = []
    for start, stop in sentences(text):
        for pattern, words in _KINDS:
            for match in pattern.finditer(text, start, stop):
                free = all(match.end() <= b.start or match.start() >= b.stop for b in found)
                if free and match.start() > start and len(match.group()) > 1:
                    found.append(Blank(match.start(), match.end(), words))
    return sorted(found)


def cloze(text: str, blank: Blank, rng: random.Random) -> str | None:
    """A question for what is blank; None where its sentence says too little.

    >>> text = "The Rhine rises in the Swiss Alps and flows to the North Sea."
    >>> cloze(text, blanks(text)[0], random.Random(0))
    'what and flows to the North Sea The Rhine rises in the?'
    """
    bounds = next(((a, b) for a, b in sentences(text) if a <= blank.start < b), None)
    if bounds is None:
        return None
    before, after = text[bounds[0] : blank.start], text[blank.stop : bounds[1]]
    words = list(blank.words)
    if "where" in words and not _NAMES_BEGIN.search(before):
        words.remove("where")
    kept = [[w for w in re.findall(r"[\w'’-]+", part) if rng.random() >= DROPPED] for part in (after, before)]
    if len(kept[0]) + len(kept[1]) < 4:
        return None
    order = kept[0] + kept[1] if rng.random() < 0.7 else kept[1] + kept[0]
    return " ".join([rng.choice(words), *order[:24]]) + "?"


def made(texts: Sequence[str], count: int, rng: random.Random) -> list[Example]:
    """Questions with answers from texts, one of a text, and of one in four beside another text."""
    found: list[Example] = []
    order = list(texts)
    rng.shuffle(order)
    for i, text in enumerate(order):
        if len(found) >= count:
            break
        choices = blanks(text)
        question = cloze(text, choice, rng) if choices and (choice := rng.choice(choices)) else None
        if question is None:
            continue
        found.append(Example(question, text, 1.0, UNKNOWN, (choice.start, choice.stop)))
        if rng.random() < 0.25:
            found.append(Example(question, order[i - 1], 0.0, UNKNOWN, (0, 0)))
    return found
