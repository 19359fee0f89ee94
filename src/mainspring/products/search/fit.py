"""The ranker's curve, fitted to what people chose: documents that served a query, and those passed over.

A logistic curve of the same sum that `BiEncoderRanker` ranks by (Platt 1999); 4 times the probability is the
relevance that is shown, so that it can be trusted as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import DataError, UsageError
from mainspring.products.search.documents import Document
from mainspring.products.search.encoder import Encoder
from mainspring.products.search.heads import RankerCurve
from mainspring.products.search.index import Index
from mainspring.products.search.rank import RANKED, compared
from mainspring.products.search.recall import evidence_of
from mainspring.products.search.writer import STORE
from mainspring.recipes.search.curves import logistic

MOST = 4.0
"""Weight of the best sentence beside the best passage, at most: the two cosines go together, and where one
says all that the other does, a fit would set them against each other."""
FEWEST = 20
"""Queries from which a curve can be fitted."""


class Features(NamedTuple):
    """Candidates of several queries."""

    values: NDArray[np.float64]
    """What `rank.compared` says of them, [N, 3]."""
    chosen: NDArray[np.float64]
    """1 where the document was chosen, else 0, [N]."""
    query: NDArray[np.int64]
    """Number of the query, [N]."""


def features(index: Index, chosen: Mapping[str, Iterable[str]]) -> Features:
    """What ranking sees of the first 50 documents of queries, and which of them were chosen.

    Queries none of whose chosen documents recall finds say nothing and are left out.

    Args:
        index: with an encoder.
        chosen: keys of the documents that served each query.

    Raises:
        UsageError: the index has no encoder.
    """
    encoder, snapshot = index.encoder, index.snapshot()
    if encoder is None:
        raise UsageError(f"{index.folder}: a ranker compares vectors, and {index.missing}")
    recall = index.recall(snapshot)
    values: list[tuple[float, float, float]] = []
    right: list[float] = []
    query: list[int] = []
    for number, (text, keys) in enumerate(chosen.items()):
        vector = encoder.encode([text])[0]
        found = recall.find(text, vector, languages=index.languages_of(text), within=None, depth=RANKED)
        wanted = set(keys)
        candidates = found.candidates[:RANKED]
        named = [found.documents[c.document].key in wanted for c in candidates]
        if not any(named):
            continue
        values += compared([evidence_of(found, candidate) for candidate in candidates])
        right += map(float, named)
        query += [number] * len(candidates)
    return Features(np.asarray(values), np.asarray(right), np.asarray(query))


def fitted(judged: Features) -> RankerCurve:
    """The curve under which what was chosen is likeliest.

    Raises:
        DataError: there are too few queries, or the cosines say nothing about what was chosen.
    """
    queries = len(set(judged.query.tolist()))
    if queries < FEWEST:
        raise DataError(
            f"{queries} queries with a document that was found and chosen: a ranker's curve needs {FEWEST}; "
            "give more judgements"
        )
    passage, sentence, lexical, offset = logistic(judged.values, judged.chosen)
    if passage <= 0 or sentence > MOST * passage:
        both = judged.values @ np.array([[1.0, 0.0], [MOST, 0.0], [0.0, 1.0]])
        passage, lexical, offset = logistic(both, judged.chosen)
        sentence = MOST * passage
    if passage <= 0:
        raise DataError(
            f"what was chosen has no greater cosines than what was not (weight {passage:.2f}): are queries "
            "and documents those of this index?"
        )
    return RankerCurve(
        sentence=float(sentence / passage),
        lexical=float(lexical / passage),
        slope=float(passage),
        middle=float(-offset / passage),
    )


def of_pairs(
    folder: Path, encoder: Encoder, pairs: Sequence[tuple[str, str]], tell: Callable[[int], None]
) -> tuple[RankerCurve, dict[str, float]]:
    """The curve of queries beside the text that serves each, all texts being one index.

    Every other query is fitted to; the rest are what the calibration error is of.

    Args:
        folder: where the index is kept; one that is there is gone on with.
        encoder: its encoder.
        pairs: query and text.
        tell: told the number of passages encoded so far.

    Returns:
        The curve, and how well calibrated it is.
    """
    keys = {text: f"text {number}" for number, (_, text) in enumerate(pairs)}
    made = (folder / STORE).exists()
    opened = Index.open(folder, encoder=encoder) if made else Index.create(folder, encoder=encoder)
    with opened as index:
        index.add((Document(key, text) for text, key in keys.items()), encode=False)
        index.encode(tell)
        chosen = [{query: [keys[text]] for query, text in pairs[which::2]} for which in (0, 1)]
        learnt, held = features(index, chosen[0]), features(index, chosen[1])
    curve = fitted(learnt)
    return curve, {
        "queries": len(set(held.query.tolist())),
        "calibration error": calibration_error(held, curve),
        "calibration error of the curve by hand": calibration_error(held, RankerCurve()),
    }


def calibration_error(judged: Features, curve: RankerCurve, bins: int = 10) -> float:
    """Expected calibration error: how far shares of what was chosen are from the probabilities given.

    Guo et al. 2017 (arXiv 1706.04599), equation 5.
    """
    sums = judged.values @ [1.0, curve.sentence, curve.lexical]
    p = 1 / (1 + np.exp(-curve.slope * (sums - curve.middle)))
    place = np.minimum((p * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(p[place == b].mean() - judged.chosen[place == b].mean()) * (place == b).mean()
            for b in range(bins)
            if (place == b).any()
        )
    )
