"""Phrases on a small model that learns a few lines by heart, and against a scan of all continuations."""

import time

import pytest
import torch

from mainspring.data.batch import causal_batch
from mainspring.infer import Engine
from mainspring.models import ModelConfig, resolve
from mainspring.nn import Transformer, initialize
from mainspring.products.suggest import Suggester
from mainspring.products.suggest.phrases import CausalPhrases
from mainspring.text.train import train_tokenizer

LINES = [
    "spring water is clear",
    "spring cleaning begins",
    "mainspring of a watch",
    "winter is cold",
    "Winter sports",
] * 8


@pytest.fixture(scope="module")
def engine() -> Engine:
    tokenizer = train_tokenizer(LINES, kind="bpe", vocab_size=300)
    model = initialize(
        Transformer(
            resolve(ModelConfig(family="gpt2", preset="tiny", config={"dropout": 0.0}), tokenizer.vocab_size)
        ),
        seed=0,
    )
    assert tokenizer.eos is not None
    rows = [[tokenizer.eos, *tokenizer.encode(line), tokenizer.eos] for line in LINES[:5]]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        whole = 0.0
        for row in rows:
            ids = torch.tensor([row])
            logits = model(causal_batch(ids)).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            whole += float(loss.detach()) * (len(row) - 1)
        if whole < 10:  # by heart: of the five lines together, ln 5 each for its first word comes to 8
            break
    return Engine(model, tokenizer)


@pytest.fixture(scope="module")
def phrases(engine: Engine) -> CausalPhrases:
    return CausalPhrases(engine, tokens=14)


@pytest.mark.parametrize(
    "typed", ["spri", "spring", "spring ", "spring wa", "SPRING Wa", "mainspring of", "w", "winter s"]
)
def test_what_is_written_continues_what_was_typed(phrases: CausalPhrases, typed: str) -> None:
    found = phrases.complete(typed, 4)
    assert found
    for suggestion in found:
        assert suggestion.text.casefold().startswith(typed.strip().casefold())
        assert len(suggestion.text) > len(typed.strip())
    assert [s.weight for s in found] == sorted((s.weight for s in found), reverse=True)


def test_what_was_learnt_is_what_is_suggested(phrases: CausalPhrases) -> None:
    assert "spring water is clear" in [s.text for s in phrases.complete("spring wa", 4)]
    assert "mainspring of a watch" in [s.text for s in phrases.complete("mainsp", 4)]
    assert "Winter sports" in [s.text for s in phrases.complete("Winter sp", 4)]
    assert phrases.complete("", 3) == []
    assert phrases.complete("zq\u4e2d", 3) == [] or phrases.complete("zq\u4e2d", 3)[0].text.startswith(
        "zq\u4e2d"
    )


def test_the_tail_follows_the_head(phrases: CausalPhrases) -> None:
    suggester = Suggester({"spring sale": 9}, [], phrases)
    found = suggester.suggest("spring", 4)
    assert (found[0].text, found[0].kind) == ("spring sale", "query")
    assert {s.kind for s in found[1:]} == {"phrase"}


def test_it_is_quick(phrases: CausalPhrases) -> None:
    phrases.complete("spring wa", 4)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        phrases.complete("spring wa", 4)
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 0.5  # loose: a machine may be busy; benchmarks/search.py measures
