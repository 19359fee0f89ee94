"""What a search reader learns from: questions beside texts, with what is known of each.

BoolQ (Clark et al. 2019, arXiv 1905.10044) and XQuAD (Artetxe et al. 2020, arXiv 1910.11856) in the files
that they are published in, and pairs that documentation makes by itself: a passage's first sentence asks for
the rest of it (the inverse cloze task of Lee et al. 2019, arXiv 1906.00300).
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mainspring.data.embedded import docstring_documents
from mainspring.errors import DataError
from mainspring.finetune.reader import UNKNOWN

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
"""Of XQuAD, the same questions in each."""
NO_ANSWER = (0, 0)
"""Of a text that does not answer."""
NOT_KNOWN = (-1, -1)
"""Where nobody said which words answer."""
_WORD = re.compile(r"[^\W_]{3,}")


class Example(NamedTuple):
    """A question beside a text."""

    question: str
    text: str
    relevance: float
    """1: the text serves the question; 0: it does not."""
    verdict: float = UNKNOWN
    """1: the text says yes, 0: no."""
    answer: tuple[int, int] = NOT_KNOWN
    """Characters of the answer in the text, `NO_ANSWER` or `NOT_KNOWN`."""


class Asked(NamedTuple):
    """A question of XQuAD in one language."""

    id: str
    """The same in every language."""
    article: int
    """Number of its article."""
    paragraph: int
    """Number of its paragraph, over all articles."""
    question: str
    context: str
    answers: tuple[str, ...]
    """What is right."""
    start: int
    """Where the first of them begins."""


def boolq(folder: Path, part: str) -> list[Example]:
    """BoolQ's questions beside their passages: `part` is train or val.

    Raises:
        DataError: the file is not there.
    """
    lines = _opened(folder / "understanding" / "boolq" / f"{part}.jsonl.gz").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [Example(f"{r['question']}?", r["passage"], 1.0, float(r["label"])) for r in rows]


def xquad(folder: Path, language: str) -> list[Asked]:
    """XQuAD's questions in a language.

    Raises:
        DataError: the file is not there.
    """
    data: Any = json.loads(_opened(folder / "understanding" / "xquad" / f"xquad.{language}.json.gz"))
    found, paragraph = [], 0
    for article, entry in enumerate(data["data"]):
        for part in entry["paragraphs"]:
            for qa in part["qas"]:
                answers = tuple(answer["text"] for answer in qa["answers"])
                start = int(qa["answers"][0]["answer_start"])
                found.append(
                    Asked(qa["id"], article, paragraph, qa["question"], part["context"], answers, start)
                )
            paragraph += 1
    return found


def is_reported(asked: Asked) -> bool:
    """Whether a question belongs to the half of the articles that nothing is learnt or tuned on."""
    return asked.article % 2 == 1


def is_tuned_on(asked: Asked) -> bool:
    """Whether a question belongs to the articles on which thresholds are chosen."""
    return asked.article % 12 == 0


def learnt_from_xquad(folder: Path, languages: Sequence[str], rng: random.Random) -> list[Example]:
    """Pairs of XQuAD's training articles: in each language, and from one to another, with paragraphs of the
    same article that do not answer.
    """
    by_language = {language: xquad(folder, language) for language in languages}
    found: list[Example] = []
    for language, rows in by_language.items():
        rest = [other for other in languages if other != language]
        others: dict[int, list[Asked]] = {}
        for asked in rows:
            others.setdefault(asked.article, []).append(asked)
        for number, asked in enumerate(rows):
            if is_reported(asked) or is_tuned_on(asked):
                continue
            answer = (asked.start, asked.start + len(asked.answers[0]))
            questions = [asked.question]
            if rest:  # XQuAD is parallel: line n asks the same in every language
                questions += [by_language[rng.choice(rest)][number].question] if rng.random() < 0.5 else []
            found += [Example(q, asked.context, 1.0, UNKNOWN, answer) for q in questions]
            wrong = [o for o in others[asked.article] if o.paragraph != asked.paragraph]
            if wrong and rng.random() < 0.5:
                found.append(Example(asked.question, rng.choice(wrong).context, 0.0, UNKNOWN, NO_ANSWER))
    return found


def with_distractors(examples: Sequence[Example], share: float, rng: random.Random) -> list[Example]:
    """Examples, and for a share of them the question beside another text with words in common."""
    found = list(examples)
    for example in examples:
        if rng.random() < share:
            words = _words(example.question)
            drawn = [rng.choice(examples).text for _ in range(40)]
            nearest = max(drawn, key=lambda text: len(words & _words(text)))
            if nearest != example.text:
                found.append(Example(example.question, nearest, 0.0, UNKNOWN, NO_ANSWER))
    return found


def documentation(count: int, rng: random.Random) -> list[Example]:
    """Of the installed packages' docstrings: a first sentence, and beside it the rest or another's rest."""
    pairs = heads_and_rests(limit_bytes=4000 * count, processes=0)
    rng.shuffle(pairs)
    found = []
    for i, (head, rest) in enumerate(pairs[:count]):
        found.append(Example(head, rest, 1.0))
        found.append(Example(head, pairs[i - 1][1], 0.0, UNKNOWN, NO_ANSWER))
    return found


def heads_and_rests(*, limit_bytes: int, processes: int, longest: int = 700) -> list[tuple[str, str]]:
    """First sentences of the installed packages' docstrings, each beside the rest of its docstring.

    Args:
        limit_bytes: of documentation to look through.
        processes: that parse (0: this one).
        longest: characters of a rest, beyond which it is cut.
    """
    pairs: list[tuple[str, str]] = []
    for document in docstring_documents(limit_bytes=limit_bytes, processes=processes):
        for block in re.split(r"\n\s*\n(?=\S)", document.text):
            head, _, rest = " ".join(block.split()).partition(". ")
            if 20 <= len(head) <= 200 and len(rest) >= 120:
                pairs.append((f"{head}.", rest[:longest]))
    return pairs


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _opened(path: Path) -> str:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; --data is the folder that has understanding/boolq and understanding/xquad"
        )
    return gzip.decompress(path.read_bytes()).decode("utf-8")


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Sentences of English prose, in characters; abbreviations may cut one short, which does no harm here."""
    start = 0
    for match in re.finditer(r"[.!?]\s+(?=[A-Z])|$", text):
        if match.end() > start:
            yield start, match.start() + 1 if match.group() else len(text)
        start = match.end()
