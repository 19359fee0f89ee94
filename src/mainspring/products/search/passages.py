"""Cutting: a text into passages that lie end to end, and each passage into sentences.

Passages end where paragraphs do, else where sentences do, so that what is shown and what is encoded makes
sense by itself; their size suits an encoder of 256 tokens.
"""

from __future__ import annotations

import re

from mainspring.products.search.documents import Passage, Span

TARGET = 800
"""Characters at which a passage is full."""
MOST = 1200
"""Characters that a passage has at most."""
LONGEST_SENTENCE = 400
"""Characters that a sentence has at most; what has no full stops is cut at lines, then words."""

_PARAGRAPH = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
# Full stops of Latin scripts end a sentence before white space; those of others do by themselves.
_SENTENCE = re.compile(
    r"(?:[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？｡।۔؟]+[」』”’）]*)\s*|\n\s*(?:\n|[-*•#>|]|\d+[.)]\s)\s*"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|vs|etc|al|fig|no|vol|pp?|dr|mr|mrs|ms|prof|st|inc|ltd|approx|eq|sec)|\b[A-Z])\.\s*$",
    re.IGNORECASE,
)


def cut(text: str, *, target: int = TARGET, most: int = MOST) -> list[Passage]:
    """The passages of a text; none where it holds nothing but white space.

    Args:
        text: any text.
        target: characters at which a passage ends at the next paragraph.
        most: characters at which it ends at the next sentence, and in want of one at the next word.
    """
    ends = _passage_ends(text, target, most)
    passages: list[Passage] = []
    start = 0
    for end in ends:
        part = text[start:end]
        if part.strip():
            passages.append(Passage(start, part, tuple(sentences(part))))
            start = end
        elif passages:  # white space alone joins what precedes it
            last = passages[-1]
            passages[-1] = last._replace(text=last.text + part)
            start = end
    return passages


def sentences(text: str, *, longest: int = LONGEST_SENTENCE) -> list[Span]:
    """The sentences of a passage, without the white space around them."""
    found: list[Span] = []
    start = 0
    for end in [*_sentence_ends(text), len(text)]:
        for span in _trimmed(text, start, end, longest):
            found.append(span)
        start = end
    return found


def _passage_ends(text: str, target: int, most: int) -> list[int]:
    ends: list[int] = []
    start = 0
    paragraphs = [match.end() for match in _PARAGRAPH.finditer(text)]
    for end in [*paragraphs, len(text)]:
        if end - start < target and end < len(text):
            continue
        while end - start > most:
            cut_at = _cut_within(text, start, start + target, start + most)
            ends.append(cut_at)
            start = cut_at
        if end > start:
            ends.append(end)
            start = end
    return ends


def _cut_within(text: str, start: int, target: int, most: int) -> int:
    """Where to end a passage: at the paragraph or sentence nearest to the target, else at a word."""
    window = text[start:most]
    for choices in ([m.end() for m in _PARAGRAPH.finditer(window)], list(_sentence_ends(window))):
        good = [start + end for end in choices if start + end > start + (target - start) // 3]
        if good:
            return min(good, key=lambda end: abs(end - target))
    space = max(window.rfind(" "), window.rfind("\n"))
    return start + space + 1 if space > 0 else most


def _sentence_ends(text: str) -> list[int]:
    ends = []
    for match in _SENTENCE.finditer(text):
        end = match.end()
        if match.group().startswith("\n"):  # the mark of a list belongs to what follows
            end = match.start() + 1
        elif _ABBREVIATION.search(text, max(0, end - 12), end):
            continue
        ends.append(end)
    return ends


def _trimmed(text: str, start: int, end: int, longest: int) -> list[Span]:
    spans: list[Span] = []
    while end - start > longest:
        part = text[start : start + longest]
        at = part.rfind("\n")
        at = part.rfind(" ") if at < longest // 4 else at
        step = at + 1 if at > 0 else longest
        spans += _trimmed(text, start, start + step, longest)
        start += step
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if any(letter.isalnum() for letter in text[start:end]):
        spans.append(Span(start, end))
    return spans
