"""Filters beside transformers' and beside the definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mainspring.infer.logits import keep_top_k, keep_top_p, penalize_repetition, sampling_logits
from mainspring.infer.options import GenerateOptions


def random_logits(seed: int, rows: int = 3, vocabulary: int = 40) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.7])
def test_repetition_penalty_is_transformers(penalty: float) -> None:
    logits, ids = random_logits(0), torch.tensor([[1, 2, 2], [5, 6, 7], [0, 39, 0]])
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids, True)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    assert torch.equal(penalize_repetition(logits, seen, penalty), theirs)


@given(st.integers(0, 10_000), st.integers(1, 50), st.floats(0.01, 0.99), st.floats(0.1, 3))
def test_filters_are_transformers(seed: int, k: int, p: float, temperature: float) -> None:
    logits = random_logits(seed)
    ids = torch.zeros((3, 1), dtype=torch.int64)
    theirs = logits.clone()
    for warp in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(k), TopPLogitsWarper(p)):
        theirs = warp(ids, theirs)
    ours = sampling_logits(logits, GenerateOptions(temperature=temperature, top_k=k, top_p=p))
    assert torch.equal(ours, theirs)


@given(st.integers(0, 10_000), st.floats(0.01, 1.0))
def test_the_nucleus_is_the_smallest_set_that_reaches_p(seed: int, p: float) -> None:
    logits = random_logits(seed, rows=1).double()
    kept = keep_top_p(logits, p)[0] > -torch.inf
    probability = logits[0].softmax(-1)
    mass, least = probability[kept].sum(), probability[kept].min()
    assert mass >= p - 1e-12 or kept.all()
    assert kept.sum() == 1 or mass - least < p


def test_bounds() -> None:
    logits = random_logits(1)
    assert keep_top_k(logits, 0) is logits
    assert keep_top_k(logits, 40) is logits
    assert keep_top_p(logits, 1.0) is logits
    assert (keep_top_k(logits, 1) > -torch.inf).sum() == 3
    assert (keep_top_p(logits, 1e-9) > -torch.inf).sum() == 3


def test_a_temperature_near_zero_is_the_greatest_and_not_nan() -> None:
    logits = random_logits(2)
    probability = sampling_logits(logits, GenerateOptions(temperature=1e-40)).softmax(-1)
    assert torch.equal(probability.argmax(-1), logits.argmax(-1))
    assert torch.allclose(probability.amax(-1), torch.ones(3))
