"""s2s-ft's three modes and the prefix LM: layouts, masks, smoothing, and agreement of the modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mainspring.config import parse
from mainspring.data.batch import IGNORE, causal_batch
from mainspring.data.pair_batch import TextPair, pair_batch, pairs_of
from mainspring.errors import ConfigError, DataError
from mainspring.nn.masks import allow
from mainspring.objectives import (
    Objective,
    PrefixConfig,
    PrefixLM,
    Seq2Seq,
    Seq2SeqConfig,
    Vocabulary,
    build,
    smoothed_cross_entropy,
)
from objectives.pairs import CLS, FULL, MASK, SEP, network, pairs, rows_from
from objectives.test_masked import generators

ONE = pair_batch([TextPair([11, 12], [21, 22, 23], 1, 2)])


def s2s(**changes: object) -> Seq2Seq:
    return Seq2Seq(parse(Seq2SeqConfig, {"kind": "s2s", **changes}), FULL)


def view(objective: Seq2Seq, batch=ONE, seed: int = 0):  # type: ignore[no-untyped-def]
    return objective.build(batch, generators(batch.ids.shape[0], seed))["s2s"]


def test_mode_0_is_teacher_forcing_from_a_separator() -> None:
    out = view(s2s(mode="shift", target_mask_rate=0.0))
    assert out.ids.tolist() == [[CLS, 11, 12, SEP, SEP, 21, 22, 23]]
    assert out.labels.tolist() == [[IGNORE] * 4 + [21, 22, 23, SEP]]
    assert out.rank.tolist() == [[0, 0, 0, 0, 1, 2, 3, 4]] and out.pos.tolist() == [list(range(8))]
    assert out.type.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] and out.lang.tolist() == [[1] * 4 + [2] * 4]


def test_mode_1_hides_tokens_of_the_target_alone() -> None:
    out = view(s2s(mode="masked", target_mask_rate=1.0, mask_share=1.0, random_share=0.0))
    assert out.ids.tolist() == [[CLS, 11, 12, SEP, MASK, MASK, MASK, MASK]]
    assert out.labels.tolist() == [[IGNORE] * 4 + [21, 22, 23, SEP]]
    none = view(s2s(mode="masked", target_mask_rate=0.0))
    assert (none.labels != IGNORE).sum() == 1, "one token at least"


def test_mode_2_asks_for_every_token_beside_it() -> None:
    out = view(s2s(target_mask_rate=0.0, mask_share=1.0, random_share=0.0))
    assert out.ids.tolist() == [[CLS, 11, 12, SEP, 21, 22, 23, SEP, MASK, MASK, MASK, MASK]]
    assert out.pos.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]]
    assert out.rank.tolist() == [[0, 0, 0, 0, 1, 2, 3, 4, 1, 2, 3, 4]]
    assert out.probe.tolist() == [[False] * 8 + [True] * 4]
    assert out.labels.tolist() == [[IGNORE] * 8 + [21, 22, 23, SEP]]
    legacy = np.zeros((12, 12), bool)  # the published code's four corners, cell by cell
    legacy[:, :4] = True
    for i in range(4):
        legacy[4 + i, 4 : 4 + i + 1] = True
        legacy[8 + i, 4 : 4 + i] = True
        legacy[8 + i, 8 + i] = True
    legacy[:4, 4:] = False
    assert (allow(out)[0, 0].numpy() == legacy).all()


def test_rates_of_noise_and_masks() -> None:
    long = pair_batch([TextPair([9], list(range(5, 105)) * 10)])
    for mode in ("shift", "pseudo"):
        out = view(s2s(mode=mode, target_mask_rate=0.4, max_target=1000), long)
        clean = view(s2s(mode=mode, target_mask_rate=0.0, max_target=1000), long)
        told = clean.probe[0] if mode == "pseudo" else torch.zeros_like(clean.ids[0], dtype=torch.bool)
        differs = (out.ids != clean.ids)[0][~told].float().mean().item()
        assert differs == pytest.approx(0.4 * 0.9, abs=0.05)
        assert torch.equal(out.labels, clean.labels)
    masked = view(s2s(mode="masked", target_mask_rate=0.7, max_target=1000), long)
    assert (masked.labels != IGNORE).sum().item() == pytest.approx(701, abs=60)


def test_lengths_are_cut_and_segments_chosen() -> None:
    out = view(s2s(max_source=1, max_target=2, source_type=4, target_type=5, target_mask_rate=0.0))
    assert out.ids[0, :6].tolist() == [CLS, 11, SEP, 21, 22, SEP]
    assert out.type[0].tolist() == [4] * 3 + [5] * 6


@given(st.integers(2, 12), st.integers(1, 5), st.floats(0.0, 0.5), st.integers(0, 3))
def test_smoothing_is_the_divergence_from_the_stated_distribution(
    vocab: int, rows: int, smoothing: float, pad: int
) -> None:
    vocab, generator = vocab + 3, torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, vocab, generator=generator)
    labels = torch.tensor([(pad + 1 + i % (vocab - 1)) % vocab for i in range(rows)])
    labels[rows // 2] = IGNORE
    expected = 0.0
    for i in range(rows):
        if labels[i] == IGNORE:
            continue
        q = torch.full((vocab,), smoothing / (vocab - 2), dtype=torch.float64)
        q[pad], q[labels[i]] = 0.0, 1 - smoothing
        logp = torch.log_softmax(logits[i].double(), 0)
        expected += float(torch.special.xlogy(q, q).sum() - (q * logp).sum())
    assert smoothed_cross_entropy(logits, labels, smoothing, pad).item() == pytest.approx(expected, abs=1e-4)


def test_smoothing_has_the_gradient_of_torchs_divergence() -> None:
    logits = torch.randn(3, 9, requires_grad=True)
    labels = torch.tensor([1, 4, 8])
    smoothed_cross_entropy(logits, labels, 0.1).backward()
    q = torch.full((3, 9), 0.1 / 7).scatter(1, labels[:, None], 0.9)
    q[:, 0] = 0.0
    torch.testing.assert_close(logits.grad, torch.softmax(logits.detach(), 1) - q)
    assert smoothed_cross_entropy(logits.bfloat16(), labels, 0.1).dtype == torch.float32


def test_loss_is_the_mean_log_probability_by_a_decoder_that_knows_no_pseudo_masks() -> None:
    """Mode 2 without noise = one forward a token: source, what was written, one mask."""
    model, objective = (
        network(),
        s2s(target_mask_rate=0.0, mask_share=1.0, random_share=0.0, label_smoothing=0.0),
    )
    expected = 0.0
    with torch.no_grad():
        total = objective.loss(model, {"s2s": view(objective)})["s2s"].total.item()
        target = [21, 22, 23, SEP]
        for written in range(4):
            ids = torch.tensor([[CLS, 11, 12, SEP, *target[:written], MASK]])
            ranks = torch.tensor([[0, 0, 0, 0, *range(1, written + 2)]])
            kinds = torch.tensor([[0] * 4 + [1] * (written + 1)])
            langs = kinds + 1
            batch = causal_batch(ids)._replace(rank=ranks, type=kinds, lang=langs)
            logp = torch.log_softmax(model(batch).logits[0, -1], 0)
            expected -= logp[target[written]].item()
    assert total == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["shift", "masked", "pseudo"])
def test_one_batch_equals_several(mode: str) -> None:
    objective, batch, model = s2s(mode=mode), pairs(6), network().double()
    whole = objective.loss(model, objective.build(batch, generators(6)))["s2s"]
    total, count = 0.0, 0
    for start, stop in [(0, 1), (1, 4), (4, 6)]:
        views = objective.build(rows_from(batch, start, stop), generators(6)[start:stop])
        part = objective.loss(model, views)["s2s"]
        total, count = total + part.total.item(), count + part.count
        assert objective.counts(views) == {"s2s": part.count}
    assert count == whole.count and total == pytest.approx(whole.total.item(), rel=1e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_prefix_lm_predicts_the_target_and_its_end(bidirectional: bool) -> None:
    objective = PrefixLM(PrefixConfig(bidirectional=bidirectional), FULL)
    out = objective.build(ONE, [])["prefix"]
    assert out.ids.tolist() == [[11, 12, 21, 22, 23]]
    assert out.labels.tolist() == [[IGNORE, 21, 22, 23, SEP]]
    seen = allow(out)[0, 0].numpy()
    expected = np.tril(np.ones((5, 5), bool))
    expected[:2, :2] |= bidirectional
    assert (seen == expected).all()
    model = network()
    loss = objective.loss(model, {"prefix": out})["prefix"]
    logp = torch.log_softmax(model(out).logits[0], 1)
    wanted = -sum(logp[i, t] for i, t in zip((1, 2, 3, 4), (21, 22, 23, SEP), strict=True))
    torch.testing.assert_close(loss.total, wanted)
    assert loss.count == 4 and isinstance(build(objective.config, FULL), Objective)


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(DataError, match="row 0 is no pair"):
        s2s().build(causal_batch(torch.tensor([[5, 6, 7]])), generators(1))
    with pytest.raises(DataError, match="pair 1: target has no token"):
        pair_batch([TextPair([1], [2]), TextPair([1], [])])
    with pytest.raises(ConfigError, match="no separator"):
        build(Seq2SeqConfig(), Vocabulary.of(["a", "m"], [1], 1))
    source, target = pairs_of(ONE)[0]
    assert (source.ids.tolist(), target.ids.tolist()) == ([11, 12], [21, 22, 23])
