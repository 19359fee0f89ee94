"""How good a search reader is: SQuAD's measures in every language, BoolQ, what is shown and is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mainspring.evaluate.squad import exact_match, f1
from mainspring.finetune.text_reader import ReadText, TextReader
from mainspring.recipes.search.curves import AnswerCurve, Judged, VerdictCurve
from mainspring.recipes.search.examples import Asked, Example

RIGHT = 0.5
"""F1 from which an answer counts as right."""


def judged_answers(reader: TextReader, asked: Sequence[Asked], wrong: Mapping[str, str]) -> list[Judged]:
    """Readings of questions beside their paragraph, and beside one that does not answer, where one is given.

    Args:
        reader: what reads.
        asked: questions.
        wrong: for a question's id, a text that does not answer it.
    """
    pairs = [(a.question, a.context) for a in asked]
    pairs += [(a.question, wrong[a.id]) for a in asked if a.id in wrong]
    readings = reader.read(pairs)
    found = [
        Judged(r, bool(r.spans) and f1(_text(a.context, r), a.answers) >= RIGHT)
        for a, r in zip(asked, readings, strict=False)
    ]
    return [j for j in found + [Judged(r, False) for r in readings[len(asked) :]] if j.reading.spans]


def judged_verdicts(reader: TextReader, examples: Sequence[Example]) -> list[Judged]:
    """Readings of BoolQ's questions beside their passages, and whether yes is right."""
    readings = reader.read([(e.question, e.text) for e in examples])
    return [Judged(r, e.verdict > 0.5) for e, r in zip(examples, readings, strict=True)]


def squad(
    reader: TextReader, asked: Sequence[Asked], contexts: Sequence[Asked] | None = None
) -> dict[str, float]:
    """Exact match and F1 in percent, of the best span, all questions being answered.

    Args:
        reader: what reads.
        asked: questions.
        contexts: the same questions in another language, in whose paragraphs the answers are looked for.
    """
    places = asked if contexts is None else contexts
    readings = reader.read([(a.question, c.context) for a, c in zip(asked, places, strict=True)])
    answers = [_text(c.context, r) for c, r in zip(places, readings, strict=True)]
    golds = [c.answers for c in places]
    return {
        "questions": len(asked),
        "exact match": 100 * float(np.mean([exact_match(a, g) for a, g in zip(answers, golds, strict=True)])),
        "F1": 100 * float(np.mean([f1(a, g) for a, g in zip(answers, golds, strict=True)])),
    }


def shown_answers(judged: Sequence[Judged], curve: AnswerCurve) -> dict[str, float]:
    """Of questions beside texts of which not all answer: answers shown, and right of those, in percent."""
    shown = [
        j.right
        for j in judged
        if curve.sure(j.reading.spans[0].score, j.reading.relevance) >= curve.threshold
    ]
    return {
        "texts": len(judged),
        "shown": 100 * len(shown) / len(judged),
        "right of those shown": 100 * float(np.mean(shown)) if shown else float("nan"),
    }


def verdicts(judged: Sequence[Judged], curve: VerdictCurve) -> dict[str, Any]:
    """Accuracy in percent, of all, of always the more frequent verdict, and of what is conclusive."""
    yes = np.asarray([j.right for j in judged])
    p = np.asarray([curve.yes(j.reading.verdict) for j in judged])
    right, conclusive = (p > 0.5) == yes, np.abs(p - 0.5) >= curve.margin
    return {
        "questions": len(judged),
        "accuracy": 100 * float(right.mean()),
        "majority": 100 * float(max(yes.mean(), 1 - yes.mean())),
        "conclusive": 100 * float(conclusive.mean()),
        "right of the conclusive": 100 * float(right[conclusive].mean()) if conclusive.any() else None,
    }


def one_a_paragraph(asked: Sequence[Asked]) -> list[Asked]:
    """The first question of each paragraph."""
    found: dict[int, Asked] = {}
    for a in asked:
        found.setdefault(a.paragraph, a)
    return list(found.values())


def _text(context: str, reading: ReadText) -> str:
    return context[reading.spans[0].start : reading.spans[0].stop] if reading.spans else ""
