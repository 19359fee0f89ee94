"""Texts through a reader: windows that overlap, spans in characters, pairs that share rows."""

import math

import numpy as np
import pytest
import torch

from mainspring.errors import UsageError
from mainspring.finetune.reader import Reader, ReaderConfig
from mainspring.finetune.text_reader import MOST_ANSWER, STRIDE, TextReader, batches
from mainspring.nn import Transformer, TransformerConfig, initialize
from support.letters import letters

CONFIG = TransformerConfig(d_model=16, n_heads=2, n_layers=2, d_ff=32, vocab_size=40, norm_place="post")
TEXT = " ".join("abcdefgh"[i % 8] + "xyz"[i % 3] for i in range(120))


@pytest.fixture(scope="module")
def reader() -> TextReader:
    model = initialize(Transformer(CONFIG), seed=0)
    return TextReader(Reader(model, ReaderConfig(apart=1, rank=2, width=8), seed=1), letters())


def test_windows_cover_a_text_and_overlap(reader: TextReader) -> None:
    whole = reader.tokens(TEXT, 10_000)[0]
    windows = reader.tokens(TEXT, 192)
    assert len(windows) == math.ceil((len(whole.ids) - 2 - 192) / STRIDE) + 1
    covered = {place for window in windows for place in window.offsets[1:-1]}
    assert covered == set(whole.offsets[1:-1])
    assert all(len(w.ids) <= 194 and w.ids[0] == whole.ids[0] and w.ids[-1] == whole.ids[-1] for w in windows)
    assert windows[1].ids[1] == whole.ids[1 + STRIDE]
    assert len(reader.tokens("", 10)) == 1


def test_a_pair_reads_the_same_alone_and_among_others(reader: TextReader) -> None:
    pairs = [("ab c?", "abc def"), ("ab c?", TEXT), ("fg", "abc def"), ("fg", ""), ("d", "gh")]
    together = reader.read(pairs)
    for pair, found in zip(pairs, together, strict=True):
        alone = reader.read([pair])[0]
        assert math.isclose(alone.relevance, found.relevance, abs_tol=1e-4)
        assert math.isclose(alone.verdict, found.verdict, abs_tol=1e-4)
        assert [s[:2] for s in alone.spans] == [s[:2] for s in found.spans]
        np.testing.assert_allclose(alone.highlights, found.highlights, atol=1e-4)
        assert len(found.offsets) == len(found.highlights) == len(pair[1].replace(" ", ""))
    assert together[3].spans == ()


def test_the_best_span_is_that_of_a_search_through_all(reader: TextReader) -> None:
    text = "abc defg hab cde"
    found = reader.read([("what", text)])[0]
    question, window = reader.question("what"), reader.tokens(text, 192)[0]
    with torch.no_grad():
        states = [
            reader.reader.apart(torch.tensor([t.ids]), torch.ones(1, len(t.ids), dtype=torch.bool))
            for t in (question, window)
        ]
        spans = reader.reader(*states).spans[0]
    count = len(window.ids) - 2
    scores = {
        (i, j): float(spans[2 + i, 0] + spans[2 + j, 1] - spans[0].sum())
        for i in range(count)
        for j in range(i, min(count, i + MOST_ANSWER))
    }
    (i, j), best = max(scores.items(), key=lambda item: item[1])
    assert found.spans[0][:2] == (window.offsets[1 + i][0], window.offsets[1 + j][1])
    assert math.isclose(found.spans[0].score, best, abs_tol=1e-4)
    assert [s.score for s in found.spans] == sorted((s.score for s in found.spans), reverse=True)


def test_batches_hold_every_row_once_within_the_limit() -> None:
    lengths = [5, 1, 9, 3, 3, 40, 2]
    found = list(batches(lengths, 12))
    assert sorted(i for batch in found for i in batch) == list(range(7))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 12 or len(batch) == 1 for batch in found)


def test_a_tokenizer_without_marks_is_refused(reader: TextReader) -> None:
    with pytest.raises(UsageError, match=r"needs \[CLS\] and \[SEP\]"):
        TextReader(reader.reader, letters(marks=False))
