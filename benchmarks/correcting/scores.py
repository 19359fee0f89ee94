"""How well suggestions and corrections do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.correcting.peers import Suggests
from benchmarks.correcting.sets import Errors, InContext, Noisy
from mainspring.products.spelling import Correction
from mainspring.products.spelling.letters import normal_word
from mainspring.products.spelling.tokens import tokenize


def row_of(
    system: str, tag: str, what: str, errors: Errors, found: Sequence[Sequence[str]], seconds: float
) -> dict[str, Any]:
    """Shares of misspellings whose word is the first, or among the first five, of those answered."""
    count = len(found)
    tops = [[normal_word(s) for s in suggestions] for suggestions in found]
    first = sum(bool(top and top[0] in right) for top, right in zip(tops, errors.right, strict=False))
    five = sum(bool(set(top[:5]) & right) for top, right in zip(tops, errors.right, strict=False))
    return {
        "language": tag,
        "set": what,
        "system": system,
        "top-1": first / max(1, count),
        "top-5": five / max(1, count),
        "words": count,
        "of": len(errors.wrong),
        "words/s": count / max(seconds, 1e-9),
    }


def word_accuracy(made: Noisy, correct: Callable[[str], str]) -> dict[str, float]:
    """Share of the words of spoilt sentences that are as they were meant, before and after correction."""
    total = before = after = 0
    for clean, spoilt in zip(made.clean, made.noisy, strict=True):
        wanted, given, corrected = clean.split(), spoilt.split(), correct(spoilt).split()
        total += len(wanted)
        before += _same(wanted, given)
        after += _same(wanted, corrected)
    return {"words right": after / max(1, total), "words right, copied": before / max(1, total)}


def _same(wanted: Sequence[str], given: Sequence[str]) -> int:
    if len(wanted) == len(given):
        return sum(a == b for a, b in zip(wanted, given, strict=True))
    return sum(a == b for a, b in zip(wanted, given, strict=False)) if given else 0


def in_context(
    system: str, what: str, passages: Sequence[InContext], correct: Callable[[str], dict[int, str]]
) -> dict[str, Any]:
    """Share of tagged errors of one word that are put right, and of other words that are changed.

    `correct` gives, by place in a text, what is put for the word there.
    """
    errors = right = words = wrong = 0
    for passage in passages:
        changed = correct(passage.text)
        for at, (_, meant) in passage.errors.items():
            errors += 1
            right += normal_word(changed.get(at, "")) == normal_word(meant)
        words += len(passage.text.split()) - len(passage.errors)
        wrong += sum(at not in passage.errors for at in changed)
    return {
        "language": "en",
        "set": what,
        "system": system,
        "top-1": right / max(1, errors),
        "false": wrong / max(1, words),
        "words": errors,
        "of": errors,
    }


def changes(suggests: Suggests, texts: Sequence[str]) -> Callable[[str], dict[int, str]]:
    """A peer's first suggestion for each word of some texts that it takes to be wrong, by place. Asked all
    at once, since some peers take long to start."""
    tokens = [(text, t) for text in texts for t in tokenize(text) if t.kind in ("word", "name")]
    found = suggests([t.text for _, t in tokens])
    changed: dict[str, dict[int, str]] = {text: {} for text in texts}
    for (text, token), suggestions in zip(tokens, found, strict=False):
        if suggestions and normal_word(suggestions[0]) != normal_word(token.text):
            changed[text][token.start] = suggestions[0]
    return changed.__getitem__


def by_words(suggests: Suggests) -> Callable[[str], str]:
    """A correction of sentences by each word's first suggestion."""

    def correct(text: str) -> str:
        tokens = [t for t in tokenize(text) if t.kind == "word"]
        found = suggests([normal_word(t.text) for t in tokens])
        parts: list[str] = []
        at = 0
        for token, suggestions in zip(tokens, found, strict=False):
            if suggestions and suggestions[0] != normal_word(token.text):
                parts += [text[at : token.start], suggestions[0]]
                at = token.stop
        return "".join([*parts, text[at:]])

    return correct


def clean_row(
    system: str, tag: str, sentences: Sequence[str], correct: Callable[[str], Correction]
) -> dict[str, Any]:
    """Words of right sentences that are changed, and sentences with any."""
    words = changed = touched = 0
    started = time.perf_counter()
    for sentence in sentences:
        found = correct(sentence)
        words += len(sentence.split())
        changed += sum(w.correction is not None for w in found.words)
        touched += found.changed
    return {
        "language": tag,
        "set": "clean",
        "system": system,
        "false": changed / max(1, words),
        "sentences": touched / max(1, len(sentences)),
        "words": words,
        "words/s": words / (time.perf_counter() - started),
    }


def false_corrections(system: str, tag: str, sentences: Sequence[str], suggests: Suggests) -> dict[str, Any]:
    """The same of a peer that would put its first suggestion for each word that it takes to be wrong."""
    asked = [t.text for s in sentences for t in tokenize(s) if t.kind in ("word", "name")]
    started = time.perf_counter()
    found = suggests(asked)
    seconds = time.perf_counter() - started
    changed = sum(
        bool(suggestions) and normal_word(suggestions[0]) != normal_word(word)
        for word, suggestions in zip(asked, found, strict=False)
    )
    return {
        "language": tag,
        "set": "clean",
        "system": system,
        "false": changed / max(1, len(found)),
        "words": len(found),
        "words/s": len(found) / max(seconds, 1e-9),
    }
