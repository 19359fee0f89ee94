"""Other spellers, each as a function from words to their suggestions; a word that one takes to be right is
its own only suggestion."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO

VENV = Path("/work/peers/spelling/venv/lib/python3.11/site-packages")
"""Where symspellpy and pyspellchecker are installed."""
Suggests = Callable[[Sequence[str]], list[list[str]]]
"""As many lists as words were answered within the time."""

_ASPELL = (
    "am ar bg bn br ca cs cy da de el en eo es et eu fa fo fr ga gl gu he hi hr hsb hu hy is it kk kn ku lt "
    "lv ml mr nb nl nn pa pl ro ru sk sl sv ta te uk uz"
)
ASPELL: Mapping[str, str] = MappingProxyType({t: t for t in _ASPELL.split()} | {"pt": "pt_PT", "fil": "tl"})
"""aspell's dictionaries in Debian 12, by tag."""
HUNSPELL: Mapping[str, str] = MappingProxyType(
    {
        "af": "af_ZA", "an": "an_ES", "ar": "ar", "be": "be_BY", "bg": "bg_BG", "bn": "bn_BD", "br":
        "br_FR", "bs": "bs_BA", "ca": "ca", "cs": "cs_CZ", "da": "da_DK", "de": "de_DE", "el": "el_GR",
        "en": "en_US", "eo": "eo", "es": "es_ES", "et": "et_EE", "eu": "eu", "fa": "fa_IR", "fo": "fo_FO",
        "fr": "fr", "ga": "ga_IE", "gd": "gd_GB", "gl": "gl_ES", "gn": "gug_PY", "gu": "gu_IN", "gv":
        "gv_GB", "he": "he_IL", "hi": "hi_IN", "hr": "hr_HR", "hu": "hu_HU", "hy": "hy_AM", "id": "id_ID",
        "is": "is_IS", "it": "it_IT", "kk": "kk_KZ", "ko": "ko_KR", "ku": "ku_TR", "lt": "lt_LT", "lv":
        "lv_LV", "ml": "ml_IN", "mn": "mn_MN", "nb": "nb_NO", "ne": "ne_NP", "nn": "nn_NO", "oc": "oc_FR",
        "pl": "pl_PL", "pt": "pt_PT", "ro": "ro_RO", "ru": "ru_RU", "sk": "sk_SK", "sl": "sl_SI", "sq":
        "sq_AL", "sr": "sr_RS", "sv": "sv_SE", "sw": "sw_TZ", "te": "te_IN", "fil": "tl", "tr": "tr_TR",
        "uk": "uk_UA", "uz": "uz_UZ", "vi": "vi_VN",
    }
)  # fmt: skip
"""hunspell's and myspell's dictionaries in Debian 12, by tag."""
PYSPELLCHECKER = frozenset({"ar", "de", "en", "es", "eu", "fa", "fr", "it", "lv", "nl", "pt", "ru"})


def peers_of(tag: str, seconds: float) -> dict[str, Suggests]:
    """The peers that have a dictionary of a language; each answers as many words as it can in the seconds."""
    found: dict[str, Suggests] = {}
    if tag in ASPELL:
        found["aspell"] = piped(["aspell", "-a", "-l", ASPELL[tag], "--encoding=utf-8"], seconds)
    if tag in HUNSPELL:
        found["hunspell"] = piped(["hunspell", "-a", "-i", "utf-8", "-d", HUNSPELL[tag]], seconds)
    if tag == "en":
        found["symspellpy"] = symspell(None, seconds)
    if tag in PYSPELLCHECKER:
        found["pyspellchecker"] = pyspellchecker(tag, seconds)
    return found


def covered(tag: str) -> bool:
    """Whether some peer has a dictionary of a language."""
    return tag in ASPELL or tag in HUNSPELL or tag in PYSPELLCHECKER


def piped(command: Sequence[str], seconds: float) -> Suggests:
    """A speller that speaks ispell's protocol: `*` right, `& word n offset: a, b` suggestions, `#` none."""

    def suggest(words: Sequence[str]) -> list[list[str]]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        found = _within(seconds, partial(_ask, process.stdin, process.stdout), words)
        process.kill()
        process.wait()
        return found

    return suggest


def _ask(question: IO[bytes], answer: IO[bytes], word: str) -> list[str]:
    question.write(f"^{word}\n".encode())
    question.flush()
    answers: list[str] = []
    wrong = False
    while line := answer.readline().decode("utf-8", "replace").strip():
        if line[0] in "&?":
            answers += [s.strip() for s in line.partition(":")[2].split(",")]
        wrong |= line[0] in "&?#"
    return answers if wrong else [word]


def symspell(words: Mapping[str, float] | None, seconds: float) -> Suggests:
    """symspellpy with its own English dictionary, or with words and their frequencies."""

    _add_venv()
    from symspellpy import SymSpell, Verbosity

    engine = SymSpell(max_dictionary_edit_distance=2, prefix_length=7)
    if words is None:
        engine.load_dictionary(VENV / "symspellpy/frequency_dictionary_en_82_765.txt", 0, 1)
    else:
        for word, count in words.items():
            engine.create_dictionary_entry(word, max(1, int(count)))

    def suggest(word: str) -> list[str]:
        near = engine.lookup(word, Verbosity.CLOSEST, max_edit_distance=2)
        if len(near) < 5 and words is None:
            near = engine.lookup(word, Verbosity.ALL, max_edit_distance=2)
        return [n.term for n in near[:5]]

    return partial(_within, seconds, suggest)


def pyspellchecker(tag: str, seconds: float) -> Suggests:
    """pyspellchecker: candidates in order of frequency."""

    _add_venv()
    from spellchecker import SpellChecker

    engine = SpellChecker(language=tag)

    def suggest(word: str) -> list[str]:
        if engine.known([word]):
            return [word]
        near = engine.candidates(word) or set()
        return sorted(near, key=lambda w: -engine.word_usage_frequency(w))[:5]

    return partial(_within, seconds, suggest)


def _within(seconds: float, suggest: Callable[[str], list[str]], words: Sequence[str]) -> list[list[str]]:
    """Suggestions for as many words as are answered in the seconds."""
    until = time.monotonic() + seconds
    found: list[list[str]] = []
    for word in words:
        if time.monotonic() > until:
            break
        found.append(suggest(word))
    return found


def _add_venv() -> None:
    if str(VENV) not in sys.path:
        sys.path.append(str(VENV))
