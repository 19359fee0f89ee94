"""Parallel text of one direction, encoded once: a text and its translation, pair by pair.

A corpus is kept as one array of tokens with the ends of each side, in a folder; opened, it is mapped, not
read. Row k of n holds the neighbouring pairs k n .. k n + n - 1, so that what stands together in the text may
be used together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mainspring.data.pair_batch import TextPair
from mainspring.errors import DataError
from mainspring.text.tokenizer import Tokenizer

FACTS = "pairs.json"
"""The file that tells a folder of pairs."""

_TOKENS, _ENDS = "tokens.npy", "ends.npy"


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
    digest: str
    """Hash of the tokens and their ends."""

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
        tokens = np.concatenate(sides)
        digest = hashlib.sha256(tokens.tobytes() + ends.tobytes()).hexdigest()
        return cls(tokens, ends, langs, tokenizer.hash, digest)

    def save(self, folder: str | Path) -> Path:
        """Write the pairs into a folder; the file that makes it complete comes last."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        np.save(path / _TOKENS, self.tokens)
        np.save(path / _ENDS, self.ends)
        facts = {
            "pairs": self.count,
            "langs": self.langs,
            "tokenizer": self.tokenizer_hash,
            "digest": self.digest,
        }
        (path / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        return path

    @classmethod
    def open(cls, folder: str | Path) -> PairData:
        """Map the pairs of a folder that `save` wrote.

        Raises:
            DataError: it is none, or incomplete.
        """
        path = Path(folder)
        try:
            facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
            tokens = np.load(path / _TOKENS, mmap_mode="r")
            ends = np.load(path / _ENDS, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: no encoded pairs: {error}") from error
        if missing := {"pairs", "langs", "tokenizer", "digest"} - set(facts):
            raise DataError(
                f"{path}/{FACTS} lacks {', '.join(sorted(missing))}: another version of Mainspring wrote it. "
                "Write the pairs again with mainspring data pairs"
            )
        if len(ends) != 2 * facts["pairs"] or (len(ends) and ends[-1] != len(tokens)):
            raise DataError(
                f"{path}: incomplete: {facts['pairs']} pairs expected, {len(ends) // 2} found, with "
                f"{len(tokens)} tokens; write it again"
            )
        first, second = facts["langs"]
        return cls(tokens, ends, (first, second), facts["tokenizer"], facts["digest"])

    @property
    def count(self) -> int:
        """Number of pairs."""
        return len(self.ends) // 2

    def pair(self, index: int) -> TextPair:
        """One pair."""
        bounds = [0 if index == 0 else int(self.ends[2 * index - 1]), *self.ends[2 * index : 2 * index + 2]]
        source, target = (self.tokens[a:b].astype(np.int64) for a, b in pairwise(bounds))
        return TextPair(source, target, *self.langs)

    def neighbours(self, row: int, count: int) -> list[TextPair]:
        """The pairs of a row of so many neighbours."""
        return [self.pair(row * count + k) for k in range(count)]
