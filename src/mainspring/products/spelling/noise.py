"""Misspellings made up: letters rotated, inserted, deleted, replaced; words parted and joined; slips of keys,
lost marks, letters that sound alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from mainspring.products.spelling.keyboards import neighbours
from mainspring.products.spelling.languages import Language
from mainspring.products.spelling.letters import without_marks

Noise = Callable[[str, Language, np.random.Generator], str]
_ALIKE = ("aeo", "iey", "ou", "bp", "dt", "ckq", "sz", "fv", "mn", "gj", "vw")


def rotate(word: str, language: Language, rng: np.random.Generator) -> str:
    """Two neighbouring letters exchanged, the first left where it is in words of four letters or more."""
    first = 1 if len(word) > 3 else 0
    places = [i for i in range(first, len(word) - 1) if word[i] != word[i + 1]]
    if not places:
        return word
    i = int(rng.choice(places))
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def insert(word: str, language: Language, rng: np.random.Generator) -> str:
    """A letter too many: doubled, or that of a neighbouring key."""
    i = int(rng.integers(len(word)))
    near = neighbours(language.tag, language.script).get(word[i], "")
    extra = word[i] if not near or rng.random() < 0.6 else str(rng.choice(list(near)))
    return word[: i + 1] + extra + word[i + 1 :]


def delete(word: str, language: Language, rng: np.random.Generator) -> str:
    """A letter left out, seldom the first."""
    if len(word) < 3:
        return word
    i = int(rng.integers(1 if rng.random() < 0.9 else 0, len(word)))
    return word[:i] + word[i + 1 :]


def replace(word: str, language: Language, rng: np.random.Generator) -> str:
    """A letter typed as another one of the word's language: of a neighbouring key where keys are known."""
    i = int(rng.integers(len(word)))
    near = neighbours(language.tag, language.script).get(word[i], "")
    choices = list(near) or [c for c in set(word) if c != word[i]]
    return word[:i] + str(rng.choice(choices)) + word[i + 1 :] if choices else word


def unmark(word: str, language: Language, rng: np.random.Generator) -> str:
    """Without its diacritics."""
    return without_marks(word)


def sound(word: str, language: Language, rng: np.random.Generator) -> str:
    """A letter as one that sounds alike, of the letters that the word's alphabet has for it."""
    places = [(i, group) for i, c in enumerate(word) for group in _ALIKE if c in group]
    if not places:
        return replace(word, language, rng)
    i, group = places[int(rng.integers(len(places)))]
    other = str(rng.choice([c for c in group if c != word[i]]))
    return word[:i] + other + word[i + 1 :]


def part(word: str, language: Language, rng: np.random.Generator) -> str:
    """A blank within."""
    if len(word) < 4:
        return word
    i = int(rng.integers(1, len(word)))
    return f"{word[:i]} {word[i:]}"


NOISES: Mapping[str, Noise] = MappingProxyType(
    {
        "rotate": rotate,
        "insert": insert,
        "delete": delete,
        "replace": replace,
        "unmark": unmark,
        "sound": sound,
    }
)
"""Noises of a single word that keep it one word, by name."""
SHARES: Mapping[str, float] = MappingProxyType(
    {"delete": 0.30, "insert": 0.17, "replace": 0.16, "rotate": 0.15, "sound": 0.14, "unmark": 0.08}
)
"""How often each is made."""


def misspell(word: str, language: Language, rng: np.random.Generator) -> str:
    """A misspelling of a word; the word itself where none could be made."""
    names = list(SHARES)
    odds = np.array([SHARES[n] for n in names])
    for _ in range(6):
        name = str(rng.choice(names, p=odds / odds.sum()))
        made = NOISES[name](word, language, rng)
        if made != word:
            return made
    return word
