"""UniLM v1's mixture: four directions as ranks and segments, shares, what is hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.config import parse
from mainspring.data.batch import IGNORE, TokenBatch, causal_batch
from mainspring.data.directions import Direction, directed
from mainspring.data.token_row import collate, join, rows_of, token_row
from mainspring.errors import ConfigError
from mainspring.nn.masks import allow
from mainspring.objectives import Objective, UnilmConfig, UnilmMixture, Vocabulary, build
from objectives.pairs import CLS, FULL, SEP, network, rows_from
from objectives.test_masked import SPECIAL, VOCAB, generators


def mixture(**changes: float) -> UnilmMixture:
    return UnilmMixture(parse(UnilmConfig, {"kind": "unilm", **changes}), FULL)


def stream(rows: int, length: int, seed: int = 0) -> TokenBatch:
    """Rows of a stream: documents that each end with a separator."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(SPECIAL, VOCAB, size=(rows, length))
    ends = rng.random((rows, length)) < 0.08
    ids[ends] = SEP
    doc = np.cumsum(np.pad(ends, ((0, 0), (1, 0)))[:, :-1], axis=1)
    return causal_batch(torch.from_numpy(ids), doc=torch.from_numpy(doc))


@pytest.mark.parametrize(
    ("direction", "types", "sees"),
    [
        ("bidirectional", [0, 0, 0, 0, 1, 1, 1], lambda i, j: True),
        ("left_to_right", [2] * 6, lambda i, j: j <= i),
        ("right_to_left", [3] * 6, lambda i, j: j >= i),
        ("seq2seq", [4, 4, 4, 4, 5, 5, 5], lambda i, j: j < 4 or 4 <= j <= i),
    ],
)
def test_each_direction_sees_what_it_may(direction: Direction, types: list[int], sees) -> None:  # type: ignore[no-untyped-def]
    row = directed(np.array([11, 12, 13, 14]), 2, direction, CLS, SEP, 0)
    both = [CLS, 11, 12, SEP, 13, 14, SEP]
    assert row.ids.tolist() == (both if len(types) == 7 else [CLS, 11, 12, 13, 14, SEP])
    assert row.type.tolist() == types and row.pos.tolist() == list(range(len(types)))
    seen = allow(collate([row]))[0, 0].numpy()
    assert (seen == [[sees(i, j) for j in range(len(types))] for i in range(len(types))]).all()


@settings(max_examples=30)
@given(st.integers(0, 999))
def test_rows_hold_their_documents_and_hide_a_share(seed: int) -> None:
    batch = stream(4, 48, seed)
    view = mixture().build(batch, generators(4, seed))["unilm"]
    assert view.ids.shape[1] <= 48
    for before, after in zip(rows_of(batch), rows_of(view), strict=True):
        hidden = after.labels != IGNORE
        restored = np.where(hidden, after.labels, after.ids)
        words = restored[restored >= SPECIAL]
        kept = [d for d in np.unique(before.doc) if (before.ids[before.doc == d] >= SPECIAL).sum() >= 2]
        given_words = before.ids[np.isin(before.doc, kept) & (before.ids >= SPECIAL)]
        assert (words == given_words[: len(words)]).all() and len(words) >= min(len(given_words), 20)
        ends = after.labels[hidden] == SEP
        assert (after.type[hidden][ends] == 5).all(), "only a target's end is hidden"
        assert not np.isin(after.labels[hidden], [0, 1, CLS]).any()
        assert len(np.unique(after.type)) <= 2, "one direction a row"
        if len(kept):
            assert 1 <= hidden.sum() <= max(1, round(0.15 * after.length))


def test_shares_of_directions_and_of_runs() -> None:
    objective, batch = mixture(), causal_batch(torch.randint(SPECIAL, VOCAB, (900, 40)))
    view = objective.build(batch, generators(900))["unilm"]
    first = view.type[:, 0].numpy()
    shares = [(first == kind).mean() for kind in (0, 2, 3, 4)]
    assert shares == pytest.approx([1 / 3, 1 / 6, 1 / 6, 1 / 3], abs=0.05)
    hidden = (view.labels != IGNORE).sum().item() / (view.ids.numel())
    assert hidden == pytest.approx(0.15, abs=0.01)
    assert mixture(seq2seq=1, bidirectional=0, left_to_right=0, right_to_left=0)._law.tolist() == [0, 0, 0, 1]


def test_the_end_of_a_target_is_learned() -> None:
    objective = mixture(bidirectional=0, left_to_right=0, right_to_left=0, rate=0.3)
    view = objective.build(causal_batch(torch.randint(SPECIAL, VOCAB, (50, 12))), generators(50))["unilm"]
    # Rows of twelve tokens are cut at twelve: only longer rows than their document keep its end.
    assert not (view.labels == SEP).any()
    ids = torch.randint(SPECIAL, VOCAB, (50, 12))
    ids[:, 6:] = SEP
    batch = causal_batch(ids, doc=torch.tensor([[0] * 7 + [1] * 5] * 50))
    view = objective.build(batch, generators(50))["unilm"]
    assert (view.labels == SEP).float().mean() > 0.01


