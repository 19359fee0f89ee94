"""Spelling beside its peers: real misspellings, and noise on held-out text of more than a hundred languages.

Halves are kept apart by a hash of the word meant (or of the sentence): lexicons, channels and weights come
from one, what is reported here from the other. `--parts` goes on from what was measured before.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from benchmarks.correcting.peers import Suggests, covered, peers_of, symspell
from benchmarks.correcting.scores import (
    by_words,
    changes,
    clean_row,
    false_corrections,
    in_context,
    row_of,
    word_accuracy,
)
from benchmarks.correcting.sets import DATA, Errors, InContext, bea, holbrook, noisy, real
from benchmarks.harness import RESULTS, Bar, finish, median, options, resume
from mainspring.products.spelling import LANGUAGES, Speller, known_language
from mainspring.products.spelling.lexicon import STEPS
from mainspring.products.spelling.training.texts import of_half

OURS = "Mainspring"
ENGLISH = ("birkbeck", "wikipedia", "aspell", "holbrook", "symspell")
CONTEXTS: Mapping[str, Callable[[int], list[InContext]]] = MappingProxyType(
    {"holbrook in context": holbrook, "bea60k in context": bea}
)
TOP = 5
LIST = "frequency list"
KINDS = ("english", "lists", "noise", "clean", "speed")
QUICK = ("en", "de", "ru", "lfn", "tt")
LANGUAGE_ROWS = RESULTS / "spelling/languages.json"
"""Rows by language, from which the table of languages in the docs is made."""


def ours(speller: Speller, tag: str) -> Suggests:
    """Our suggestions; a word of the lexicon is its own only one, as for the peers."""
    engine = speller.engine(tag)

    def suggest(words: Sequence[str]) -> list[list[str]]:
        found = speller.suggest(words, language=tag, most=TOP)
        return [[w] if engine.known(w) else [c.text for c in cs] for w, cs in zip(words, found, strict=True)]

    return suggest


def measured(name: str, tag: str, what: str, errors: Errors, suggests: Suggests) -> dict[str, Any]:
    """A row: quality and words a second."""
    started = time.perf_counter()
    found = suggests(errors.wrong)
    return row_of(name, tag, what, errors, found, time.perf_counter() - started)


def english(speller: Speller, what: str, quick: bool) -> list[dict[str, Any]]:
    """One set of English misspellings."""
    errors = real(1)["en", what].first(100 if quick else 3000)
    systems = {**peers_of("en", 3 if quick else 25), OURS: ours(speller, "en")}
    return [measured(name, "en", what, errors, suggests) for name, suggests in systems.items()]


def context(speller: Speller, what: str, quick: bool) -> list[dict[str, Any]]:
    """Running English with tagged errors."""
    passages = CONTEXTS[what](1)[: 20 if quick else None]
    rows = [
        in_context(name, what, passages, changes(suggests, [p.text for p in passages]))
        for name, suggests in peers_of("en", 3 if quick else 60).items()
        if name in ("aspell", "symspellpy")  # the others take too long for whole passages
    ]

    def by_place(text: str) -> dict[int, str]:
        found = speller.correct(text, language="en").words
        return {w.start: w.correction for w in found if w.correction is not None}

    return [*rows, in_context(OURS, what, passages, by_place)]


def listed(speller: Speller, locale: str, what: str, quick: bool) -> list[dict[str, Any]]:
    """One of LibreOffice's lists, or the Russian pairs of social media."""
    tag = known_language(locale).tag
    some = real(1)[locale, what].first(300)
    systems = {**peers_of(tag, 2 if quick else 8), OURS: ours(speller, tag)}
    rows = [measured(name, tag, what, some, suggests) for name, suggests in systems.items()]
    return [{**row, "set": f"{what} {locale}"} for row in rows]


