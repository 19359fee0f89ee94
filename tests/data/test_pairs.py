"""Parallel text: line n to line n, encoded, kept, and read in an order of the seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mainspring.config import parse
from mainspring.data.pair_batch import packed_pairs_of, pairs_of
from mainspring.data.pairs import PairData, read_pairs
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


def test_lines_belong_together_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("one\n\n three \nfour\n", encoding="utf-8")
    (tmp_path / "de").write_text("eins\nzwei\ndrei\n \n", encoding="utf-8")
    assert list(read_pairs(tmp_path / "en", tmp_path / "de")) == [("one", "eins"), ("three", "drei")]
    (tmp_path / "de").write_text("eins\nzwei\n", encoding="utf-8")
    with pytest.raises(DataError, match="en goes on at line 3"):
        list(read_pairs(tmp_path / "en", tmp_path / "de"))
    with pytest.raises(DataError, match="none"):
        list(read_pairs(tmp_path / "none", tmp_path / "de"))


def test_pairs_are_the_tokenizers_and_survive_the_disk(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pairs = PairData.open(data(tokenizer).save(tmp_path / "pairs"))
    assert pairs.count == 23 and pairs.tokenizer_hash == tokenizer.hash
    for index in (0, 7, 22):
        pair = pairs.pair(index)
        assert pair.source.tolist() == tokenizer.encode(ENGLISH[index])
        assert pair.target.tolist() == tokenizer.encode(GERMAN[index])
        assert (pair.source_lang, pair.target_lang) == (1, 2)
    assert len(data(tokenizer, max_tokens=2).pair(3).source) == 2


def test_each_epoch_has_every_row_once_however_it_is_cut(tokenizer: Tokenizer) -> None:
    pairs = data(tokenizer)

    def texts(start: int, stop: int) -> list[str]:
        return [tokenizer.decode(s.ids.tolist()) for s, _ in pairs_of(pairs.rows(5, start, stop))]

    epoch = texts(0, 23)
    assert sorted(epoch) == sorted(tokenizer.decode(tokenizer.encode(t)) for t in ENGLISH)
    assert epoch != texts(23, 46) and sorted(epoch) == sorted(texts(23, 46))
    assert texts(0, 9) + texts(9, 30) == texts(0, 30)


def test_a_row_may_hold_neighbours(tokenizer: Tokenizer) -> None:
    batch = data(tokenizer).rows(0, 0, 5, per_row=4)
    starts = set()
    for row in packed_pairs_of(batch):
        numbers = [ENGLISH.index(_text(tokenizer, s.ids)) for s, _ in row]
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        starts.add(numbers[0])
    assert starts == {0, 4, 8, 12, 16}
    with pytest.raises(DataError, match="holds 4 pairs"):
        pairs_of(batch)


def _text(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    encoded = [tokenizer.encode(t) for t in ENGLISH]
    return ENGLISH[encoded.index(ids.tolist())]


def test_what_cannot_be_used_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair"):
        PairData.encode([], tokenizer)
    with pytest.raises(DataError, match="no encoded pairs"):
        PairData.open(tmp_path)
    with pytest.raises(DataError, match="a row takes 24 pairs and there are 23"):
        data(tokenizer).rows(0, 0, 1, per_row=24)
    folder = data(tokenizer).save(tmp_path / "cut")
    np.save(folder / "ends.npy", data(tokenizer).ends[:-2])
    with pytest.raises(DataError, match="incomplete"):
        PairData.open(folder)
