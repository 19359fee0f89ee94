"""BM25 by the statistics of several indexes together, from what an engine says of each of its matches.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, with the engine's
constants. An engine scores by the statistics of its own index; of a collection that is cut into shards, each
shard tells what it holds (`Statistics`), the sum goes back with the query, and every match is scored anew by
the sum. Then it does not matter in which shard a document lies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

K1, B = 1.2, 0.75
"""The engine's saturation of a term's frequency, and its share of the length."""
_BOOST = re.compile(r"Boost x(\S+) of")
_TERM = re.compile(r'Term\(field=(\d+), type=Str, "(.*)"\)', re.DOTALL)
_ESCAPE = re.compile(r"\\u\{([0-9a-f]+)\}")


class Statistics(NamedTuple):
    """What scoring a query needs to know of an index."""

    passages: float
    """Number of passages, those included that are deleted and not yet merged away."""
    tokens: Mapping[str, float]
    """Number of terms in each field."""
    holders: Mapping[tuple[str, str], int]
    """Number of passages that hold a term in a field, for each (field, term) of the query."""

    def average(self, field: str) -> float:
        """Mean length of a field, in terms."""
        return self.tokens.get(field, 0.0) / self.passages if self.passages else 0.0

    def rarity(self, field: str, term: str) -> float:
        """Inverse document frequency of a term in a field, 0 for a term that is nowhere."""
        holders = self.holders.get((field, term), 0)
        return math.log(1 + (self.passages - holders + 0.5) / (holders + 0.5)) if holders else 0.0


class Match(NamedTuple):
    """What of a query matched in a field of a passage."""

    field: str
    terms: tuple[str, ...]
    """One term, or those of a phrase."""
    boost: float
    """Weight in the query."""
    frequency: float
    """Times that it occurs."""
    length: float
    """Terms of the field, as the engine stores the number (exact to 40, then in steps)."""

    def score(self, statistics: Statistics) -> float:
        """Its part in the passage's BM25."""
        norm = K1 * (1 - B + B * self.length / statistics.average(self.field))
        rarity = sum(statistics.rarity(self.field, term) for term in self.terms)
        return self.boost * rarity * (K1 + 1) * self.frequency / (self.frequency + norm)


def summed(parts: Iterable[Statistics]) -> Statistics:
    """Statistics of several indexes as of one."""
    passages = 0.0
    tokens: dict[str, float] = {}
    holders: dict[tuple[str, str], int] = {}
    for part in parts:
        passages += part.passages
        for field, count in part.tokens.items():
            tokens[field] = tokens.get(field, 0.0) + count
        for term, number in part.holders.items():
            holders[term] = holders.get(term, 0) + number
    return Statistics(passages, tokens, holders)


def understated(local: Statistics, whole: Statistics) -> float:
    """How much larger a score by the statistics of the whole may be than one by a shard's mean lengths, at
    most, where terms have the same rarity in both.

    The norm grows with length over mean length, so a score grows with the mean, and by less than it does.
    """
    ratios = [whole.average(f) / local.average(f) for f in local.tokens if local.average(f)]
    return max([1.0, *ratios])


def matches(explanation: Mapping[str, Any], fields: Mapping[int, str], boost: float = 1.0) -> Iterator[Match]:
    """The single terms that matched, from an engine's explanation of a passage's score; phrases are left out.

    Args:
        explanation: as tantivy gives it, read from JSON.
        fields: names of fields by their numbers.
        boost: of what surrounds it.
    """
    said = str(explanation["description"])
    if said == "Phrase Scorer":
        return
    if said.startswith("TermQuery"):
        found = _TERM.search(" ".join(explanation.get("context", ())))
        if found is not None:
            term = _ESCAPE.sub(lambda code: chr(int(code[1], 16)), found[2])
            yield Match(fields[int(found[1])], (term,), boost, *occurrence(explanation))
        return
    inner = _BOOST.match(said)
    for part in explanation.get("details", ()):
        yield from matches(part, fields, boost * float(inner[1]) if inner else boost)


def occurrence(explanation: Mapping[str, Any]) -> tuple[float, float]:
    """Frequency and length of field in the first part of an explanation that has them."""
    said = facts(explanation)
    return said["freq"], said["dl"]


def facts(explanation: Mapping[str, Any]) -> dict[str, float]:
    """Every number that an explanation names, by the name's first word: freq, dl, avgdl, n, N."""
    found: dict[str, float] = {}
    name, comma, _ = str(explanation["description"]).partition(", ")
    if comma and " " not in name:
        found[name] = float(explanation["value"])
    for part in explanation.get("details", ()):
        found = {**facts(part), **found}
    return found
