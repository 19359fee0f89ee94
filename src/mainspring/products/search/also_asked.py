"""People Also Ask: questions that an index answers, made once, looked up beside every query.

Each passage proposes questions; a reader has to answer a question back from the passage, with the words that
it was made for (round-trip consistency, Alberti et al. 2019, arXiv 1906.05416). Of several that ask the same
one is kept; those that are alike are a cluster, and a query gets the nearest of each. Nothing is written by a
model: question and answer are the corpus's own words, or a rule's rearrangement of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import SearchIndexError, UsageError
from mainspring.finetune.text_reader import ReadText
from mainspring.products.search.documents import Span
from mainspring.products.search.encoder import Encoder
from mainspring.products.search.heads import Heads
from mainspring.products.search.index import Index
from mainspring.products.search.proposals import Proposal, proposals
from mainspring.recipes.search.curves import probability
from mainspring.train.files import replace_file

FILE, VECTORS, JOURNAL = "questions.json", "questions.npy", "questions.jsonl"
"""Within an index's folder: the questions, their vectors in fp16, and what is done of making them."""
SAME = 0.88
"""Cosine from which two questions ask the same."""
ALIKE = 0.6
"""Cosine from which two belong to one cluster."""
NEAR = 0.35
"""Cosine of query and question from which it is shown."""
LEAST = 0.5
"""Probability that the passage is relevant to its question, by the reader."""
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question that a document answers."""

    question: str
    answer: str
    """Verbatim."""
    key: str
    """Of the document."""
    cluster: int
    """Questions of one number ask for like things."""


class Made(NamedTuple):
    """What making questions came to."""

    passages: int
    """Passages looked at."""
    proposed: int
    """Questions that the rules made."""
    answered: int
    """Of them, those that were answered back."""
    kept: int
    """Of them, those that no other asks the same as."""


class _Done(NamedTuple):
    """What came of a passage."""

    passage: int
    proposed: int
    questions: list[dict[str, str]]


class AlsoAsked:
    """The questions of an index, looked up by meaning."""

    def __init__(
        self,
        index: Index,
        encoder: Encoder,
        questions: Sequence[AskedQuestion],
        vectors: NDArray[np.floating[Any]],
    ) -> None:
        """Take questions and their vectors, [n, D]."""
        self._index, self._encoder, self._questions = index, encoder, list(questions)
        self._vectors = vectors.astype(np.float32)

    @classmethod
    def open(cls, index: Index) -> Self | None:
        """The questions made for an index; None where none were (`make`), or it has no encoder now.

        Raises:
            SearchIndexError: the file is damaged.
        """
        path, encoder = index.folder / FILE, index.encoder
        if not path.is_file() or encoder is None:
            return None
        try:
            questions = [AskedQuestion(**row) for row in json.loads(path.read_text("utf-8"))]
            vectors = np.load(index.folder / VECTORS)
            if vectors.shape != (len(questions), encoder.dim):
                raise ValueError(f"{len(questions)} questions and vectors of shape {vectors.shape}")
            return cls(index, encoder, questions, vectors)
        except (OSError, ValueError, TypeError) as error:
            raise SearchIndexError(
                f"{path}: is damaged ({error}); make it anew: mainspring search questions {index.folder}"
            ) from error

    def __len__(self) -> int:
        return len(self._questions)

    def questions(self, query: str, limit: int) -> list[tuple[str, str, str]]:
        """Question, its answer and the key of the document that answers, near to a query; one of a cluster.

        What the query itself asks is left out, and so is what its document does not say any more.
        """
        if not self._questions or not query.strip():
            return []
        near = self._vectors @ self._encoder.encode([query])[0]
        found: list[tuple[str, str, str]] = []
        clusters: set[int] = set()
        for number in np.argsort(-near, kind="stable").tolist():
            asked = self._questions[number]
            if near[number] < NEAR or len(found) >= limit:
                break
            if near[number] >= SAME or asked.cluster in clusters:
                continue
            if asked.answer in (self._index.text(asked.key) or ""):
                clusters.add(asked.cluster)
                found.append((asked.question, asked.answer, asked.key))
        return found


def make(
    index: Index,
    *,
    most: int | None = None,
    fresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Made:
    """Make the questions of an index; what an earlier call that was stopped has done is not done again.

    Args:
        index: with an encoder and heads.
        most: passages to look at (None: all).
        fresh: begin anew, as after heads have changed.
        progress: told how many passages of how many are done.

    Raises:
        UsageError: it lacks one of them.
        DiskError: the questions cannot be written.
    """
    encoder, heads = index.encoder, index.heads
    if encoder is None or heads is None:
        lacking = index.missing or "no heads are trained over its encoder (mainspring search train)"
        raise UsageError(f"{index.folder}: questions are answered back before they are kept, and {lacking}")
    numbers = index.store.live_passages()[:most]
    journal = index.folder / JOURNAL
    if fresh:
        journal.unlink(missing_ok=True)
    done = _read(journal)
    for at in range(0, len(numbers), _AT_ONCE):
        part = [n for n in numbers[at : at + _AT_ONCE] if n not in done]
        if part:
            rows = _of_passages(index, heads, part)
            with journal.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            done |= {row.passage: row for row in rows}
        if progress is not None:
            progress(min(at + _AT_ONCE, len(numbers)), len(numbers))
    answered = [q for n in numbers for q in done[n].questions]
    vectors = _vectors(encoder, [q["question"] for q in answered])
    places, kept = clustered(answered, vectors)
    table = io.BytesIO()
    np.save(table, vectors[places].astype(np.float16))
    replace_file(index.folder / VECTORS, table.getvalue())
    content = json.dumps([_shape(asked) for asked in kept], ensure_ascii=False, indent=0)
    replace_file(index.folder / FILE, content.encode("utf-8"))
    proposed = sum(done[n].proposed for n in numbers)
    return Made(len(numbers), proposed, len(answered), len(kept))


def clustered(
    rows: Sequence[dict[str, str]], vectors: NDArray[np.float32]
) -> tuple[list[int], list[AskedQuestion]]:
    """Questions without such as ask the same as an earlier one, with the row of each and its cluster.

    A question joins the cluster of the nearest leader, if that is alike, else it leads one of its own.
    """
    kept: list[int] = []
    leaders: list[int] = []
    found: list[AskedQuestion] = []
    for i, row in enumerate(rows):
        if kept and float((vectors[kept] @ vectors[i]).max()) >= SAME:
            continue
        near = vectors[leaders] @ vectors[i] if leaders else np.zeros(0, np.float32)
        cluster = int(near.argmax()) if len(near) and near.max() >= ALIKE else len(leaders)
        if cluster == len(leaders):
            leaders.append(i)
        kept.append(i)
        found.append(AskedQuestion(row["question"], row["answer"], row["key"], cluster))
    return kept, found


def is_answered(proposal: Proposal, reading: ReadText) -> bool:
    """Whether a reader finds the passage relevant to the question, and the answer where it was made from."""
    if not reading.spans or probability(reading.relevance) < LEAST:
        return False
    best = reading.spans[0]
    return best.start >= proposal.answer.start and best.stop <= proposal.answer.stop


def _of_passages(index: Index, heads: Heads, numbers: Sequence[int]) -> list[_Done]:
    passages = index.store.passages(numbers)
    documents = index.store.documents([p.document for p in passages.values()])
    made = [(number, p) for number in numbers for p in proposals(passages[number])]
    readings = heads.reader.read([(p.question, passages[number].text) for number, p in made])
    good: dict[int, list[dict[str, str]]] = {number: [] for number in numbers}
    for (number, proposal), reading in zip(made, readings, strict=True):
        passage = passages[number]
        if is_answered(proposal, reading):
            answer = _stripped(passage.text, proposal.answer)
            key = documents[passage.document].key
            good[number].append({"question": proposal.question, "answer": answer, "key": key})
    return [_Done(number, sum(n == number for n, _ in made), good[number]) for number in numbers]


def _stripped(text: str, span: Span) -> str:
    return text[span.start : span.stop].strip()


def _read(journal: Path) -> dict[int, _Done]:
    """What an earlier process did; a last line that it died in is left out."""
    if not journal.is_file():
        return {}
    lines = journal.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        replace_file(journal, "".join(f"{line}\n" for line in lines[:-1]).encode("utf-8"))
    rows = [_Done(*json.loads(line)) for line in lines[:-1] if line]
    return {row.passage: row for row in rows}


def _shape(asked: AskedQuestion) -> dict[str, str | int]:
    return {"question": asked.question, "answer": asked.answer, "key": asked.key, "cluster": asked.cluster}


def _vectors(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    return encoder.encode(texts) if texts else np.zeros((0, encoder.dim), np.float32)
