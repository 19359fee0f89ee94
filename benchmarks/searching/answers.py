"""Answers of the shipped heads: XQuAD in twelve languages and across them, BoolQ beside the majority."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mainspring.products.search import ModelEncoder, heads
from mainspring.recipes.search.examples import LANGUAGES, Asked, boolq, is_reported, xquad
from mainspring.recipes.search.measures import (
    judged_answers,
    judged_verdicts,
    one_a_paragraph,
    shown_answers,
    squad,
    verdicts,
)
from mainspring.recipes.search.tuning import wrong_texts

SYSTEM = "Mainspring: heads"


def loaded(encoder: ModelEncoder) -> heads.Heads:
    """The heads of the package."""
    folder = heads.shipped(encoder.name)
    assert folder is not None, "the package has heads for the default encoder"
    return heads.load(folder, encoder)


def answers(encoder: ModelEncoder, data: Path, *, english: int, others: int) -> list[dict[str, Any]]:
    """XQuAD's articles that nothing was learnt or tuned on.

    Args:
        encoder: the default one.
        data: folder with `understanding`.
        english: questions in English, at most.
        others: paragraphs in each other language, a question each.
    """
    mine = loaded(encoder)
    asked = {language: [a for a in xquad(data, language) if is_reported(a)] for language in LANGUAGES}
    rows = [_row("en", "en", squad(mine.reader, asked["en"][:english]))]
    judged = judged_answers(
        mine.reader, asked["en"][:english:2], wrong_texts(asked["en"][:english:2], random.Random(1))
    )
    shown = shown_answers(judged, mine.settings.answer)
    rows.append({"collection": "XQuAD en, a third of the texts do not answer", "system": SYSTEM, **shown})
    sample: dict[str, Sequence[Asked]] = {k: one_a_paragraph(v)[:others] for k, v in asked.items()}
    for language in LANGUAGES:
        if language == "en":
            continue
        rows.append(_row(language, language, squad(mine.reader, sample[language])))
        rows.append(_row(language, "en", squad(mine.reader, sample[language], sample["en"])))
    return rows


def yes_or_no(encoder: ModelEncoder, data: Path, questions: int) -> list[dict[str, Any]]:
    """BoolQ's validation part, drawn at random, with the 95 % interval of the accuracy by the bootstrap."""
    mine = loaded(encoder)
    examples = boolq(data, "val")
    random.Random(2).shuffle(examples)
    judged = judged_verdicts(mine.reader, examples[:questions])
    curve = mine.settings.verdict
    found = verdicts(judged, curve)
    right = np.asarray([(curve.slope * j.reading.verdict + curve.offset > 0) == j.right for j in judged])
    drawn = np.random.default_rng(0).integers(0, len(right), (5000, len(right)))
    low, high = np.quantile(right[drawn].mean(axis=1) * 100, [0.025, 0.975])
    return [
        {
            "collection": "BoolQ",
            "system": SYSTEM,
            **found,
            "accuracy low": float(low),
            "accuracy high": float(high),
        }
    ]


def _row(question: str, text: str, measured: dict[str, float]) -> dict[str, Any]:
    collection = f"XQuAD {question}" if question == text else f"XQuAD, question {question}, text {text}"
    return {"collection": collection, "system": SYSTEM, **measured}
