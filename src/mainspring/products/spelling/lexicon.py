"""Words and how often each is written, for many languages in one file that is mapped, not read.

The file: a mark, a line of JSON that says where each language's block lies, then the blocks. A block is one
zlib stream: words in order of their code points, one a line, then a byte a word for its frequency. Only the
blocks of languages that are used are touched, and unpacking one takes some ten milliseconds.
"""

from __future__ import annotations

import json
import math
import mmap
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import DataError, suggest

MAGIC = b"mainspring lexicons 1\0\n"
STEPS = 12.0
"""Steps of a byte in a unit of log probability."""


class Lexicon:
    """Words of one language with log probabilities."""

    def __init__(self, words: list[str], costs: NDArray[np.uint8], facts: Mapping[str, Any]) -> None:
        """Take words in order of their code points, -log p of each in steps, and what else is known."""
        self.words = words
        self.costs = costs
        self.facts = facts

    @classmethod
    def of(cls, frequencies: Mapping[str, float], facts: Mapping[str, Any] | None = None) -> Lexicon:
        """A lexicon of words with counts or frequencies, which are normalised."""
        total = sum(frequencies.values()) or 1.0
        words = sorted(frequencies)
        costs = [min(255, round(-math.log(frequencies[w] / total) * STEPS)) for w in words]
        return cls(words, np.asarray(costs, np.uint8), facts or {})

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and self.place(word) is not None

    def log_probability(self, word: str) -> float | None:
        """log p of a word; None of one that is not there."""
        place = self.place(word)
        return None if place is None else -float(self.costs[place]) / STEPS

    def place(self, word: str) -> int | None:
        """Its number; None of one that is not there."""
        at = bisect_left(self.words, word)  # a dictionary would take longer to make than all the rest
        return at if at < len(self.words) and self.words[at] == word else None


def pack(lexicons: Mapping[str, Lexicon], path: Path) -> None:
    """Write lexicons into one file."""
    blocks: list[bytes] = []
    index: dict[str, Any] = {}
    at = 0
    for tag, lexicon in sorted(lexicons.items()):
        block = zlib.compress("\n".join(lexicon.words).encode("utf-8") + b"\0" + lexicon.costs.tobytes(), 9)
        index[tag] = {"at": at, "bytes": len(block), "words": len(lexicon), **lexicon.facts}
        blocks.append(block)
        at += len(block)
    head = json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    path.write_bytes(MAGIC + head + b"\n" + b"".join(blocks))


class Lexicons:
    """The lexicons of a file, each unpacked when it is asked for."""

    def __init__(self, path: str | Path) -> None:
        """Map a file.

        Raises:
            DataError: it is missing or not such a file.
        """
        try:
            with Path(path).open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: lexicons cannot be read ({error})") from error
        if self._bytes[: len(MAGIC)] != MAGIC:
            raise DataError(f"{path}: is not a file of lexicons; make one with 'mainspring spell train'")
        end = self._bytes.find(b"\n", len(MAGIC))
        self.index: dict[str, dict[str, Any]] = json.loads(self._bytes[len(MAGIC) : end])
        self._begin = end + 1

    def tags(self) -> Iterable[str]:
        """Languages that it holds."""
        return self.index.keys()

    def load(self, tag: str) -> Lexicon:
        """Unpack one language.

        Raises:
            DataError: it is not there, or its bytes are damaged.
        """
        if tag not in self.index:
            raise DataError(f"there is no lexicon of {tag!r}; {suggest(tag, self.index)}")
        facts = self.index[tag]
        start = self._begin + facts["at"]
        try:
            data = zlib.decompress(self._bytes[start : start + facts["bytes"]])
            count = facts["words"]
            words = data[: len(data) - count - 1].decode("utf-8").split("\n") if count else []
            costs = (
                np.frombuffer(data, np.uint8, count, len(data) - count) if count else np.zeros(0, np.uint8)
            )
        except (zlib.error, UnicodeDecodeError, ValueError) as error:
            raise DataError(
                f"the lexicon of {tag!r} is damaged ({error}); install the package anew"
            ) from error
        if len(words) != count:
            raise DataError(f"the lexicon of {tag!r} is damaged: {len(words)} words, not {count}")
        return Lexicon(words, costs, facts)
