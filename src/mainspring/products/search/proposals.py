"""Questions that a text answers, in its own words: those it asks, and those its statements answer.

Rules in place of a model that writes: a question that stands in the text is taken with what follows it; a few
kinds of English statement (what a thing is, is for, returns; how something is done) are turned into the
question that they answer. What the rules get wrong is left out afterwards, by answering every question back.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mainspring.products.search.documents import Span
from mainspring.products.search.store import StoredPassage

LONGEST = 140
"""Characters of a question."""
LONGEST_ANSWER = 400
"""Characters of what answers it."""
_FEWEST_WORDS, _MOST_WORDS = 3, 20
_SUBJECT = r"(?P<subject>(?:(?:An?|The) )?[\w'’./()-]+(?: [\w'’./()-]+){0,4}?)"
_PRONOUNS = frozenset(
    ("it", "this", "that", "these", "those", "they", "he", "she", "we", "you", "i", "there", "here", "one")
)


class Proposal(NamedTuple):
    """A question and where a passage answers it."""

    question: str
    answer: Span
    """Within the passage's text."""


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    question: str


_RULES = (
    _Rule(
        re.compile(rf"^{_SUBJECT} (?P<verb>is|are) (?:an?|the|one of|any) (?!same\b|following\b).{{12,}}"),
        "What {verb} {subject}?",
    ),
    _Rule(
        re.compile(rf"^{_SUBJECT} (?P<verb>is|are) used (?:to|for) .{{8,}}"),
        "What {verb} {subject} used for?",
    ),
    _Rule(re.compile(rf"^{_SUBJECT} stands for .{{4,}}"), "What does {subject} stand for?"),
    _Rule(re.compile(rf"^{_SUBJECT} means .{{8,}}"), "What does {subject} mean?"),
    _Rule(re.compile(rf"^{_SUBJECT} consists of .{{8,}}"), "What does {subject} consist of?"),
    _Rule(
        re.compile(rf"^{_SUBJECT} (?:allows|lets|enables) (?:you|users|one) (?:to )?.{{8,}}"),
        "What does {subject} allow?",
    ),
    _Rule(re.compile(rf"^{_SUBJECT} returns .{{8,}}"), "What does {subject} return?"),
    _Rule(
        re.compile(
            r"^To (?P<subject>(?!be\b)[a-z][\w'’-]*(?: [\w'’./()-]+){1,8}?), "
            r"(?:use|call|run|set|pass|press|type|add|install|choose|open|write)\b.{6,}"
        ),
        "How do I {subject}?",
    ),
    _Rule(
        re.compile(
            r"^(?:You can use|Use) .{2,60}? to (?P<subject>(?!be\b)[a-z][\w'’-]*(?: [\w'’./()-]+){1,8}?)[.;,]"
        ),
        "How do I {subject}?",
    ),
)


def proposals(passage: StoredPassage) -> list[Proposal]:
    """Questions that a passage may answer, each once, in its order."""
    found: dict[str, Proposal] = {}
    spans = passage.sentences
    for number, span in enumerate(spans):
        text = passage.text[span.start : span.stop]
        made = _asked(text, passage, spans[number + 1 : number + 4]) or _stated(text, span)
        if made is not None:
            found.setdefault(made.question.casefold(), made)
    return list(found.values())


def _asked(text: str, passage: StoredPassage, following: tuple[Span, ...]) -> Proposal | None:
    """A question that stands in the text, with the sentences after it."""
    question = " ".join(re.sub(r"^(?:Q\s*[:.)]|\d+[.)]|[-*•#>]+)\s*", "", text.strip()).split())
    words = question.split()
    if not question.endswith(("?", "？", "؟")) or not following or len(question) > LONGEST:
        return None
    if not _FEWEST_WORDS <= len(words) <= _MOST_WORDS and question.isascii():
        return None
    stop = following[0].stop
    for span in following[1:]:
        if span.stop - following[0].start > LONGEST_ANSWER:
            break
        stop = span.stop
    if passage.text[following[0].start : stop].strip().endswith("?"):
        return None
    return Proposal(question, Span(following[0].start, stop))


def _stated(text: str, span: Span) -> Proposal | None:
    """The question that a statement answers."""
    if len(text) > LONGEST_ANSWER or "\n\n" in text or text.rstrip().endswith("?"):
        return None
    line = " ".join(text.split())
    for rule in _RULES:
        match = rule.pattern.match(line)
        if match is None:
            continue
        subject = _in_a_sentence(match["subject"])
        if subject.split()[0].casefold() in _PRONOUNS:
            return None
        verb = match.groupdict().get("verb", "")
        question = rule.question.format(subject=subject, verb=verb)
        return Proposal(question, span) if len(question) <= LONGEST else None
    return None


def _in_a_sentence(subject: str) -> str:
    """A subject as it stands within a sentence: its article, or a plain word, without a capital."""
    first, _, rest = subject.partition(" ")
    if first in ("A", "An", "The"):
        return f"{first.lower()} {rest}"
    return subject
