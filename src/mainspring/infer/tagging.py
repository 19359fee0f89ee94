"""From probabilities of tokens to tags of words and runs of them, over the windows of a text.

A word has the tag of its first token (Devlin et al. 2019, section 5.3), in the window where it stands
farthest from an edge. Labels B-X and I-X are runs (Ramshaw and Marcus 1995); others are runs of equal labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mainspring.infer.answers import Entity, Tag, Tags
from mainspring.text.framing import Frame

OUTSIDE = "O"
"""The label of what is nothing."""


class Reading(NamedTuple):
    """A window of a text. T tokens, C labels."""

    frame: Frame
    probability: Tensor
    """fp32 [T, C]."""


class _Seen(NamedTuple):
    margin: int
    """Tokens to the nearer edge of the window."""
    start: int
    end: int
    probability: list[float]


def tags_of(
    text: str, words: Sequence[str] | None, windows: Sequence[Reading], labels: Sequence[str]
) -> Tags:
    """Tags of a text.

    Args:
        text: the text; of words, joined by spaces.
        words: the words, where they were given.
        windows: what was read.
        labels: names of the classes.
    """
    seen: dict[int, _Seen] = {}
    starts = None if words is None else _starts(words)
    for frame, probability in windows:
        for first, last in _words(frame):
            number = frame.words[first]
            assert number is not None
            start, end = frame.offsets[first][0], frame.offsets[last][1]
            if starts is not None:
                start, end = starts[number] + start, starts[number] + end
            margin = min(first, len(frame.ids) - 1 - last)
            if number not in seen or seen[number].margin < margin:
                seen[number] = _Seen(margin, start, end, probability[first].tolist())
    tags = []
    for _, start, end, row in (seen[number] for number in sorted(seen)):
        while start < end and text[start].isspace():  # byte-level tokens hold the space before a word
            start += 1
        best = max(range(len(row)), key=row.__getitem__)
        tags.append(Tag(text[start:end], start, end, labels[best], row[best]))
    return Tags(tuple(tags), tuple(entities(text, tags)))


def entities(text: str, tags: Sequence[Tag]) -> list[Entity]:
    """Runs of words that are of one kind.

    >>> tags = [Tag("New", 0, 3, "B-LOC", 1.0), Tag("York", 4, 8, "I-LOC", 0.5), Tag("is", 9, 11, "O", 1.0)]
    >>> [(e.text, e.label, e.score) for e in entities("New York is", tags)]
    [('New York', 'LOC', 0.75)]
    """
    runs: list[list[Tag]] = []
    before = OUTSIDE
    for tag in tags:
        if tag.label != OUTSIDE:
            begins = tag.label.startswith("B-") or _kind(tag.label) != _kind(before)
            if begins or not runs:
                runs.append([])
            runs[-1].append(tag)
        before = tag.label
    return [
        Entity(
            text[run[0].start : run[-1].end],
            run[0].start,
            run[-1].end,
            _kind(run[0].label),
            sum(tag.score for tag in run) / len(run),
        )
        for run in runs
    ]


def _kind(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _words(frame: Frame) -> list[tuple[int, int]]:
    """First and last token of each word of the text itself."""
    found: list[tuple[int, int]] = []
    before: int | None = None
    for place, (word, part) in enumerate(zip(frame.words, frame.parts, strict=True)):
        if word is None or part is None:
            before = None
        elif word == before:
            found[-1] = (found[-1][0], place)
        else:
            found.append((place, place))
            before = word
    return found


def _starts(words: Sequence[str]) -> list[int]:
    """Where each word begins in the words joined by spaces."""
    starts, place = [], 0
    for word in words:
        starts.append(place)
        place += len(word) + 1
    return starts
