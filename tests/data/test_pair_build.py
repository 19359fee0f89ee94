"""Files of parallel text into a folder of pairs: languages, directions, what is left out and refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mainspring.data.pair_build import PairSource, build_pairs
from mainspring.data.pair_corpora import PairCorpora
from mainspring.errors import DataError
from mainspring.text import Tokenizer
from mainspring.text.train import train_tokenizer

ENGLISH = ["the clock", "a wheel turns", "power"]
GERMAN = ["die Uhr", "ein Rad dreht sich", "Kraft"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([*ENGLISH, *GERMAN], "wordpiece", 120)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "n.en").write_text("\n".join(ENGLISH) + "\n", encoding="utf-8")
    (tmp_path / "n.de").write_bytes("\n".join(GERMAN).encode())
    lines = "\n".join(f"{one}\t{two}" for one, two in zip(ENGLISH, GERMAN, strict=True))
    (tmp_path / "n.tsv.gz").write_bytes(gzip.compress(f"{lines}\nbroken\n".encode()))
    return tmp_path


def test_directions_languages_and_both_ways(files: Path, tokenizer: Tokenizer) -> None:
    en, de, tsv = (str(files / name) for name in ("n.en", "n.de", "n.tsv.gz"))
    sources = [PairSource("EN", "de", en, de), PairSource("en", "de", tsv), PairSource("en", "pt_br", en, de)]
    report = build_pairs(
        sources, tokenizer, files / "out", languages=["zh", "de", "en", "pt-BR"], both_ways=True
    )
    opened = PairCorpora.open(files / "out")
    assert opened.languages == ("zh", "de", "en", "pt-BR") == report.languages
    assert {name: (one.count, one.langs) for name, one in opened.directions.items()} == {
        "en-de": (6, (2, 1)),
        "de-en": (6, (1, 2)),
        "en-pt-BR": (3, (2, 3)),
        "pt-BR-en": (3, (3, 2)),
    }
    assert report.directions["de-en"] == {"pairs": 6, "tokens": len(opened.directions["de-en"].tokens)}
    assert opened.directions["de-en"].pair(1).target.tolist() == tokenizer.encode(ENGLISH[1])
    assert report.read["en-de"].faults == 1 and report.read["en-de"].examples[0].line == 4
    assert report.to_dict()["read"]["en-de"]["reasons"] == {"not two columns": 1}
    again = build_pairs(sources[:1], tokenizer, files / "out", max_tokens=1)
    assert again.languages == ("de", "en") and again.directions == {"en-de": {"pairs": 3, "tokens": 6}}


def test_what_cannot_be_built_is_refused(files: Path, tokenizer: Tokenizer) -> None:
    en, de = str(files / "n.en"), str(files / "n.de")
    (files / "bad.tsv").write_text("one\ntwo\n")
    (files / "short.de").write_text("eins\n")
    cases: list[tuple[list[PairSource], dict[str, object], str]] = [
        ([], {}, "no pairs to read"),
        ([PairSource("en", "de", en, de)], {"languages": ["en", "fr"]}, "'de' is not among the languages"),
        ([PairSource("en", "d", en, de)], {}, "is not a language code"),
        ([PairSource("en", "de", str(files / "none"), de)], {}, "no such file"),
        (
            [PairSource("en", "de", str(files / "bad.tsv"))],
            {},
            "en-de: there is no pair .*bad.tsv, line 1: not two",
        ),
        ([PairSource("en", "de", en, str(files / "short.de"))], {}, "n.en goes on at line 2"),
        (
            [PairSource("en", "de", en, de), PairSource("de", "en", de, en)],
            {"both_ways": True},
            "comes twice",
        ),
        ([PairSource("en", "de", en, de)], {"max_tokens": 0}, "1 token or more"),
    ]
    for sources, options, message in cases:
        with pytest.raises(DataError, match=message):
            build_pairs(sources, tokenizer, files / "refused", **options)  # type: ignore[arg-type]
    assert not (files / "refused").exists(), "nothing is written of what is refused"
