"""Parallel text: encoded, kept on disk, by direction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mainspring.config import parse
from mainspring.data.pair_corpora import PairCorpora
from mainspring.data.pairs import PairData
from mainspring.errors import DataError
from mainspring.text import Tokenizer, TokenizerSpec
from mainspring.text.train import train_tokenizer

ENGLISH = [f"the clock number {i} is wound" for i in range(23)]
GERMAN = [f"die Uhr Nummer {i} ist aufgezogen" for i in range(23)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    spec = parse(TokenizerSpec, {"kind": "wordpiece", "vocab_size": 150})
    return train_tokenizer([*ENGLISH, *GERMAN], spec.kind, spec.vocab_size)


def data(tokenizer: Tokenizer, **options: object) -> PairData:
    return PairData.encode(zip(ENGLISH, GERMAN, strict=True), tokenizer, langs=(1, 2), **options)


def test_pairs_are_the_tokenizers_and_survive_the_disk(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pairs = PairData.open(data(tokenizer).save(tmp_path / "pairs"))
    assert pairs.count == 23 and pairs.tokenizer_hash == tokenizer.hash
    for index in (0, 7, 22):
        pair = pairs.pair(index)
        assert pair.source.tolist() == tokenizer.encode(ENGLISH[index])
        assert pair.target.tolist() == tokenizer.encode(GERMAN[index])
        assert (pair.source_lang, pair.target_lang) == (1, 2)
    assert len(data(tokenizer, max_tokens=2).pair(3).source) == 2


def test_a_row_may_hold_neighbours(tokenizer: Tokenizer) -> None:
    pairs = data(tokenizer)
    for row in range(5):
        found = [tokenizer.decode(list(pair.source)) for pair in pairs.neighbours(row, 4)]
        wanted = ENGLISH[4 * row : 4 * row + 4]
        assert found == [tokenizer.decode(tokenizer.encode(text)) for text in wanted]


def test_what_cannot_be_used_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair"):
        PairData.encode([], tokenizer)
    with pytest.raises(DataError, match="no encoded pairs"):
        PairData.open(tmp_path)
    folder = data(tokenizer).save(tmp_path / "old")
    facts = json.loads((folder / "pairs.json").read_text())
    del facts["digest"]
    (folder / "pairs.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="lacks digest.*mainspring data pairs"):
        PairData.open(folder)
    folder = data(tokenizer).save(tmp_path / "cut")
    np.save(folder / "ends.npy", data(tokenizer).ends[:-2])
    with pytest.raises(DataError, match="incomplete"):
        PairData.open(folder)


def test_directions_are_kept_together(tokenizer: Tokenizer, tmp_path: Path) -> None:
    there = data(tokenizer)
    back = PairData.encode(zip(GERMAN, ENGLISH, strict=True), tokenizer, langs=(2, 1))
    assert there.digest != back.digest and there.digest == data(tokenizer).digest
    folder = PairCorpora.of({"en-de": there, "de-en": back}, ("cs", "en", "de")).save(tmp_path / "pairs")
    opened = PairCorpora.open(folder)
    assert list(opened.directions) == ["de-en", "en-de"] and opened.languages == ("cs", "en", "de")
    assert opened.directions["de-en"].pair(3).target.tolist() == tokenizer.encode(ENGLISH[3])
    assert opened.directions["en-de"].digest == there.digest
    alone = PairCorpora.open(there.save(tmp_path / "alone"))
    assert list(alone.directions) == ["all"] and alone.tokenizer_hash == tokenizer.hash
    (folder / "directions.json").unlink()
    with pytest.raises(DataError, match="mainspring data pairs"):
        PairCorpora.open(folder)
    with pytest.raises(DataError, match="no pairs in any direction"):
        PairCorpora.of({})
    with pytest.raises(DataError, match="different tokenizers"):
        PairCorpora.of({"en-de": there, "de-en": replace(back, tokenizer_hash="another")})
