"""The global order over text and pairs: shares, purity, and each kind as if it were alone."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mainspring.config import parse
from mainspring.data.batch import TokenBatch
from mainspring.data.config import DataConfig
from mainspring.data.dataset import TokenData
from mainspring.data.pair_corpora import PairCorpora
from mainspring.data.pairs import PairData
from mainspring.data.token_row import rows_of
from mainspring.data.training_rows import TrainingRows
from mainspring.errors import ConfigError, DataError
from support.tiny_run import WORDS, build_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    return TokenData.open(build_data(tmp_path_factory.mktemp("rows") / "data", kind="wordpiece"))


@pytest.fixture(scope="module")
def pairs(data: TokenData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two directions, one with four times the pairs of the other; source and target are reversals."""
    draw = random.Random(2)

    def corpus(count: int, langs: tuple[int, int]) -> PairData:
        texts = [draw.choices(WORDS, k=5) for _ in range(count)]
        both = ((" ".join(text), " ".join(reversed(text))) for text in texts)
        return PairData.encode(both, data.tokenizer, langs=langs)

    corpora = {"en-de": corpus(40, (0, 1)), "en-fr": corpus(10, (0, 2))}
    return PairCorpora.of(corpora, ("en", "de", "fr")).save(tmp_path_factory.mktemp("rows") / "pairs")


def rows(data: TokenData, pairs: Path | None, seed: int = 5, **changes: object) -> TrainingRows:
    values = {"path": "", "seq_len": 16, "pairs": None if pairs is None else str(pairs), **changes}
    return TrainingRows(data, parse(DataConfig, values), seed)


def contents(batch: TokenBatch) -> list[list[list[int]]]:
    return [[field.tolist() for field in row] for row in rows_of(batch)]


def paired(batch: TokenBatch) -> list[bool]:
    return [bool((row.type == 1).any()) for row in rows_of(batch)]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_every_prefix_holds_its_share_of_pairs(data: TokenData, pairs: Path, share: float) -> None:
    kinds = paired(rows(data, pairs, pairs_share=share).batch(0, 400))
    for end in range(1, 401):
        assert abs(sum(kinds[:end]) - share * end) < 4


def test_a_row_depends_on_seed_mixture_and_index_alone(data: TokenData, pairs: Path) -> None:
    order = rows(data, pairs, pairs_share=0.5, pairs_per_row=2)
    whole = contents(order.batch(0, 60))
    again = rows(data, pairs, pairs_share=0.5, pairs_per_row=2)
    for cuts in ([0, 60], [0, 7, 8, 31, 60], [0, 30, 60]):
        parts = [again.batch(a, b) for a, b in pairwise(cuts)]
        assert [row for part in parts for row in contents(part)] == whole
    assert contents(order.batch(23, 24)) == whole[23:24]
    assert contents(rows(data, pairs, 6, pairs_share=0.5, pairs_per_row=2).batch(0, 60)) != whole


def test_rows_of_text_are_those_of_text_alone(data: TokenData, pairs: Path) -> None:
    """Each kind walks through its corpus whole before any row of it comes again."""
    order = rows(data, pairs, pairs_share=0.5)
    count = data.split("train")["made-up"].rows(16)
    seen: dict[bool, list[tuple[int, ...]]] = {True: [], False: []}
    for row in rows_of(order.batch(0, 2 * count)):
        seen[bool((row.type == 1).any())].append(tuple(row.ids.tolist()))
    stream = data.split("train")["made-up"]
    known = {tuple(stream.window(16 * k, 16).ids.tolist()) for k in range(count)}
    assert set(seen[False][:count]) <= known and len(set(seen[False][: count - 3])) >= len(known) - 5
    plain = rows(data, None).batch(0, 9)
    assert torch.equal(plain.ids[0], rows(data, None).batch(0, 1).ids[0]) and plain.type is None


def test_directions_are_drawn_by_alpha(data: TokenData, pairs: Path) -> None:
    for alpha, expected in ((1.0, 0.2), (0.5, 1 / 3), (0.0, 0.5)):
        order = rows(data, pairs, alpha=alpha)
        french = [2 in row.lang for row in rows_of(order.batch(0, 300))]
        assert sum(french) / 300 == pytest.approx(expected, abs=0.03)
    assert all(paired(order.batch(0, 300))), "without a share of text there is none"


def test_a_row_of_several_pairs_holds_neighbours_of_one_direction(data: TokenData, pairs: Path) -> None:
    for row in rows_of(rows(data, pairs, pairs_per_row=3).batch(0, 20)):
        assert sorted(set(row.doc.tolist())) == [0, 1, 2]
        assert len(set(row.lang[row.type == 1].tolist())) == 1


def test_every_row_brings_another_from_far_away(data: TokenData) -> None:
    order = rows(data, None)
    batch = order.batch_with_others(3, 40)
    own = rows_of(order.batch(3, 40))
    others = []
    for row, alone in zip(rows_of(batch), own, strict=True):
        assert (row.ids[row.type == 0] == alone.ids).all() and (row.doc[row.type == 0] == alone.doc).all()
        others.append(row.ids[row.type == 1].tolist())
        assert len(others[-1]) == 16
    assert sum(other == alone.ids.tolist() for other, alone in zip(others, own, strict=True)) < 5
    assert len({tuple(other) for other in others}) > 25
    again = rows_of(order.batch_with_others(7, 8))[0]
    assert again.ids[again.type == 1].tolist() == others[4], "the same wherever the batch is cut"


def test_what_cannot_be_read_is_refused(data: TokenData, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pairs_per_row = 41 pairs of a direction, and there are 50"):
        rows(data, pairs, pairs_per_row=41)
    with pytest.raises(DataError, match="no encoded pairs"):
        rows(data, tmp_path)
    other = TokenData.open(build_data(tmp_path / "other", kind="wordpiece", vocab_size=200))
    with pytest.raises(DataError, match="another tokenizer"):
        rows(other, pairs)
    for share in (0.0, 1.5):
        with pytest.raises(ConfigError, match="pairs_share"):
            rows(data, pairs, pairs_share=share)
