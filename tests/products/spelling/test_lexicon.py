"""Lexicons come back as they were written; what is damaged is told."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.errors import DataError
from mainspring.products.spelling.lexicon import STEPS, Lexicon, Lexicons, pack

WORD = st.text(st.characters(categories=["Ll", "Lo", "Mn"]), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(words=st.dictionaries(WORD, st.integers(1, 10**9), min_size=1, max_size=40))
def test_words_and_frequencies_come_back(
    words: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lexicons") / "all.bin"
    pack({"xx": Lexicon.of(words, {"sources": ["s"]}), "yy": Lexicon.of({"other": 1})}, path)
    found = Lexicons(path)
    assert set(found.tags()) == {"xx", "yy"}
    lexicon = found.load("xx")
    assert set(lexicon.words) == set(words) and lexicon.facts["sources"] == ["s"]
    total = sum(words.values())
    for word, count in words.items():
        given_log = lexicon.log_probability(word)
        assert given_log is not None
        wanted = max(math.log(count / total), -255 / STEPS)
        assert abs(given_log - wanted) <= 0.5 / STEPS + 1e-9
    assert lexicon.log_probability("not there") is None


def test_other_files_and_damage_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Lexicons(tmp_path / "none.bin")
    (tmp_path / "other.bin").write_bytes(b"something else")
    with pytest.raises(DataError, match="is not a file of lexicons"):
        Lexicons(tmp_path / "other.bin")
    path = tmp_path / "all.bin"
    pack({"en": Lexicon.of({"word": 3, "words": 1})}, path)
    with pytest.raises(DataError, match="no lexicon of 'eng'; did you mean 'en'"):
        Lexicons(path).load("eng")
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged"):
        Lexicons(path).load("en")
