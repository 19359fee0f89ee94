"""Batches: labels, boundaries, padding, and that ranks see the same rows."""

import time

import numpy as np
import torch

from mainspring.data import (
    IGNORE,
    DataConfig,
    Mixture,
    TokenBatch,
    TokenData,
    holdout_batch,
    holdout_count,
    holdout_rows,
    mixture_of,
    row_generators,
    rows,
    sample,
)


def join(batches: list[TokenBatch], field: str) -> torch.Tensor:
    return torch.cat([getattr(batch, field) for batch in batches])


def test_rows_are_consecutive_tokens_and_their_successors(data: TokenData) -> None:
    mixture = mixture_of(data, DataConfig(path="x", seq_len=48))
    batch = rows(data, mixture, 5, 48, 10, 30)
    assert batch.ids.shape == (20, 48)
    for i in range(20):
        name, row = sample(5, mixture, 10 + i)
        window = data.split("train")[name].window(row * 48, 49)
        assert batch.ids[i].tolist() == window.ids[:-1].tolist()
        expected = np.where(window.ids[:-1] == data.separator, IGNORE, window.ids[1:])
        assert batch.labels is not None
        assert batch.labels[i].tolist() == expected.tolist()


def test_boundaries_by_hand(letters: TokenData) -> None:
    """Documents of 1, 2, 3 ... letters, each followed by the separator 0; rows of 4."""
    stream = letters.split("train")["letters"]
    ids = stream.window(0, 14).ids.tolist()
    assert [i == 0 for i in ids] == [n in (1, 4, 8, 13) for n in range(14)]
    batch = holdout_batch(letters, 4, 0, 3, split="train")
    assert batch.doc is not None
    assert batch.labels is not None
    assert batch.doc.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
    assert batch.pos.tolist() == [[0, 1, 0, 1], [0, 0, 1, 2], [0, 0, 1, 2]]
    assert batch.rank.tolist() == [[0, 1, 2, 3]] * 3
    assert batch.labels.tolist() == [
        [0, IGNORE, ids[3], 0],
        [IGNORE, ids[6], ids[7], 0],
        [IGNORE, ids[10], ids[11], ids[12]],
    ]
    assert batch.valid is None


def test_doc_is_there_only_where_needed(letters: TokenData) -> None:
    whole = letters.split("train")["letters"]
    assert whole.tokens == 54
    assert holdout_batch(letters, 2, 18, 19, split="train").doc is None
    assert holdout_batch(letters, 9, 0, 1, split="train").doc is not None


def test_ranks_and_restarts_see_the_same_rows(data: TokenData) -> None:
    mixture = mixture_of(data, DataConfig(path="x", seq_len=32, alpha=0.5))
    whole = rows(data, mixture, 1, 32, 0, 24)
    for world in (2, 3, 4):
        share = 24 // world
        parts = [rows(data, mixture, 1, 32, rank * share, (rank + 1) * share) for rank in range(world)]
        for field in ("ids", "labels"):
            assert torch.equal(join(parts, field), getattr(whole, field))
    assert not torch.equal(rows(data, mixture, 2, 32, 0, 24).ids, whole.ids)


def test_an_epoch_covers_the_text(data: TokenData) -> None:
    stream = data.split("train")["udhr"]
    mixture = Mixture.of({"udhr": stream.rows(64)}, {"udhr": 1.0})
    batch = rows(data, mixture, 0, 64, 0, stream.rows(64))
    order = [sample(0, mixture, i).row for i in range(stream.rows(64))]
    text = batch.ids[np.argsort(order)].ravel()
    assert text.tolist() == stream.window(0, stream.rows(64) * 64).ids.tolist()


def test_holdout_scores_every_label_once(data: TokenData) -> None:
    for seq_len, batch_rows in ((64, 8), (33, 5), (100_000, 2)):
        batches = list(holdout_rows(data, seq_len, batch_rows=batch_rows))
        assert sum(len(b.ids) for b in batches) == holdout_count(data, seq_len)
        labels = torch.cat([b.labels[b.labels != IGNORE] for b in batches if b.labels is not None])
        expected = []
        for stream in data.split("holdout").values():
            window = stream.window(0, stream.tokens)
            expected += window.ids[1:][window.doc[1:] == window.doc[:-1]].tolist()
        assert labels.tolist() == expected


def test_padding_is_marked(data: TokenData) -> None:
    last = next(holdout_rows(data, 64, batch_rows=10_000))
    tails = [stream.tokens % 64 for stream in data.split("holdout").values()]
    assert last.valid is not None
    assert last.labels is not None
    short = sorted(n for n in last.valid.sum(dim=1).tolist() if n < 64)
    assert short == sorted(n for n in tails if n > 1)
    assert (last.labels[~last.valid] == IGNORE).all()
    assert (last.ids[~last.valid] == data.separator).all()


def test_generators_belong_to_rows() -> None:
    whole = [g.random(3).tolist() for g in row_generators(7, 0, 10)]
    parts = [g.random(3).tolist() for start in (0, 5) for g in row_generators(7, start, start + 5)]
    assert whole == parts
    assert len({tuple(w) for w in whole}) == 10
    assert row_generators(8, 0, 1)[0].random() != whole[0][0]
    assert row_generators(7, 2**47, 2**47 + 1)[0].random() != whole[0][0]


def test_loading_is_quick(data: TokenData) -> None:
    """A bound that fails only when something is wrong by an order of magnitude (2 ms is usual)."""
    mixture = mixture_of(data, DataConfig(path="x", seq_len=256))
    times = []
    for step in range(20):
        began = time.perf_counter()
        rows(data, mixture, 0, 256, step * 32, step * 32 + 32)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.02
