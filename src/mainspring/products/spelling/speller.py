"""The speller: finds the language, the words that are wrong, and what was meant."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import TypeVar

from mainspring.errors import UsageError
from mainspring.products.spelling import parameters as learnt
from mainspring.products.spelling.cases import cases
from mainspring.products.spelling.detect import FEW, Detected, detect, detect_few
from mainspring.products.spelling.engine import Asked, LanguageEngine, engine_of
from mainspring.products.spelling.judge import SHOWN, judge, scores
from mainspring.products.spelling.languages import known_language
from mainspring.products.spelling.letters import normal_word
from mainspring.products.spelling.lexicon import Lexicon, Lexicons
from mainspring.products.spelling.results import Candidate, Correction, WordResult
from mainspring.products.spelling.tokens import LONGEST, like, tokenize

T = TypeVar("T")
LEXICONS = "lexicons.bin"
PARAMETERS = "speller.safetensors"
THRESHOLD = 0.5
"""Probability from which a word is corrected."""
AUTO = "auto"
NOUNS_CAPITALISED = frozenset({"de", "lb", "nds", "gsw"})
_AT_ONCE = 256
_HELD = 8
"""Languages whose indexes are kept in memory."""
_ASKED = 16
"""Languages whose words are kept in memory, to tell languages apart."""


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
        tokens = tokenize(text, nouns_capitalised=found in NOUNS_CAPITALISED)
        words: list[WordResult] = []
        found_cases = cases(tokens, text, engine)
        while pending := list(islice(found_cases, _AT_ONCE)):
            at = words[-1].stop if words else 0
            words += judge(engine, self._parameters.weights, pending, text, threshold, at)
        return Correction(text, _put(text, words), found, confidence, tuple(words))

    def _detect(self, text: str) -> Detected:
        first = islice(tokenize(text), FEW + 1)
        words = [normal_word(t.text) for t in first if t.kind not in ("code", "long")]
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

    def suggest(self, words: Sequence[str], *, language: str, most: int = SHOWN) -> list[list[Candidate]]:
        """Candidates of single words, right or wrong, the likeliest first; what was written may be one.

        Args:
            words: without the text around them; one of more than `LONGEST` letters has no candidates.
            language: BCP 47 tag.
            most: candidates of a word.
        """
        engine = self.engine(known_language(language).tag)
        found: list[list[Candidate]] = [[] for _ in words]
        asked = [(i, normal_word(word)) for i, word in enumerate(words) if len(word) <= LONGEST]
        looked_at = [(i, word) for i, word in asked if word and "\0" not in word]
        for at in range(0, len(looked_at), _AT_ONCE):
            part = looked_at[at : at + _AT_ONCE]
            scored, _ = scores(engine, self._parameters.weights, [Asked(word) for _, word in part])
            for (i, _), candidates in zip(part, scored, strict=True):
                found[i] = [Candidate(like(c.text, words[i]), c.probability) for c in candidates[:most]]
        return found


def _put(text: str, words: Sequence[WordResult]) -> str:
    parts: list[str] = []
    at = 0
    for word in words:
        if word.correction is not None:
            parts += [text[at : word.start], word.correction]
            at = word.stop
    return "".join([*parts, text[at:]])