def test_one_batch_equals_several() -> None:
    objective, batch, model = mixture(), stream(6, 40), network().double()
    whole = objective.loss(model, objective.build(batch, generators(6)))["unilm"]
    total = 0.0
    for start, stop in [(0, 2), (2, 3), (3, 6)]:
        views = objective.build(rows_from(batch, start, stop), generators(6)[start:stop])
        total += objective.loss(model, views)["unilm"].total.item()
    assert total == pytest.approx(whole.total.item(), rel=1e-6)


def with_others(rows: int, length: int, seed: int = 0) -> TokenBatch:
    """Rows of tokens below 50, in documents, with a text of 50 and more from elsewhere."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(SPECIAL, 50, size=length) for _ in range(rows)]
    others = [rng.integers(50, VOCAB, size=length) for _ in range(rows)]
    split = np.repeat([0, 1], [length // 4, length - length // 4])
    return collate(
        [
            join([token_row(one)._replace(doc=split), token_row(two, type=1)])
            for one, two in zip(texts, others, strict=True)
        ]
    )


def test_second_parts_go_on_or_are_from_elsewhere() -> None:
    objective = mixture(next_sentence_weight=0.5, mask_share=0, random_share=0)
    assert objective.wants_elsewhere and not mixture().wants_elsewhere
    batch = with_others(600, 40)
    views = objective.build(batch, generators(600))
    kinds = views["next"].labels[:, 0].numpy()
    assert (views["next"].labels[:, 1:] == IGNORE).all()
    assert (kinds != IGNORE).mean() == pytest.approx(1 / 3, abs=0.05)
    assert (kinds[kinds != IGNORE] == 1).mean() == pytest.approx(0.5, abs=0.1)
    for before, after, kind in zip(rows_of(batch), rows_of(views["unilm"]), kinds, strict=True):
        own, other = before.ids[before.type == 0], before.ids[before.type == 1]
        if kind == IGNORE:
            assert (after.ids < 50).all(), "other directions read the row alone"
            continue
        assert after.doc.max() == 0 and set(after.type.tolist()) <= {0, 1}
        one, two = (after.ids[(after.type == k) & (after.ids >= SPECIAL)] for k in (0, 1))
        assert (one == own[10 : 10 + len(one)]).all(), "the longest document begins the row"
        rest = own[10 + len(one) :] if kind == 0 else other
        assert len(two) and (two == rest[: len(two)]).all()


def test_both_losses_are_of_one_forward_and_written_out() -> None:
    objective = mixture(
        next_sentence_weight=0.5, bidirectional=1, seq2seq=0, left_to_right=0, right_to_left=0
    )
    model = network(pooler=True, pair_classes=2).double()
    views = objective.build(with_others(6, 24), generators(6))
    losses = objective.loss(model, views)
    assert {n: loss.count for n, loss in losses.items()} == objective.counts(views)
    with torch.no_grad():
        out = model(views["unilm"])
        expected = {"unilm": 0.0, "next": 0.0}
        for i, j in torch.nonzero(views["unilm"].labels != IGNORE).tolist():
            expected["unilm"] -= out.logits[i, j].log_softmax(0)[views["unilm"].labels[i, j]].item()
        for i, kind in enumerate(views["next"].labels[:, 0].tolist()):
            expected["next"] -= out.pair_logits[i].log_softmax(0)[kind].item()
    assert {n: loss.total.item() for n, loss in losses.items()} == pytest.approx(expected, rel=1e-5)
    assert losses["next"].weight == 0.5 and losses["next"].count == 6
    losses["next"].total.backward()
    assert model.pooler.pair.weight.grad.any() and model.embeddings.token.weight.grad.any()


def test_without_text_from_elsewhere_nothing_is_told() -> None:
    """Held-out rows come alone."""
    objective = mixture(next_sentence_weight=1.0)
    views = objective.build(stream(6, 40), generators(6))
    assert objective.counts(views)["next"] == 0
    plain = mixture().build(stream(6, 40), generators(6))["unilm"]
    assert torch.equal(views["unilm"].ids, plain.ids) and torch.equal(views["unilm"].labels, plain.labels)
    losses = objective.loss(network(pooler=True, pair_classes=2), views)
    assert losses["next"].total.item() == 0
    with pytest.raises(ConfigError, match="the model has 0: set model.config.pooler = true"):
        objective.assemble(network())


def test_what_is_missing_is_said() -> None:
    assert isinstance(build(UnilmConfig(), FULL), Objective)
    with pytest.raises(ConfigError, match="all 0"):
        mixture(bidirectional=0, seq2seq=0, left_to_right=0, right_to_left=0)
    with pytest.raises(ConfigError, match=r"no first \(\[CLS\]\) token"):
        build(UnilmConfig(), Vocabulary.of(["a", "m"], [1], 1, separator=1))
