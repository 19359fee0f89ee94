"""An encoder whose vectors are counts of words, so that what is near can be worked out by hand."""

import re
import zlib
from collections.abc import Sequence

import numpy as np

from mainspring.products.search.documents import Span
from mainspring.products.search.encoder import Parts


class HashedWords:
    """A word is a direction; a synonym may be given another word's."""

    def __init__(self, dim: int = 256, synonyms: dict[str, str] | None = None, name: str = "hashed") -> None:
        self.dim, self.name = dim, name
        self.synonyms = synonyms or {}
        self.texts = 0

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._vector(text) for text in texts])

    def encode_parts(self, texts: Sequence[str], parts: Sequence[Sequence[Span]]) -> list[Parts]:
        self.texts += len(texts)
        found = []
        for text, spans in zip(texts, parts, strict=True):
            rows = [self._vector(text[a:b]) for a, b in spans]
            found.append(
                Parts(self._vector(text), np.stack(rows) if rows else np.zeros((0, self.dim), np.float32))
            )
        return found

    def _vector(self, text: str) -> np.ndarray:
        vector = np.zeros(self.dim, np.float32)
        for word in re.findall(r"\w+", text.lower()):
            vector[zlib.crc32(self.synonyms.get(word, word).encode()) % self.dim] += 1
        return vector / max(1e-6, float(np.linalg.norm(vector)))
