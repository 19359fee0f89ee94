"""Segments of vectors against brute force."""

from pathlib import Path

import numpy as np
import pytest

from mainspring.errors import SearchIndexError
from mainspring.products.search import dense


def encoded(ids: list[int], seed: int = 0, dim: int = 32) -> dense.Encoded:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(ids), dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths = rng.integers(0, 4, len(ids))
    sentences = rng.normal(size=(int(lengths.sum()), dim)).astype(np.float32)
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return dense.Encoded(np.asarray(ids, np.int64), vectors, bounds, *dense.quantised(sentences))


def test_int8_rows_are_within_half_a_scale() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    codes, scales = dense.quantised(vectors)
    assert (np.abs(codes * scales[:, None] - vectors) <= scales[:, None] * 0.5001).all()
    assert dense.quantised(np.zeros((1, 4), np.float32))[0].tolist() == [[0, 0, 0, 0]]


def test_the_nearest_are_found_over_segments(tmp_path: Path) -> None:
    one, two = encoded(list(range(0, 600, 2))), encoded(list(range(1, 401, 2)), seed=1)
    dense.write(tmp_path, 1, one)
    dense.write(tmp_path, 7, two)
    index = dense.DenseIndex(tmp_path, [1, 7])
    assert index.passages == 500
    vectors = np.concatenate([one.passages, two.passages])
    ids = np.concatenate([one.ids, two.ids])
    for query in encoded(list(range(5)), seed=2).passages:
        want = ids[np.argsort(-(vectors @ query))[:10]]
        got = index.search(query, 10)
        assert len({hit.passage for hit in got} & set(want.tolist())) >= 9  # fp16 may swap near ties
        assert got[0].score == pytest.approx(float((vectors @ query).max()), abs=2e-3)
    held = index.vectors([4, 5, 999_999])
    assert set(held) == {4, 5}
    assert np.abs(held[4] - one.passages[2]).max() < 1e-3
    parts = index.sentences([4, 999_999])
    start, stop = one.bounds[2], one.bounds[3]
    assert np.allclose(parts[4], one.sentences[start:stop] * one.scales[start:stop, None])


def test_segments_join_without_the_dead(tmp_path: Path) -> None:
    one, two = encoded([3, 9, 10]), encoded([1, 4, 11], seed=1)
    dense.write(tmp_path, 1, one)
    dense.write(tmp_path, 2, two)
    index = dense.DenseIndex(tmp_path, [1, 2])
    joined = index.parts([1, 2], [1, 3, 10, 11])
    assert joined.ids.tolist() == [1, 3, 10, 11]
    dense.write(tmp_path, 3, joined)
    merged = dense.DenseIndex(tmp_path, [3])
    for passage in (1, 3, 10, 11):
        assert np.allclose(merged.sentences([passage])[passage], index.sentences([passage])[passage])
        assert np.allclose(merged.vectors([passage])[passage], index.vectors([passage])[passage], atol=1e-3)
    dense.tidy(tmp_path, [3])
    assert [p.name for p in tmp_path.iterdir()] == [dense.name(3)]
    assert merged.search(one.passages[0], 1)[0].passage == 3  # what is mapped stays readable


@pytest.mark.parametrize("file", dense.FILES)
def test_a_damaged_segment_is_named(tmp_path: Path, file: str) -> None:
    dense.write(tmp_path, 1, encoded([1, 2, 3]))
    path = tmp_path / dense.name(1) / file
    path.write_bytes(path.read_bytes()[: 20 if file != dense.GRAPH else 0])
    with pytest.raises(SearchIndexError, match="segment of vectors is damaged"):
        dense.DenseIndex(tmp_path, [1])
