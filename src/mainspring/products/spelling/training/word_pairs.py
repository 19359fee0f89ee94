"""Pairs of neighbouring words, from the counts that come with symspellpy (Google Books, CC BY 3.0)."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

from mainspring.errors import require
from mainspring.products.spelling.bigrams import Bigrams

_TOTAL = 1_024_908_267_229.0
"""Words of the corpus that both lists were counted in."""


def english(data: Path) -> Bigrams:
    """Log ratios of English pairs; none where the words' own counts are absent.

    Raises:
        MissingExtraError: symspellpy is not installed.
    """
    package = require("symspellpy", "spell-train")
    single = data / "spelling/frequency/en-80k.txt.gz"
    if not single.exists():
        return Bigrams.of({})
    rows = [line.split() for line in gzip.decompress(single.read_bytes()).decode("utf-8-sig").splitlines()]
    counts = {row[0]: float(row[1]) for row in rows if len(row) == 2}
    file = Path(str(package.__file__)).parent / "frequency_bigramdictionary_en_243_342.txt"
    ratios: dict[tuple[str, str], float] = {}
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        a, b, count = line.split()
        if a in counts and b in counts:
            ratios[a, b] = math.log(float(count) * _TOTAL / (counts[a] * counts[b]))
    return Bigrams.of(ratios)
