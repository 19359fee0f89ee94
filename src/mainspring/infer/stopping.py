"""Stop strings: find the first in growing text, and hold back what may be the start of one."""

from __future__ import annotations

from collections.abc import Sequence


def find_stop(text: str, stops: Sequence[str], start: int = 0) -> int | None:
    """Where the first stop string at or after `start` begins, or None.

    >>> find_stop("one, two; three", [";", ", "])
    3
    """
    found = [place for stop in stops if (place := text.find(stop, start)) >= 0]
    return min(found, default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may yet become a stop string.

    >>> held_back("Question", ["\\n\\n", "on:"])
    2
    """
    longest = min(max((len(stop) for stop in stops), default=1) - 1, len(text))
    for size in range(longest, 0, -1):
        tail = text[-size:]
        if any(stop.startswith(tail) for stop in stops if len(stop) > size):
            return size
    return 0
