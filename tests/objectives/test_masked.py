"""Masked LM: rates, whole words, n-grams, 80/10/10, and independence of how rows are spread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mainspring.config import parse
from mainspring.data.batch import IGNORE, TokenBatch, causal_batch
from mainspring.errors import ConfigError
from mainspring.objectives import MaskedConfig, MaskedLM, Vocabulary, build, mask_row, word_starts
from mainspring.objectives.masked import ngram_probabilities
from objectives.test_causal import Toy

SPECIAL = 5
VOCAB = 105
"""Ids: 0..4 special (4 = [MASK]), 5..79 begin words, 80.. continue them."""
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS += [f"w{i}" for i in range(75)] + [f"##p{i}" for i in range(25)]
VOCABULARY = Vocabulary.of(TOKENS, range(SPECIAL), 4)


def objective(**changes: float) -> MaskedLM:
    return MaskedLM(parse(MaskedConfig, {"kind": "mlm", **changes}), VOCABULARY)


def generators(rows: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, row]) for row in range(rows)]


def text(rows: int, length: int, seed: int = 0) -> TokenBatch:
    """Rows of words of a few pieces between [CLS] and [SEP]; half of the last row is padding."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(SPECIAL, VOCAB, size=(rows, length))
    ids[:, 0], ids[:, -1] = 2, 3
    valid = np.ones((rows, length), bool)
    ids[-1, length // 2 :], valid[-1, length // 2 :] = 0, False
    return causal_batch(torch.from_numpy(ids), valid=torch.from_numpy(valid))


def words_of(ids: np.ndarray) -> list[list[int]]:
    """Indices of each word, by an independent walk."""
    words: list[list[int]] = []
    for i, token in enumerate(ids):
        if token >= 80 and words and ids[i - 1] >= SPECIAL and len(words[-1]) < 16:
            words[-1].append(i)
        else:
            words.append([i])
    return words


@given(st.integers(1, 4), st.integers(4, 80), st.floats(0.05, 0.6), st.integers(1, 5), st.integers(0, 99))
def test_labels_and_masks_are_right(rows: int, length: int, rate: float, max_ngram: int, seed: int) -> None:
    batch = text(rows, length, seed)
    view = objective(rate=rate, max_ngram=max_ngram).build(batch, generators(rows, seed))["mlm"]
    before, after, labels = batch.ids.numpy(), view.ids.numpy(), view.labels.numpy()
    hidden = labels != IGNORE
    assert (labels[hidden] == before[hidden]).all()
    assert (after[~hidden] == before[~hidden]).all()
    assert not (hidden & (before < SPECIAL)).any(), "special tokens are never masked"
    assert not (hidden & ~batch.valid.numpy()).any(), "padding is never masked"
    assert ((after[hidden] == 4) | (after[hidden] >= SPECIAL)).all(), "no other special token comes in"
    for row in range(rows):
        maskable = int((before[row] >= SPECIAL).sum())
        words = [w for w in words_of(before[row]) if before[row][w[0]] >= SPECIAL]
        assert all(hidden[row][w].all() or not hidden[row][w].any() for w in words), "whole words"
        budget = max(1, round(rate * maskable))
        if words:
            shortest = min(len(w) for w in words)
            assert hidden[row].sum() <= max(budget, shortest)
            free = [len(w) for w in words if not hidden[row][w[0]]]
            # What is left of the budget has no room for any word that is still free.
            assert hidden[row].sum() + min(free, default=length) > budget or not free


def test_the_view_is_bidirectional_and_keeps_positions() -> None:
    view = objective().build(text(2, 12), generators(2))["mlm"]
    assert (view.rank == 0).all() and view.probe is None
    assert torch.equal(view.pos, torch.arange(12).expand(2, 12))


def test_rate_and_replacement_shares() -> None:
    batch = text(64, 256)
    view = objective().build(batch, generators(64))["mlm"]
    before, after = batch.ids.numpy(), view.ids.numpy()
    hidden = view.labels.numpy() != IGNORE
    assert hidden.sum() / (before >= SPECIAL).sum() == pytest.approx(0.15, abs=0.003)
    total = hidden.sum()
    masked = (after[hidden] == 4).sum() / total
    kept = (after[hidden] == before[hidden]).sum() / total
    error = 4 * np.sqrt(0.25 / total)
    assert masked == pytest.approx(0.8, abs=error)
    assert kept == pytest.approx(0.1 + 0.1 / (VOCAB - SPECIAL), abs=error)


def test_ngram_lengths_follow_one_over_n() -> None:
    """With one-token words and a budget for one run only, the run is an n-gram of the drawn length."""
    tokens, rounds = 3000, 4000
    starts = np.ones(tokens, bool)
    counts = np.zeros(4)
    for seed in range(rounds):
        chosen = mask_row(starts, starts, 3 / tokens, 3, np.random.default_rng(seed))
        first = int(chosen.argmax())
        run = int((~chosen[first : first + 4]).argmax())
        counts[run] += 1
    # A run of 3 uses the budget; runs of 1 and 2 leave room for others, which lie elsewhere but for rare
    # touches.
    assert counts[1:].sum() >= 0.999 * rounds
    assert ngram_probabilities(3) == pytest.approx([6 / 11, 3 / 11, 2 / 11])
    assert counts[3] / rounds == pytest.approx(2 / 11, abs=0.03)


def test_runs_stay_inside_their_document() -> None:
    doc = np.repeat(np.arange(10), 2)
    starts, maskable = np.ones(20, bool), np.ones(20, bool)
    maskable[[0, 19]] = False
    for seed in range(50):
        chosen = mask_row(starts, maskable, 0.3, 8, np.random.default_rng(seed), doc=doc)
        assert 1 <= chosen.sum() <= 5 and not chosen[[0, 19]].any()


def test_a_row_with_nothing_to_mask_is_left_alone() -> None:
    batch = causal_batch(torch.tensor([[2, 3, 0, 0]]))
    views = objective().build(batch, generators(1))
    assert torch.equal(views["mlm"].ids, batch.ids)
    assert objective().counts(views) == {"mlm": 0}
    assert objective().loss(Toy(VOCAB), views)["mlm"].total.item() == 0.0


def test_results_depend_on_the_row_not_on_how_rows_are_spread() -> None:
    batch, mlm = text(6, 40), objective()
    whole = mlm.build(batch, generators(6))["mlm"]
    for start, stop in [(0, 2), (2, 6)]:
        part = TokenBatch(*(t if t is None else t[start:stop] for t in batch))
        view = mlm.build(part, generators(6)[start:stop])["mlm"]
        assert torch.equal(view.ids, whole.ids[start:stop])
        assert torch.equal(view.labels, whole.labels[start:stop])


def test_loss_is_over_hidden_tokens_only() -> None:
    batch, mlm, model = text(3, 30), objective(), Toy(VOCAB)
    views = mlm.build(batch, generators(3))
    loss = mlm.loss(model, views)["mlm"]
    where = views["mlm"].labels != IGNORE
    logits = model.table(views["mlm"].ids[where])
    expected = -torch.log_softmax(logits, 1).gather(1, views["mlm"].labels[where][:, None]).sum()
    torch.testing.assert_close(loss.total, expected)
    assert loss.count == int(where.sum()) == mlm.counts(views)["mlm"] > 0


@pytest.mark.parametrize(
    ("tokens", "ids", "expected"),
    [
        (["[X]", "play", "##ing", "chess"], [1, 2, 3], [1, 0, 1]),
        (["Ġplay", "ing", "Ġche", ",", "Ċ", "Go", "Ã©"], [0, 1, 6, 2, 3, 4, 5], [1, 0, 0, 1, 1, 1, 1]),
        (["▁play", "ing", "▁chess", "."], [0, 1, 2, 3], [1, 0, 1, 1]),
    ],
    ids=["wordpiece", "byte-level", "sentencepiece"],
)
def test_word_boundaries_of_each_spelling(tokens: list[str], ids: list[int], expected: list[int]) -> None:
    starts = word_starts(np.array(ids), Vocabulary.of(tokens, [], None))
    assert starts.astype(int).tolist() == expected


def test_words_are_cut_at_documents_and_when_too_long() -> None:
    vocabulary = Vocabulary.of(["▁a", "b"], [], None)
    ids = np.array([0, *[1] * 9])
    assert np.flatnonzero(word_starts(ids, vocabulary, longest=4)).tolist() == [0, 4, 8]
    assert np.flatnonzero(word_starts(ids, vocabulary, np.array([0] * 5 + [1] * 5))).tolist() == [0, 5]


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="no mask token"):
        build(MaskedConfig(), Vocabulary.of(["a"], [], None))
    with pytest.raises(ConfigError, match="> 1"):
        parse(MaskedConfig, {"mask_share": 0.9, "random_share": 0.2})
    with pytest.raises(ValueError, match="2 rows need as many generators"):
        objective().build(text(2, 8), generators(1))