def noise(speller: Speller, tag: str, quick: bool) -> list[dict[str, Any]]:
    """Noise on held-out sentences: words alone, and the share of words right in sentences, before, after."""
    made = noisy(LANGUAGES[tag], 40 if quick else 200)
    if len(made.errors.wrong) < 20:
        return []
    some = made.errors.first(100 if quick else 200)
    engine = speller.engine(tag)
    costs = engine.lexicon.costs.tolist()
    counts = {w: 1e9 * math.exp(-c / STEPS) for w, c in zip(engine.lexicon.words, costs, strict=True)}
    systems = {**peers_of(tag, 2 if quick else 5), LIST: symspell(counts, 20), OURS: ours(speller, tag)}
    rows: list[dict[str, Any]] = []
    for name, suggests in systems.items():
        row = measured(name, tag, "noise", some, suggests)
        if name == OURS:
            row |= word_accuracy(made, lambda text: speller.correct(text, language=tag).corrected)
        if name == LIST:
            row |= word_accuracy(made, by_words(suggests))
        rows.append({**row, "covered": covered(tag), "zero-shot": not engine.lexicon.facts["pairs"]})
    return rows


def clean(speller: Speller, tag: str, quick: bool) -> list[dict[str, Any]]:
    """False corrections of held-out sentences, and how fast running text is read."""
    sentences = of_half(LANGUAGES[tag], DATA, 1)[: 100 if quick else 200]
    if len(sentences) < 20:
        return []
    speller.correct(sentences[0], language=tag)
    rows = [clean_row(OURS, tag, sentences, lambda text: speller.correct(text, language=tag))]
    for name, suggests in peers_of(tag, 2 if quick else 4).items():
        rows.append(false_corrections(name, tag, sentences, suggests))
    return rows


def speed(speller: Speller) -> list[dict[str, Any]]:
    """Words a second of running English, and the slowest of a thousand queries."""
    sentences = of_half(LANGUAGES["en"], DATA, 1)
    text = "\n".join(sentences)
    queries = [q for q in noisy(LANGUAGES["en"], 1000).noisy if len(q.split()) == 5][:300]
    speller.correct(text[:1000], language="en")
    rates, waits = [], []
    for _ in range(5):
        started = time.perf_counter()
        speller.correct(text, language="en")
        rates.append(len(text.split()) / (time.perf_counter() - started))
        for query in queries:
            started = time.perf_counter()
            speller.correct(query, language="en")
            waits.append(time.perf_counter() - started)
    waits.sort()
    return [
        {
            "system": OURS,
            "set": "speed",
            "words/s, text": median(rates),
            "p99 of 5 words, ms": 1000 * waits[int(0.99 * len(waits))],
        }
    ]


def bars(rows: Sequence[dict[str, Any]]) -> list[Bar]:
    """What the issue asks for."""
    made: list[Bar] = []
    for what in (*ENGLISH, *CONTEXTS):
        scores = {r["system"]: r["top-1"] for r in rows if r.get("set") == what}
        best = max((v for k, v in scores.items() if k != OURS), default=0.0)
        if OURS in scores:
            made.append(Bar(f"{what}: top-1 less the best peer's", scores[OURS] - best, 0.0))
    won, shown = set(), 0
    for tag in {r["language"] for r in rows if r.get("covered")} - {"en"}:
        scores = {
            r["system"]: r["top-1"] for r in rows if r.get("language") == tag and r.get("set") == "noise"
        }
        peers = [v for k, v in scores.items() if k not in (OURS, LIST)]
        if OURS in scores and peers and scores[OURS] > max(peers):
            won.add(tag)
    made.append(Bar("other languages of a peer, top-1 above it", len(won), 20))
    for tag in {r["language"] for r in rows if r.get("covered") is False}:
        by = {r["system"]: r for r in rows if r.get("language") == tag and r.get("set") == "noise"}
        if {OURS, LIST} <= by.keys():
            mine, other = by[OURS]["words right"], by[LIST]["words right"]
            shown += mine > by[OURS]["words right, copied"] and mine > other
    made.append(Bar("languages no peer covers, above copying and the frequency list", shown, 30))
    clean_text = [r for r in rows if r.get("set") == "clean" and r["system"] == OURS]
    words = sum(r["words"] for r in clean_text)
    if words:
        wrong = sum(r["words"] * r["false"] for r in clean_text)
        over = sum(r["false"] >= 0.01 for r in clean_text)
        made.append(Bar("false corrections of clean text, %", 100 * wrong / words, 1.0, at_most=True))
        made.append(Bar("languages with 1 % of clean words changed or more", over, 0, at_most=True))
    for row in rows:
        if row.get("set") == "speed":
            made.append(Bar("words a second of running text", row["words/s, text"], 2000))
            made.append(Bar("p99 of a query of 5 words, ms", row["p99 of 5 words, ms"], 30, at_most=True))
    return made


def shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the table of benchmarks has: English in full, of other lists top-1 by system, and means."""
    made = [row for row in rows if row.get("set") in (*ENGLISH, *CONTEXTS, "speed")]
    lists = dict.fromkeys(row["set"] for row in rows if row["set"].startswith(("autocorrect", "ruspellru")))
    for what in lists:
        some = [row for row in rows if row.get("set") == what]
        made.append(
            {"language": some[0]["language"], "set": what, "of": some[-1]["of"]}
            | {f"{row['system']} top-1": row["top-1"] for row in some if row["words"]}
        )
    for what, value in (("noise", "top-1"), ("clean", "false")):
        for name in dict.fromkeys(row["system"] for row in rows if row.get("set") == what):
            some = [row for row in rows if row.get("set") == what and row["system"] == name and row["words"]]
            mean = sum(row[value] for row in some) / max(1, len(some))
            made.append({"language": f"{len(some)} languages", "set": what, "system": name, value: mean})
    return made


def pieces(speller: Speller, quick: bool) -> Iterator[tuple[str, str, Callable[[], list[dict[str, Any]]]]]:
    """What is measured, piece by piece: kind, name, and how."""
    for what in ENGLISH:
        yield "english", what, partial(english, speller, what, quick)
    for what in CONTEXTS:
        yield "english", what, partial(context, speller, what, quick)
    for locale, what in sorted(real(1)):
        if what in ("autocorrect", "ruspellru") and (not quick or locale in ("de", "fr")):
            yield "lists", f"{locale} {what}", partial(listed, speller, locale, what, quick)
    for tag in QUICK if quick else speller.languages:
        yield "noise", tag, partial(noise, speller, tag, quick)
        yield "clean", tag, partial(clean, speller, tag, quick)
    yield "speed", "", partial(speed, speller)


def main() -> int:
    """Exit status 1 when a bar is missed."""
    arguments = options(__doc__ or "", parts=True, only=KINDS)
    speller = Speller.load()
    rows: list[dict[str, Any]] = []
    for kind, key, measure in pieces(speller, arguments.quick):
        if kind in (arguments.only or KINDS):
            rows += resume(arguments.parts, f"{kind} {key}", measure)
    if not arguments.quick and not arguments.only:
        LANGUAGE_ROWS.parent.mkdir(exist_ok=True)
        by_language = [row for row in rows if row["set"] in ("noise", "clean")]
        LANGUAGE_ROWS.write_text(
            json.dumps(by_language, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
        )
    return finish(
        "spelling",
        title="Spelling: top-1 and top-5 of misspellings, false corrections of clean text",
        rows=shown(rows),
        bars=bars(rows),
        notes=[
            "Reporting halves only. A word that a system takes to be right is its own only suggestion.",
            "Peers may be cut off by time: their row says how many words they answered, and is of those.",
            "noise: rotated, inserted, deleted, replaced letters, lost marks, sounds, on held-out sentences; "
            "'words right' is of sentences with a fifth of their words misspelt, after correction.",
            "frequency list: symspellpy over our own lexicon, the most frequent of the nearest words.",
            "zero-shot: no misspelling of the language was learnt from.",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
