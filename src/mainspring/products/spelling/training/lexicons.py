"""Lexicons from frequency lists, word lists and running text, cleaned of misspellings.

Sources, with what each may be used for: wordfreq 3.1.1 (data CC BY-SA 4.0), simplemma 2.0 (word forms under
CC BY-SA, ODbL and CC BY), SCOWL as Debian packages it (free with notice), SymSpell's lists (MIT), Tatoeba's
test set (CC BY 2.0 FR), the Universal Declaration of Human Rights (public domain).
"""

from __future__ import annotations

import gzip
import heapq
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mainspring.errors import require
from mainspring.products.spelling.languages import Language
from mainspring.products.spelling.letters import normal_word, without_marks
from mainspring.products.spelling.lexicon import Lexicon
from mainspring.products.spelling.tokens import script_of, tokenize
from mainspring.products.spelling.training.pairs import Pair, half

SCOWL = Path("/usr/share/dict/scowl")
"""Where Debian's package scowl lies."""
_SCOWL_LEVELS = ("10", "20", "35", "40", "50", "55", "60", "70")
_SIZES = {
    "en": 110_000,
    "de": 90_000,
    "ru": 90_000,
    "fi": 80_000,
    "pl": 70_000,
    "cs": 70_000,
    "uk": 70_000,
    "ar": 70_000,
}
_SIZE = 55_000
_FORMS = 60_000
_UNMET = 0.2
_WORDFREQ = {"fil": "fil", "hr": "sh", "bs": "sh", "sr": "sh"}
_SIMPLEMMA = {"hr": "hbs", "bs": "hbs", "fil": "tl"}
_NOT_SIMPLEMMA = frozenset({"ar", "en", "de", "ru", "fa", "he", "sw"})
_REPEATED = re.compile(r"(.)\1\1")
_SCRIPTS = {
    "Latn": "LATIN", "Cyrl": "CYRILLIC", "Arab": "ARABIC", "Hebr": "HEBREW", "Grek": "GREEK", "Deva":
    "DEVANAGARI", "Beng": "BENGALI", "Gujr": "GUJARATI", "Guru": "GURMUKHI", "Knda": "KANNADA", "Mlym":
    "MALAYALAM", "Taml": "TAMIL", "Telu": "TELUGU", "Ethi": "ETHIOPIC", "Armn": "ARMENIAN", "Geor":
    "GEORGIAN", "Hang": "HANGUL",
}  # fmt: skip


class Lists(NamedTuple):
    """What is known of a language's words without running text."""

    frequencies: dict[str, float]
    """Of a frequency list, cleaned and cut; empty where there is none."""
    lemma_of: dict[str, str]
    """Forms with their lemmas, where there is no frequency list."""
    sources: tuple[str, ...]
    pairs: int
    """Misspellings of the learning half."""


def lists_of(language: Language, data: Path | None, pairs: Mapping[tuple[str, str], list[Pair]]) -> Lists:
    """The lists of a language.

    Args:
        language: which.
        data: folder of test data, None where there is none.
        pairs: misspellings; those of the learning half tell words that are none.

    Raises:
        MissingExtraError: the packages of lists are not installed.
    """
    wrongs = {
        p.wrong
        for (tag, _), rows in pairs.items()
        if tag.split("-")[0] == language.tag
        for p in rows
        if half(p.right) == 0
    }
    listed = _wordfreq(language)
    if not listed:
        lemma_of = _simplemma(language)
        return Lists({}, lemma_of, ("simplemma",) if lemma_of else (), len(wrongs))
    known: set[str] = set()
    if language.tag == "en":
        known = _scowl()
        if data is not None:
            more = _symspell(data / "spelling/frequency/en-80k.txt.gz")
            listed = {**more, **listed}
            known |= set(more)
    cleaned = clean(_only(listed, language), wrongs, known)
    frequencies = _sized(cleaned, _SIZES.get(language.tag, _SIZE), known)
    return Lists(frequencies, {}, ("wordfreq", "SCOWL") if known else ("wordfreq",), len(wrongs))


def build(language: Language, text: Sequence[str], lists: Lists, named: Sequence[str] = ()) -> Lexicon:
    """The lexicon of a language, with what it was made from and how much of running text it leaves unknown.

    Args:
        language: which.
        text: sentences, whose words it has too.
        lists: what else is known of its words.
        named: where the text is from.
    """
    counts = _only(_counts(text), language)
    forms = set(_forms(lists.lemma_of, counts))
    frequencies = dict(lists.frequencies)
    met = {**dict.fromkeys(forms, _UNMET), **counts}
    total, most = sum(frequencies.values()) or 1.0, sum(met.values()) or 1.0
    share = 0.02 if lists.frequencies else 1.0
    for word, count in _only(met, language).items():
        if not lists.frequencies or word in frequencies or count >= 2:
            frequencies[word] = frequencies.get(word, 0.0) + share * total * count / most
    whole = bool(lists.frequencies)
    unknown = _unknown_share(counts, frequencies if whole else forms, whole)
    facts = {"sources": [*named, *lists.sources], "unknown": round(unknown, 4), "pairs": lists.pairs}
    return Lexicon.of(frequencies, facts)


