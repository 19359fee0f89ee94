"""The speller: finds the language, the words that are wrong, and what was meant."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import UsageError
from mainspring.products.spelling import parameters as learnt
from mainspring.products.spelling.detect import FEW, Detected, detect, detect_few
from mainspring.products.spelling.engine import Asked, LanguageEngine, Proposals, engine_of
from mainspring.products.spelling.languages import known_language
from mainspring.products.spelling.letters import normal_word
from mainspring.products.spelling.lexicon import Lexicon, Lexicons
from mainspring.products.spelling.rank import probabilities
from mainspring.products.spelling.results import Candidate, Correction, WordResult
from mainspring.products.spelling.technical import TECHNICAL
from mainspring.products.spelling.tokens import Token, like, tokenize

T = TypeVar("T")
LEXICONS = "lexicons.bin"
PARAMETERS = "speller.safetensors"
JOINED = 0.9
"""Probability that is given to a word in two parts that are none, or of which one is none."""
REAL_WORD = 0.8
"""Probability from which a known word is corrected, whatever the threshold below."""
TRUST = 6.0
"""Score of a known word above that of what it might be a slip for: the log odds that it is right."""
THRESHOLD = 0.5
"""Probability from which a word is corrected."""
AUTO = "auto"
_NOUNS_CAPITALISED = frozenset({"de", "lb", "nds", "gsw"})
_AT_ONCE = 256
_HELD = 8
"""Languages whose indexes are kept in memory."""
_ASKED = 16
"""Languages whose words are kept in memory, to tell languages apart."""
_SHOWN = 5


class _Case(NamedTuple):
    """A word of a text that is looked into."""

    token: Token
    asked: Asked
    whole: str | None = None
    """A word of the lexicon that it makes with its neighbour."""
    start: int = 0
    """Where that word begins in the text,"""
    stop: int = 0
    """and ends."""


class Speller:
    """Corrects spelling. Any number of threads may use one.

    >>> speller = Speller.load()
    >>> speller.correct("recieve the pakage", language="en").corrected
    'receive the package'
    """

    def __init__(self, lexicons: Lexicons, parameters: learnt.Parameters) -> None:
        """Take what was learnt."""
        self._lexicons, self._parameters = lexicons, parameters
        self._engines: OrderedDict[str, LanguageEngine] = OrderedDict()
        self._words: OrderedDict[str, Lexicon] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Speller:
        """The speller that ships with the package, or what `mainspring spell train` wrote to a folder.

        Raises:
            DataError: the folder has no speller, or its files are damaged.
        """
        place = (
            Path(str(files("mainspring.products.spelling").joinpath("data")))
            if folder is None
            else Path(folder)
        )
        return cls(Lexicons(place / LEXICONS), learnt.load(place / PARAMETERS))

    @property
    def languages(self) -> list[str]:
        """Tags of the languages that have a lexicon here."""
        return sorted(self._lexicons.tags())

    def correct(self, text: str, *, language: str = AUTO, threshold: float = THRESHOLD) -> Correction:
        """Correct a text.

        Args:
            text: a query, a sentence, or whole documents; the time is linear in its length.
            language: BCP 47 tag; `auto` finds it from the text.
            threshold: probability from which a word is corrected, above 0 and below 1: higher corrects less
                and is more often right.

        Raises:
            UsageError: the language is not one that is corrected, or the threshold is outside of its range.
            MissingExtraError: the language is to be found and py3langid is not installed.
        """
        if not 0 < threshold < 1:
            raise UsageError(f"threshold = {threshold}: should be above 0 and below 1; 0.5 is usual")
        if language == AUTO:
            found, confidence = self._detect(text)
        else:
            found, confidence = known_language(language).tag, 1.0
        if found == "und" or found not in self._lexicons.index:
            return Correction(text, text, "und" if found == "und" else found, confidence, ())
        engine = self.engine(found)
        tokens = tokenize(text, nouns_capitalised=found in _NOUNS_CAPITALISED)
        words: list[WordResult] = []
        cases = _cases(tokens, text, engine)
        while pending := list(islice(cases, _AT_ONCE)):
            words += self._judge(engine, pending, text, threshold, words[-1].stop if words else 0)
        return Correction(text, _put(text, words), found, confidence, tuple(words))

    def _detect(self, text: str) -> Detected:
        words = [normal_word(t.text) for t in islice(tokenize(text), FEW + 1) if t.kind != "code"]
        return detect(text) if len(words) > FEW else detect_few(text, words, self._lexicon)

    def _lexicon(self, tag: str) -> Lexicon | None:
        """Words of a language, kept while it is among those asked last."""
        if tag not in self._lexicons.index:
            return None
        with self._lock:
            if tag in self._engines:
                return self._engines[tag].lexicon
        return self._recent(self._words, tag, _ASKED, lambda: self._lexicons.load(tag))

    def engine(self, tag: str) -> LanguageEngine:
        """What a language needs, kept while it is among those used last."""

        def make() -> LanguageEngine:
            known = known_language(tag).tag
            lexicon = self._lexicon(known)
            if lexicon is None:
                lexicon = self._lexicons.load(known)  # which says what there is instead
            return engine_of(lexicon, self._parameters, known)

        return self._recent(self._engines, tag, _HELD, make)

    def _recent(self, held: OrderedDict[str, T], tag: str, most: int, make: Callable[[], T]) -> T:
        """What is held of a language, or is made and then held among the `most` used last."""
        with self._lock:
            if tag in held:
                held.move_to_end(tag)
                return held[tag]
        made = make()  # another language need not wait for it
        with self._lock:
            made = held.setdefault(tag, made)
            while len(held) > most:
                held.popitem(last=False)
        return made

    def suggest(self, words: Sequence[str], *, language: str, most: int = _SHOWN) -> list[list[Candidate]]:
        """Candidates of single words, right or wrong, the likeliest first; what was written may be one.

        Args:
            words: without the text around them.
            language: BCP 47 tag.
            most: candidates of a word.
        """
        engine = self.engine(known_language(language).tag)
        found: list[list[Candidate]] = []
        for at in range(0, len(words), _AT_ONCE):
            part = words[at : at + _AT_ONCE]
            scored, _ = self._scores(engine, [Asked(normal_word(word)) for word in part])
            for word, candidates in zip(part, scored, strict=True):
                found.append([Candidate(like(c.text, word), c.probability) for c in candidates[:most]])
        return found

    def _scores(
        self, engine: LanguageEngine, asked: Sequence[Asked]
    ) -> tuple[list[list[Candidate]], list[float]]:
        """Candidates of each string by probability, and the probability that each is right."""
        made = engine.propose(asked)
        weights = self._parameters.weights
        added = _trust(asked, made)
        chance, stays = probabilities(weights, made.rows, made.features, made.unknown, added)
        scored: list[list[Candidate]] = [[] for _ in asked]
        for row, text, value in zip(made.rows.tolist(), made.texts, chance.tolist(), strict=True):
            scored[row].append(Candidate(text, value))
        for candidates in scored:
            candidates.sort(key=lambda c: -c.probability)
        return scored, stays.tolist()

    def _judge(
        self, engine: LanguageEngine, cases: Sequence[_Case], text: str, threshold: float, at: int
    ) -> list[WordResult]:
        """Results of cases, the text up to `at` being settled."""
        scored, _ = self._scores(engine, [case.asked for case in cases])
        results: list[WordResult] = []
        for case, candidates in zip(cases, scored, strict=True):
            if case.token.start < at:
                continue  # it was joined with the word before it
            if case.whole is not None and case.start < at:
                case = case._replace(whole=None)  # its neighbour is another word's
            result = _real_word(case, candidates, threshold) if case.asked.known else None
            if not case.asked.known:
                result = _result(case, candidates, text, threshold)
            if result is not None:
                results.append(result)
                at = result.stop
        return results


def _cases(tokens: Iterable[Token], text: str, engine: LanguageEngine) -> Iterator[_Case]:
    """The words that are looked into: those that the lexicon does not have."""
    before: Token | None = None
    held: Token | None = None
    after = iter(tokens)
    held = next(after, None)
    while held is not None:
        following = next(after, None)
        case = _case(before, held, following, text, engine)
        if case is not None:
            yield case
        before, held = held, following


def _case(
    before: Token | None, token: Token, following: Token | None, text: str, engine: LanguageEngine
) -> _Case | None:
    if token.kind != "word":
        return None
    word = normal_word(token.text)
    if len(word) < 2 or word in TECHNICAL:
        return None
    left = normal_word(before.text) if before is not None and _adjacent(text, before, token) else None
    right = None
    if following is not None and _adjacent(text, token, following):
        right = normal_word(following.text)
    if engine.known(word):
        doubtful = engine.suspicious(word, left, right)
        return _Case(token, Asked(word, left, right, known=True)) if doubtful else None
    case = _Case(token, Asked(word, left, right, capital=token.text[:1].isupper()))
    if right is not None and following is not None and _joins(token, following, text, engine):
        return case._replace(whole=word + right, start=token.start, stop=following.stop)
    if left is not None and before is not None and _joins(before, token, text, engine):
        return case._replace(whole=left + word, start=before.start, stop=token.stop)
    return case


def _joins(first: Token, second: Token, text: str, engine: LanguageEngine) -> bool:
    """Whether two words with one blank between them make a word."""
    both = first.kind == second.kind == "word" and text[first.stop : second.start] == " "
    return both and normal_word(first.text) + normal_word(second.text) in engine.lexicon


def _adjacent(text: str, first: Token, second: Token) -> bool:
    """Whether nothing but blanks stands between two words."""
    return second.start - first.stop <= 3 and not text[first.stop : second.start].strip()


def _result(case: _Case, candidates: list[Candidate], text: str, threshold: float) -> WordResult:
    token = case.token
    shown = tuple(Candidate(like(c.text, token.text), c.probability) for c in candidates[:_SHOWN])
    best = shown[0] if shown else None
    if case.whole is not None and (best is None or best.probability < JOINED):
        written = text[case.start : case.stop]
        whole = Candidate(like(case.whole, written), JOINED)
        correction = whole.text if threshold <= JOINED else None
        return WordResult(case.start, case.stop, written, (whole, *shown[: _SHOWN - 1]), correction, "join")
    correction = best.text if best is not None and best.probability >= threshold else None
    if correction == token.text:
        correction = None
    kind = "split" if correction is not None and " " in correction else "nonword"
    return WordResult(token.start, token.stop, token.text, shown, correction, kind)


def _trust(asked: Sequence[Asked], made: Proposals) -> NDArray[np.float64]:
    """What a known word has before other known words, as a score."""
    own = [
        asked[row].known and text == asked[row].word for row, text in zip(made.rows, made.texts, strict=True)
    ]
    return np.where(own, TRUST, 0.0)


def _real_word(case: _Case, candidates: list[Candidate], threshold: float) -> WordResult | None:
    """A known word that another one fits better in its place; None where none surely does."""
    token = case.token
    shown = tuple(Candidate(like(c.text, token.text), c.probability) for c in candidates[:_SHOWN])
    best = shown[0] if shown else None
    if (
        best is None
        or " " in best.text
        or best.text == token.text
        or best.probability < max(threshold, REAL_WORD)
    ):
        return None
    return WordResult(token.start, token.stop, token.text, shown, best.text, "realword")


def _put(text: str, words: Sequence[WordResult]) -> str:
    parts: list[str] = []
    at = 0
    for word in words:
        if word.correction is not None:
            parts += [text[at : word.start], word.correction]
            at = word.stop
    return "".join([*parts, text[at:]])
