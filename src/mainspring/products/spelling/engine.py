"""One language: its words, its channel, and what may have been meant by a string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.products.spelling.bigrams import Bigrams
from mainspring.products.spelling.candidates import Candidates, skeleton
from mainspring.products.spelling.channel import Channel, Words, costs
from mainspring.products.spelling.keyboards import neighbours
from mainspring.products.spelling.languages import Language, known_language
from mainspring.products.spelling.letter_model import LetterModel
from mainspring.products.spelling.letters import ClassTable, encode, letter_class
from mainspring.products.spelling.lexicon import STEPS, Lexicon
from mainspring.products.spelling.parameters import Parameters
from mainspring.products.spelling.rank import FEATURES, UNKNOWN

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SPLIT = FEATURES.index("split")
_CONTEXT = FEATURES.index("context")
_SHORT_PARTS = 2
"""Letters of a part below which a split needs a very common word."""
_COMMON = -7.5


class Asked(NamedTuple):
    """A string to be judged, in lower case, with the words beside it."""

    word: str
    left: str | None = None
    right: str | None = None
    capital: bool = False
    known: bool = False
    """Whether the lexicon has it, so that only its neighbours speak against it."""


class Proposals(NamedTuple):
    """What may have been meant by each of several strings."""

    rows: Ints
    """[C] which string."""
    texts: list[str]
    """[C]"""
    features: Floats
    """[C, F]"""
    unknown: Floats
    """[N, U] of the strings themselves, should they be right."""


class LanguageEngine:
    """What one language needs. The index of candidates is made when the first string is asked for."""

    def __init__(
        self,
        language: Language,
        lexicon: Lexicon,
        channel: Channel,
        bigrams: Bigrams | None = None,
        caution: float = 0.0,
    ) -> None:
        self.caution = caution
        self.language, self.lexicon, self.bigrams = language, lexicon, bigrams
        near = neighbours(language.tag, language.script)
        self.channel = channel.with_keys(near, {c: letter_class(c) for c in {*near, *"".join(near.values())}})
        self._table = ClassTable()
        self._candidates: Candidates | None = None
        self._letters: LetterModel | None = None
        self.unknown_share = float(lexicon.facts.get("unknown", 0.1))

    def known(self, word: str) -> bool:
        """Whether a word, in the form of `normal_word`, is right as far as the lexicon tells; parts
        between apostrophes count where the whole is not there (l'homme, Anna's)."""
        if word in self.lexicon:
            return True
        if "'" not in word:
            return False
        return all(
            part in self.lexicon or len(part) == 1 or part in _CLITICS for part in word.split("'") if part
        )

    def suspicious(self, word: str, left: str | None, right: str | None) -> bool:
        """Whether a known word was met beside neither of its neighbours, which are known themselves."""
        if self.bigrams is None or len(word) < 3 or left is None or right is None:
            return False
        if left not in self.lexicon or right not in self.lexicon:
            return False
        return self.bigrams.ratio(left, word) is None and self.bigrams.ratio(word, right) is None

    def propose(self, asked: Sequence[Asked], most: int | None = None) -> Proposals:
        """Candidates with features for each string."""
        index = self._index()
        words = [a.word for a in asked]
        found = index.find(words) if most is None else index.find(words, most)
        codes, lengths = encode(words)
        classes = self._table.of(codes)
        typed = Words(codes, classes, lengths)
        meant = Words(index.codes, index.classes, index.lengths)
        rows, places = found.row, found.place
        cost = costs(self.channel, typed.rows(rows), meant.rows(places)).astype(np.float64)
        frequency = -self.lexicon.costs[places].astype(np.float64) / STEPS
        sounds = skeleton(classes)
        theirs = skeleton(index.classes[places])
        texts = [self.lexicon.words[i] for i in places.tolist()]
        features = np.zeros((len(rows), len(FEATURES)))
        features[:, 0], features[:, 1] = -cost, frequency
        features[:, 2] = codes[rows, 0] != index.codes[places, 0]
        features[:, 3] = np.abs(lengths[rows] - index.lengths[places])
        features[:, 4] = (sounds[rows] == theirs).all(axis=1)
        features[:, 5] = lengths[rows]
        features[:, 6] = cost == 0
        near = cost < 18.0 + 1.0 * lengths[rows]
        rows, features = rows[near], features[near]
        texts = [text for text, keep in zip(texts, near.tolist(), strict=True) if keep]
        rows, texts, features = self._with_splits(words, lengths, rows, texts, features)
        self._add_context(asked, rows, texts, features)
        return Proposals(rows, texts, features, self._unknown(asked, lengths))

    def _index(self) -> Candidates:
        if self._candidates is None:
            self._candidates = Candidates(self.lexicon, self._table)
        return self._candidates

    def _unknown(self, asked: Sequence[Asked], lengths: NDArray[np.int32]) -> Floats:
        if self._letters is None:
            self._letters = LetterModel(self.lexicon)
        unknown = np.ones((len(asked), len(UNKNOWN)))
        unknown[:, 1] = self._letters.log_probabilities([a.word for a in asked])
        unknown[:, 2] = np.log(self.unknown_share) + self.caution
        unknown[:, 3] = lengths
        unknown[:, 4] = [a.capital for a in asked]
        return unknown

    def _with_splits(
        self, words: list[str], lengths: NDArray[np.int32], rows: Ints, texts: list[str], features: Floats
    ) -> tuple[Ints, list[str], Floats]:
        """Also the ways to part a string into two words."""
        more_rows, more_texts, more = [], [], []
        for row, word in enumerate(words):
            for left, right, frequency in self.splits(word):
                values = np.zeros(len(FEATURES))
                values[1], values[5], values[_SPLIT] = frequency, len(word), 1.0
                more_rows.append(row)
                more_texts.append(f"{left} {right}")
                more.append(values)
        if not more:
            return rows, texts, features
        every = np.concatenate([rows, np.asarray(more_rows, np.int64)])
        order = np.argsort(every, kind="stable")
        both = [*texts, *more_texts]
        return (
            every[order],
            [both[i] for i in order.tolist()],
            np.concatenate([features, np.stack(more)])[order],
        )

    def splits(self, word: str) -> list[tuple[str, str, float]]:
        """The best two ways to part a string into words, with the sum of their log probabilities."""
        found = []
        for cut in range(1, len(word)):
            left, right = word[:cut], word[cut:]
            a, b = self.lexicon.log_probability(left), self.lexicon.log_probability(right)
            if a is None or b is None:
                continue
            if (len(left) <= _SHORT_PARTS and a < _COMMON) or (len(right) <= _SHORT_PARTS and b < _COMMON):
                continue
            bonus = 0.0
            if self.bigrams is not None:
                ratio = self.bigrams.ratio(left, right)
                bonus = -3.0 if ratio is None else ratio
            found.append((left, right, a + b + bonus))
        return sorted(found, key=lambda s: -s[2])[:2]

    def _add_context(self, asked: Sequence[Asked], rows: Ints, texts: list[str], features: Floats) -> None:
        if self.bigrams is None or not any(a.left or a.right for a in asked):
            return
        for at, (row, text) in enumerate(zip(rows.tolist(), texts, strict=True)):
            one = asked[row]
            if one.left or one.right:
                first, last = text.split(" ")[0], text.split(" ")[-1]
                total = 0.0
                if one.left:
                    total += self.bigrams.beside(one.left, first, None)
                if one.right:
                    total += self.bigrams.beside(None, last, one.right)
                features[at, _CONTEXT] = total


def engine_of(lexicon: Lexicon, parameters: Parameters, tag: str) -> LanguageEngine:
    """What a language needs, from its words and what was learnt."""
    language = known_language(tag)
    return LanguageEngine(
        language,
        lexicon,
        parameters.channel(language.family),
        parameters.bigrams.get(language.tag),
        parameters.caution.get(language.tag, 0.0),
    )


_CLITICS = frozenset(
    {"qu", "all", "dell", "nell", "sull", "dall", "quell", "un", "re", "ve", "ll", "jusqu", "lorsqu",
     "puisqu"}
)  # fmt: skip
"""Parts before or after an apostrophe that lists of words may lack."""
