"""After training: curves on questions that were not learnt from, and what is reported on others."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mainspring.finetune.text_reader import TextReader
from mainspring.recipes.search.curves import AnswerCurve, VerdictCurve, fit_answers, fit_verdict
from mainspring.recipes.search.examples import (
    LANGUAGES,
    Asked,
    Example,
    boolq,
    is_reported,
    is_tuned_on,
    xquad,
)
from mainspring.recipes.search.measures import (
    judged_answers,
    judged_verdicts,
    one_a_paragraph,
    shown_answers,
    squad,
    verdicts,
)
from mainspring.recipes.search.recipe import HeadsRecipe

ANSWER_PRECISION, VERDICT_PRECISION = 0.7, 0.75
"""Shares of the answers and verdicts shown that should be right, of what thresholds are chosen on."""
TUNED_VERDICTS = 400
"""Questions of BoolQ's training part, beyond those learnt from, on which the verdict's curve is fitted."""

DATA: tuple[dict[str, str], ...] = (
    {
        "name": "BoolQ (train)",
        "licence": "CC BY-SA 3.0",
        "source": "Clark et al. 2019, arXiv 1905.10044; passages of Wikipedia",
        "use": "yes and no, relevance; cloze questions from its passages",
    },
    {
        "name": "XQuAD, articles 2, 4, 6, ... of 48 without every twelfth",
        "licence": "CC BY-SA 4.0",
        "source": "Artetxe et al. 2020, arXiv 1910.11856; SQuAD 1.1 dev, Rajpurkar et al. 2016",
        "use": "spans, no answer, relevance, highlights, in three languages (en de es)",
    },
    {
        "name": "docstrings of Python's standard library",
        "licence": "PSF-2.0",
        "source": "the Python that trained it",
        "use": "relevance of a first sentence and the rest",
    },
)
"""What the shipped heads learnt from."""


def wrong_texts(asked: Sequence[Asked], rng: random.Random) -> dict[str, str]:
    """For every second question another paragraph of its article, which does not answer it."""
    of_article: dict[int, list[Asked]] = {}
    for a in asked:
        of_article.setdefault(a.article, []).append(a)
    found = {}
    for a in asked[::2]:
        others = [o.context for o in of_article[a.article] if o.paragraph != a.paragraph]
        if others:
            found[a.id] = rng.choice(others)
    return found


def answer_curve(reader: TextReader, recipe: HeadsRecipe, data: Path) -> AnswerCurve:
    """When an answer is shown, by questions that are neither learnt from nor reported."""
    asked = [a for language in ("en", "es") for a in xquad(data, language) if is_tuned_on(a)]
    wrong = wrong_texts(asked, random.Random(recipe.seed))
    return fit_answers(judged_answers(reader, asked, wrong), ANSWER_PRECISION)


def verdict_curve(reader: TextReader, recipe: HeadsRecipe, data: Path) -> VerdictCurve:
    """When a verdict is shown, by questions that are neither learnt from nor reported."""
    return fit_verdict(judged_verdicts(reader, not_learnt(recipe, data)), VERDICT_PRECISION)


def not_learnt(recipe: HeadsRecipe, data: Path) -> list[Example]:
    """Questions of BoolQ's training part that a recipe does not learn from."""
    questions = boolq(data, "train")
    random.Random(recipe.seed).shuffle(questions)
    first = min(recipe.examples.boolq, len(questions) - TUNED_VERDICTS)
    return questions[first : first + TUNED_VERDICTS]


def ranked(recipe: HeadsRecipe, data: Path) -> list[tuple[str, str]]:
    """Queries beside the text that serves each, for the ranker's curve: of BoolQ, what is not learnt from; of
    XQuAD in English, what is not reported."""
    pairs = [(e.question, e.text) for e in not_learnt(recipe, data)]
    return pairs + [(a.question, a.context) for a in xquad(data, "en") if not is_reported(a)]


def measurements(
    reader: TextReader, answer: AnswerCurve, verdict: VerdictCurve, data: Path
) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is reported, each by its name: XQuAD's other articles, BoolQ's validation part.

    Languages and BoolQ in samples; `benchmarks/search.py` has them in full.
    """
    english = [a for a in xquad(data, "en") if is_reported(a)]
    wrong = wrong_texts(english, random.Random(1))

    def spans(language: str, count: int) -> dict[str, float]:
        asked = [a for a in xquad(data, language) if is_reported(a)]
        return squad(reader, asked if count == 0 else one_a_paragraph(asked)[:count])

    return {
        "XQuAD en": lambda: spans("en", 0),
        "XQuAD en, shown": lambda: shown_answers(judged_answers(reader, english[:200], wrong), answer),
        **{f"XQuAD {language}": partial(spans, language, 40) for language in LANGUAGES if language != "en"},
        "BoolQ": lambda: verdicts(judged_verdicts(reader, boolq(data, "val")[:600]), verdict),
    }
