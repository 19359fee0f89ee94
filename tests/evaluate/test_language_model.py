"""Scores of a network: against sums by hand, whatever the batches, on the very tokens of the baselines."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mainspring.data import TokenBatch, TokenData, causal_batch, holdout_rows
from mainspring.errors import DataError
from mainspring.evaluate.comparison import Comparison, compare, title
from mainspring.evaluate.language_model import (
    LMScore,
    baselines,
    evaluate,
    held_out,
    score_rows,
    training_stream,
)
from mainspring.infer import Engine
from mainspring.nn import Transformer, TransformerConfig, initialize
from support.tiny_run import build_data

SEQ = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """Made-up sentences as tokens."""
    return TokenData.open(build_data(tmp_path_factory.mktemp("evaluate") / "data"))


@pytest.fixture(scope="module")
def model(data: TokenData) -> Transformer:
    """A random model of the data's vocabulary."""
    config = TransformerConfig(
        d_model=16, n_heads=2, n_layers=1, d_ff=32, vocab_size=data.vocab_size, max_positions=64, init_std=0.5
    )
    return initialize(Transformer(config), 3)


def test_the_score_is_the_sum_by_hand(data: TokenData, model: Transformer) -> None:
    nats, tokens, text = 0.0, 0, 0
    for batch in holdout_rows(data, SEQ, batch_rows=1):
        assert batch.labels is not None
        with torch.no_grad():
            p = model(batch).logits.double().softmax(-1)[0]
        for t, label in enumerate(batch.labels[0].tolist()):
            if label >= 0:
                nats -= math.log(p[t, label])
                tokens += 1
                text += data.tokenizer.token_bytes([label])
    score = evaluate(model, data, seq_len=SEQ)
    assert score.tokens == tokens
    assert score.bytes == text
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / text, rel=1e-6)
    assert score.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-6)


def test_it_does_not_depend_on_batches_and_leaves_the_mode(data: TokenData, model: Transformer) -> None:
    model.train()
    told: list[int] = []
    one = score_rows(model, holdout_rows(data, SEQ, batch_rows=1), data.tokenizer)
    many = score_rows(model, holdout_rows(data, SEQ, batch_rows=64), data.tokenizer, progress=told.append)
    assert model.training
    assert many.bits_per_byte == pytest.approx(one.bits_per_byte, rel=1e-6)
    assert told[-1] == one.tokens


def test_a_part_is_a_beginning(data: TokenData) -> None:
    every = [batch.ids for batch in held_out(data, SEQ)]
    part = [batch.ids for batch in held_out(data, SEQ, 100)]
    assert 0 < len(part) < len(every)
    assert all(torch.equal(a, b) for a, b in zip(part, every, strict=False))


def test_baselines_score_the_same_tokens_and_learn(data: TokenData, model: Transformer) -> None:
    own = evaluate(model, data, seq_len=SEQ)
    found = baselines(data, seq_len=SEQ, order=3)
    assert set(found) == {"unigram", "kneser_ney_3"}
    assert {(s.tokens, s.bytes) for s in found.values()} == {(own.tokens, own.bytes)}
    assert found["kneser_ney_3"].bits_per_byte < found["unigram"].bits_per_byte < own.bits_per_byte
    # The n-grams see across rows, so their scores are those of other rows too, on tokens that both score.
    longer = baselines(data, seq_len=2 * SEQ, order=3)
    assert longer["kneser_ney_3"].bits_per_byte == pytest.approx(
        found["kneser_ney_3"].bits_per_byte, rel=1e-9
    )


def test_the_training_stream_is_bounded(data: TokenData) -> None:
    whole = training_stream(data, 10**9)
    assert whole.starts.sum() == sum(s.documents for s in data.split("train").values())
    assert len(training_stream(data, 1000).ids) <= 1000


def test_nothing_to_score_is_an_error(data: TokenData, model: Transformer) -> None:
    plain: list[TokenBatch] = [causal_batch(torch.tensor([[1, 2, 3]]))]
    with pytest.raises(DataError, match="0 tokens to predict"):
        score_rows(model, plain, data.tokenizer)


def test_comparison_says_who_is_better() -> None:
    scores = {"unigram": LMScore(4.0, 100.0, 10, 30), "kneser_ney_5": LMScore(2.0, 20.0, 10, 30)}
    result = Comparison("mine", LMScore(3.0, 50.0, 10, 30), scores, 16, 1.0, 2.0)
    assert "25.0% better (lower) than unigram (4.000)" in result.verdict
    assert "50.0% worse (higher) than Kneser-Ney 5-gram (2.000)" in result.verdict
    assert Comparison.from_dict(result.as_dict()) == result
    assert title("kneser_ney_2") == "Kneser-Ney 2-gram"


def test_what_does_not_fit_is_refused(data: TokenData, model: Transformer, tmp_path: Path) -> None:
    engine = Engine(model, data.tokenizer)
    with pytest.raises(DataError, match="seq_len = 100: the model has 64 positions"):
        compare(engine, data, seq_len=100)
    other = TokenData.open(build_data(tmp_path / "other", vocab_size=300, documents=60))
    with pytest.raises(
        DataError, match=r"another tokenizer \(300 entries\) than the model's \(320 entries\)"
    ):
        compare(engine, other, seq_len=SEQ)
