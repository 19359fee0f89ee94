"""Parallel text: line n of one file with line n of another, encoded once and read in any order.

A corpus is kept as one array of tokens with the ends of each side, in a folder; opened, it is mapped, not
read. Row k holds the neighbouring pairs k n .. k n + n - 1, so that what stands together in the text may be
used together; rows come in an order that depends on the seed and the epoch alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mainspring.data.batch import TokenBatch
from mainspring.data.pair_batch import TextPair, pair_batch
from mainspring.data.permute import key_of, permute
from mainspring.errors import DataError
from mainspring.text.tokenizer import Tokenizer

_FACTS, _TOKENS, _ENDS = "pairs.json", "tokens.npy", "ends.npy"


def read_pairs(
    source: str | Path, target: str | Path, *, encoding: str = "utf-8"
) -> Iterator[tuple[str, str]]:
    """The pairs of two files, line n to line n; those with an empty side are left out.

    Raises:
        DataError: a file cannot be read, or they differ in their number of lines.
    """
    try:
        with Path(source).open(encoding=encoding) as left, Path(target).open(encoding=encoding) as right:
            for number, (one, two) in enumerate(zip_longest(left, right), start=1):
                if one is None or two is None:
                    longer, shorter = (source, target) if two is None else (target, source)
                    raise DataError(
                        f"{longer} goes on at line {number}, where {shorter} has ended: line n of one has to "
                        "be the translation of line n of the other"
                    )
                if one.strip() and two.strip():
                    yield one.strip(), two.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}, {target}: {error}") from error


@dataclass(frozen=True)
class PairData:
    """Encoded pairs of one direction."""

    tokens: NDArray[np.int32]
    """All sides one after another: source, target, source, target, ..."""
    ends: NDArray[np.int64]
    """Where each side ends in `tokens`, [2 N]."""
    langs: tuple[int, int]
    """Language index of sources and of targets."""
    tokenizer_hash: str
    """Of the tokenizer that they were encoded with."""

    @classmethod
    def encode(
        cls,
        pairs: Iterable[tuple[str, str]],
        tokenizer: Tokenizer,
        *,
        langs: tuple[int, int] = (0, 0),
        max_tokens: int = 254,
    ) -> PairData:
        """Encode pairs, in their order.

        Args:
            pairs: texts.
            tokenizer: its special tokens are not added.
            langs: language index of the two sides.
            max_tokens: longest side; longer ones are cut.

        Raises:
            DataError: there is no pair.
        """
        sides: list[NDArray[np.int32]] = []
        for source, target in pairs:
            encoded = tokenizer.encode_batch([source, target])
            both = [np.asarray(ids[:max_tokens], np.int32) for ids in encoded]
            if all(len(ids) for ids in both):
                sides += both
        if not sides:
            raise DataError("there is no pair of two texts that have a token each")
        ends = np.cumsum([len(side) for side in sides], dtype=np.int64)
        return cls(np.concatenate(sides), ends, langs, tokenizer.hash)

    def save(self, folder: str | Path) -> Path:
        """Write the pairs into a folder; the file that makes it complete comes last."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        np.save(path / _TOKENS, self.tokens)
        np.save(path / _ENDS, self.ends)
        facts = {"pairs": self.count, "langs": self.langs, "tokenizer": self.tokenizer_hash}
        (path / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        return path

    @classmethod
    def open(cls, folder: str | Path) -> PairData:
        """Map the pairs of a folder that `save` wrote.

        Raises:
            DataError: it is none, or incomplete.
        """
        path = Path(folder)
        try:
            facts = json.loads((path / _FACTS).read_text(encoding="utf-8"))
            tokens = np.load(path / _TOKENS, mmap_mode="r")
            ends = np.load(path / _ENDS, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: no encoded pairs: {error}") from error
        if len(ends) != 2 * facts["pairs"] or (len(ends) and ends[-1] != len(tokens)):
            raise DataError(
                f"{path}: incomplete: {facts['pairs']} pairs expected, {len(ends) // 2} found, with "
                f"{len(tokens)} tokens; write it again"
            )
        first, second = facts["langs"]
        return cls(tokens, ends, (first, second), facts["tokenizer"])

    @property
    def count(self) -> int:
        """Number of pairs."""
        return len(self.ends) // 2

    def pair(self, index: int) -> TextPair:
        """One pair."""
        bounds = [0 if index == 0 else int(self.ends[2 * index - 1]), *self.ends[2 * index : 2 * index + 2]]
        source, target = (self.tokens[a:b].astype(np.int64) for a, b in pairwise(bounds))
        return TextPair(source, target, *self.langs)

    def rows(self, seed: int, start: int, stop: int, *, per_row: int = 1, pad: int = 0) -> TokenBatch:
        """Rows start .. stop-1 of the global order: each epoch walks all rows once, in an order of its own.

        Args:
            seed: of the order.
            start, stop: global indices; a rank takes its own slice.
            per_row: neighbouring pairs of a row; pairs that fill no row at the end are left out.
            pad: fills rows up.

        Raises:
            DataError: there are fewer pairs than a row takes.
        """
        total = self.count // per_row
        if total == 0:
            raise DataError(f"a row takes {per_row} pairs and there are {self.count}")
        index = np.arange(start, stop)
        keys = np.array([key_of("pairs", seed, int(epoch)) for epoch in index // total], dtype=np.uint64)
        places = permute(index % total, np.full(len(index), total), keys)
        chosen = [self.pair(int(row) * per_row + k) for row in places for k in range(per_row)]
        return pair_batch(chosen, per_row=per_row, pad=pad)
