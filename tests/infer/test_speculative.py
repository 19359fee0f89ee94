"""Speculative decoding draws what the large model alone draws."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mainspring.data.batch import causal_batch
from mainspring.errors import UsageError
from mainspring.infer import Engine, GenerateOptions
from mainspring.infer.logits import sampling_logits
from mainspring.infer.sample import row_generator, sample
from mainspring.infer.speculative import accept
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.text import Tokenizer, train_tokenizer

PROMPTS = ["the cat", "naïve café", "東京の猫 🐈", "the dog sat on"]


@pytest.fixture(scope="module")
def engine(model: Transformer, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer, name="large")


@pytest.fixture(scope="module")
def draft(model: Transformer, tokenizer: Tokenizer) -> Engine:
    """Near the large model, but another: some drafts are kept, some are not."""
    other = Transformer(model.config)
    generator = torch.Generator().manual_seed(0)
    other.load_state_dict(
        {k: v + 0.02 * torch.randn(v.shape, generator=generator) for k, v in model.state_dict().items()}
    )
    return Engine(other.requires_grad_(False), tokenizer, name="small")


@given(st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9), st.integers(0, 10**6))
@settings(max_examples=3)
def test_one_token_of_a_draft_is_distributed_as_the_target(numbers: list[float], seed: int) -> None:
    p, q, after = torch.tensor(numbers, dtype=torch.float64).view(3, 3).add(1e-3)
    p, q, after = p / p.sum(), q / q.sum(), after / after.sum()
    generator, counts, draws = row_generator(seed, 0), torch.zeros(3, 4), 1500
    for _ in range(draws):
        token = int(sample(q.log()[None], [generator]))
        first, *more = accept(lambda k: (p, after)[k], [token], q[None], generator)
        counts[first, more[0] if more else 3] += 1
    first = counts.sum(1)
    assert chisquare(first.numpy(), (p * draws).numpy()).pvalue > 1e-6
    kept = torch.minimum(p, q)
    expected = torch.cat([kept[:, None] * after, (p - q).clamp(min=0)[:, None]], 1)
    assert torch.allclose(expected.sum(1), p)
    found = counts / draws
    assert float((found - expected).abs().max()) < 5 * (0.25 / draws) ** 0.5


@pytest.mark.parametrize(
    "options",
    [
        GenerateOptions(temperature=1.0),
        GenerateOptions(temperature=0.7, top_k=3),
        GenerateOptions(temperature=1.4, top_p=0.8, repetition_penalty=1.4),
    ],
    ids=["plain", "top-k", "top-p and penalty"],
)
def test_sequences_are_distributed_as_enumerated(options: GenerateOptions) -> None:
    """Every text of three tokens or fewer over a vocabulary of five, with its exact probability."""
    inner = train_tokenizer(["abcd"], "bpe", 300)
    config = TransformerConfig(
        d_model=8, n_heads=2, n_layers=1, d_ff=8, vocab_size=5, max_positions=8, init_std=0.6
    )
    large, small = (
        Engine(initialize(Transformer(config), seed=s).requires_grad_(False), inner) for s in (1, 2)
    )
    length, draws, exact = 3, 1200, dict[tuple[int, ...], float]()

    def enumerate_from(text: tuple[int, ...], chance: float) -> None:
        if len(text) == length or text[-1:] == (large.layout.end,):
            exact[text] = chance
            return
        said = [2, *text]
        logits = large.model(causal_batch(torch.tensor([said]))).logits[:, -1]
        penalty, seen = options.repetition_penalty, torch.zeros(1, 5, dtype=torch.bool)
        seen[0, said] = True
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
        for token, share in enumerate(sampling_logits(logits, options).double().softmax(-1)[0].tolist()):
            enumerate_from((*text, token), chance * share)

    enumerate_from((), 1.0)
    assert sum(exact.values()) == pytest.approx(1.0)
    found = dict.fromkeys(exact, 0)
    settings = replace(options, max_tokens=length, n=draws, draft=small, draft_tokens=2, logprobs=0, seed=5)
    completions = large.generate([[2]], settings)
    names = {inner.decode([t], False): t for t in range(5)}
    assert len(names) == 5
    for completion in completions:
        found[tuple(names[e.token] for e in completion.logprobs or ())] += 1
    drafted = sum(c.speculation.drafted for c in completions if c.speculation)
    accepted = sum(c.speculation.accepted for c in completions if c.speculation)
    assert 0.05 * drafted < accepted < 0.98 * drafted
    # Texts that are rarely drawn are taken together, as the test wants.
    often = [text for text, chance in exact.items() if chance * draws >= 5]
    rest = [
        sum(exact[t] for t in exact if t not in often) * draws,
        sum(found[t] for t in exact if t not in often),
    ]
    wanted, seen_counts = [exact[t] * draws for t in often], [found[t] for t in often]
    if rest[0] > 0:
        wanted.append(rest[0])
        seen_counts.append(int(rest[1]))
    assert chisquare(seen_counts, wanted).pvalue > 1e-4


@pytest.mark.parametrize("k", [1, 3, 7])
def test_greedy_is_the_large_models_text(engine: Engine, draft: Engine, k: int) -> None:
    for extra in (
        {},
        {"stop": ("e", "猫")},
        {"repetition_penalty": 1.3, "no_repeat_ngram": 2},
        {"logprobs": 2},
    ):
        alone = engine.generate(PROMPTS, GenerateOptions(max_tokens=24, **extra))
        found = engine.generate(PROMPTS, GenerateOptions(max_tokens=24, draft=draft, draft_tokens=k, **extra))
        assert [(c.text, c.finish, c.tokens) for c in found] == [(c.text, c.finish, c.tokens) for c in alone]
        for one, other in zip(found, alone, strict=True):
            for entry, expected in zip(one.logprobs or (), other.logprobs or (), strict=True):
                assert entry.token == expected.token
                assert entry.logprob == pytest.approx(expected.logprob, abs=1e-3)
        assert all(c.speculation is None for c in alone)


def test_the_rate_of_acceptance_is_told(engine: Engine, draft: Engine) -> None:
    options = GenerateOptions(max_tokens=33, draft=engine, draft_tokens=4)
    (same,) = engine.generate(["the cat"], options)
    assert same.tokens == 33
    assert same.speculation is not None
    assert same.speculation.rate == 1.0
    calls: list[int] = []
    handle = engine.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        (found,) = engine.generate(["the cat"], GenerateOptions(max_tokens=33, draft=draft))
    finally:
        handle.remove()
    assert found.speculation is not None
    assert 0 < found.speculation.accepted < found.speculation.drafted
    # Each forward of the large model gives one token and those that it kept.
    assert len(calls) == 33 - found.speculation.accepted
    assert len(calls) < 33


def test_seeds_and_batches(engine: Engine, draft: Engine) -> None:
    options = GenerateOptions(max_tokens=12, temperature=1.0, n=2, seed=3, draft=draft)
    one, other = engine.generate(PROMPTS, options), engine.generate(PROMPTS, options)
    assert one == other
    for p, prompt in enumerate(PROMPTS):
        assert [c.text for c in engine.generate([prompt], options)] == [c.text for c in one if c.prompt == p]


def test_the_end_of_positions(engine: Engine, tokenizer: Tokenizer) -> None:
    config = engine.model.config.replace(max_positions=40)
    short = Engine(initialize(Transformer(config), seed=1).requires_grad_(False), tokenizer)
    for length in (30, 50):
        options = GenerateOptions(max_tokens=40)
        alone = engine.generate([[5] * length, [6, 7]], options)
        found = engine.generate([[5] * length, [6, 7]], GenerateOptions(max_tokens=40, draft=short))
        assert [(c.text, c.finish) for c in found] == [(c.text, c.finish) for c in alone]
    found = engine.generate(["a"], GenerateOptions(max_tokens=0, echo=True, draft=short))
    assert (found[0].text, found[0].tokens) == ("a", 0)


def test_a_draft_that_does_not_fit_is_refused(engine: Engine, draft: Engine, model: Transformer) -> None:
    other = Engine(model, train_tokenizer(["xyz"] * 9, "bpe", 280), name="foreign")
    with pytest.raises(UsageError, match="'foreign' has another tokenizer"):
        engine.start(["a"], GenerateOptions(draft=other))
    with pytest.raises(UsageError, match="num_beams"):
        engine.start(["a"], GenerateOptions(draft=draft, num_beams=2))
    config = model.config.replace(conv={"kernel": 3})
    whole = Engine(initialize(Transformer(config), seed=1), engine.tokenizer, name="whole")
    with pytest.raises(UsageError, match="'whole' cannot take part.*convolution"):
        engine.start(["a"], GenerateOptions(draft=whole))