def clean(
    counts: Mapping[str, float], wrongs: Collection[str], known: Collection[str] = ()
) -> dict[str, float]:
    """A frequency list without what is likelier a slip for a far more frequent word.

    Left out are known misspellings; words that another word becomes by losing its marks, where that is ten
    times as frequent; by exchanging neighbours or (un)doubling a letter, three hundred times.

    Args:
        counts: words with frequencies.
        wrongs: known misspellings.
        known: words that stay whatever their frequency.
    """
    kept = dict(counts)
    plain: dict[str, float] = {}
    for word, count in counts.items():
        base = without_marks(word)
        if base != word:
            plain[base] = max(plain.get(base, 0.0), count)
    for word, count in counts.items():
        if word in known:
            continue
        if word in wrongs or plain.get(word, 0.0) > 10 * count or _slip(word, count, counts):
            del kept[word]
    return kept


def _slip(word: str, count: float, counts: Mapping[str, float]) -> bool:
    most = 300 * count
    if len(word) < 5:
        return False
    for i in range(1, len(word) - 1):
        a, b = word[i], word[i + 1]
        if a != b and counts.get(word[:i] + b + a + word[i + 2 :], 0.0) > most:
            return True
        if a == b and counts.get(word[:i] + word[i + 1 :], 0.0) > most:
            return True
        if a != b and word[i - 1] != a and counts.get(word[: i + 1] + word[i:], 0.0) > most:
            return True
    return False


def _only(counts: Mapping[str, float], language: Language) -> dict[str, float]:
    """Words of the language's script."""
    script = _SCRIPTS[language.script]
    return {
        w: c
        for w, c in counts.items()
        if c > 0
        and len(w) <= 30
        and not _REPEATED.search(w)
        and any(x.isalpha() for x in w)
        and all(script_of(x) in ("", script) for x in w)
        and not any(x.isdigit() for x in w)
    }


def _sized(counts: Mapping[str, float], size: int, known: Collection[str]) -> dict[str, float]:
    """The most frequent; of English also rarer ones that a word list has."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    if not known:
        return dict(ranked[:size])
    common = {w: c for w, c in ranked[:40_000] if w in known or (c > 2e-6)}
    for word, count in ranked:
        if word in known:
            common[word] = count
    for word in known:
        common.setdefault(word, 4e-9)
    return common


def _counts(text: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for sentence in text:
        for token in tokenize(sentence, nouns_capitalised=True):
            if token.kind == "word":
                counts[normal_word(token.text)] += 1
    return counts


def _unknown_share(counts: Mapping[str, float], listed: Collection[str], whole: bool) -> float:
    """Share of words of running text that a lexicon will not know.

    Args:
        counts: words of the learning half's text.
        listed: words from lists made elsewhere.
        whole: whether these are all that the lexicon has. Where the text's own words are in it too, the
            share is Good and Turing's: of words met once, here of those that are not listed.
    """
    total = sum(counts.values())
    if not total:
        return 0.1
    missing = sum(n for word, n in counts.items() if word not in listed and (whole or n == 1))
    return max(0.003 if whole else 0.02, missing / total)


def _wordfreq(language: Language) -> dict[str, float]:
    wordfreq = require("wordfreq", "spell-train")
    tag = _WORDFREQ.get(language.tag, language.tag)
    if tag not in wordfreq.available_languages("best"):
        return {}
    listed = wordfreq.get_frequency_dict(tag, "best")
    common = heapq.nlargest(2 * _SIZES.get(language.tag, _SIZE), listed, key=listed.__getitem__)
    counts = {normal_word(word): listed[word] for word in common}
    return {_cyrillic(w): f for w, f in counts.items()} if language.tag == "sr" else counts


def _cyrillic(word: str) -> str:
    """A Serbian word of the Latin alphabet in the Cyrillic one, which have their letters in common."""
    for pair, letter in (("lj", "љ"), ("nj", "њ"), ("dž", "џ")):
        word = word.replace(pair, letter)
    return word.translate(_SERBIAN)


_SERBIAN = str.maketrans("abvgdđežzijklmnoprstćufhcčš", "абвгдђежзијклмнопрстћуфхцчш")


def _simplemma(language: Language) -> dict[str, str]:
    if language.tag in _NOT_SIMPLEMMA:
        return {}
    factory = require("simplemma.strategies.dictionaries.dictionary_factory", "spell-train")
    tag = _SIMPLEMMA.get(language.tag, language.tag)
    if tag not in factory.SUPPORTED_LANGUAGES:
        return {}
    found = factory.DefaultDictionaryFactory().get_dictionary(tag)
    return {normal_word(word): normal_word(lemma) for word, lemma in found.items()}


def _forms(lemma_of: Mapping[str, str], met: Collection[str]) -> list[str]:
    """Word forms, at most `_FORMS`: first those of words met in text, then lemmas, then short ones."""
    near = {lemma_of.get(word, word) for word in met}
    lemmas = set(lemma_of.values())
    forms = sorted(
        {*lemma_of, *lemmas}, key=lambda w: (lemma_of.get(w, w) not in near, w not in lemmas, len(w), w)
    )
    return forms[:_FORMS]


def _scowl() -> set[str]:
    words: set[str] = set()
    for file in (
        sorted(SCOWL.glob("*-words.*"))
        + sorted(SCOWL.glob("*-upper.*"))
        + sorted(SCOWL.glob("*-contractions.*"))
        + sorted(SCOWL.glob("*-proper-names.*"))
    ):
        kind, level = file.name.rsplit(".", 1)
        if level in _SCOWL_LEVELS and not kind.startswith(("australian", "canadian")):
            words.update(normal_word(line) for line in file.read_text(encoding="latin-1").split())
    return words


def _symspell(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    rows = [line.split(" ") for line in gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines()]
    counts = {normal_word(row[0]): float(row[1]) for row in rows if len(row) == 2}
    total = math.fsum(counts.values())
    return {w: c / total for w, c in counts.items()}
