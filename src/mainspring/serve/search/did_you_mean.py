"""Did you mean: a query with its words corrected, where the index knows less of them as they were typed."""

from __future__ import annotations

from mainspring.errors import UsageError
from mainspring.products.search import Index
from mainspring.products.spelling import AUTO, Speller, WordResult, known_language

LONGEST = 300
"""Characters of a query that is looked at."""


def did_you_mean(speller: Speller, index: Index, query: str, language: str | None) -> str | None:
    """The corrected query; None where there is nothing to correct.

    A word that some document has is right, whatever the lexicon says; operators of the query stay.

    Args:
        speller: corrects.
        index: whose documents tell words that are right.
        query: as it was typed.
        language: BCP 47 tag that the request names; None, or one that is not corrected: found from the text.
    """
    if not query.strip() or len(query) > LONGEST:
        return None
    found = speller.correct(query, language=_language(speller, index, query, language))
    kept = [word for word in found.words if word.correction is not None and not _is_there(index, word)]
    text, at = [], 0
    for word in kept:
        text += [query[at : word.start], word.correction or ""]
        at = word.stop
    corrected = "".join([*text, query[at:]])
    return corrected if corrected.casefold() != query.casefold() else None


def _language(speller: Speller, index: Index, query: str, named: str | None) -> str:
    """What a query is read in: as named, else as its words show among the index's languages, else its own."""
    shown = index.languages_of(query)
    for tag in (named, shown[0] if len(shown) == 1 else None, index.language):
        if tag:
            try:
                found = known_language(tag).tag
            except UsageError:
                continue
            if found in speller.languages:
                return found
    return AUTO


def _is_there(index: Index, word: WordResult) -> bool:
    """Whether some document has the word as it was typed."""
    parts = word.text.split()
    return all(index.search(part, top=1, captions=False, semantic=False).count for part in parts)
