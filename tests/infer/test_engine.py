"""The engine: batches, caches, streams, stops, limits, log-probabilities."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mainspring.data.batch import causal_batch
from mainspring.errors import UsageError
from mainspring.infer import Completion, Engine, GenerateOptions
from mainspring.infer.completion import Generation, Piece, collect
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.config import Rotary
from mainspring.text import Tokenizer

PROMPTS = ["the cat", "naïve 東京の猫は", "t", "the dog sat on the log; the cat sat on"]
SETTINGS = {
    "greedy": GenerateOptions(max_tokens=15),
    "sampled": GenerateOptions(max_tokens=15, temperature=1.0, seed=3, n=2),
    "filtered": GenerateOptions(
        max_tokens=15, temperature=0.9, top_k=20, top_p=0.9, repetition_penalty=1.2, seed=5
    ),
    "beam": GenerateOptions(max_tokens=10, num_beams=3, n=2),
    "stopped": GenerateOptions(max_tokens=25, temperature=1.3, seed=1, stop=("t", "e ", "の")),
    "reported": GenerateOptions(max_tokens=10, temperature=1.0, seed=2, logprobs=3, echo=True),
}


@pytest.fixture(scope="module")
def engine(model: Transformer, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer)


def facts(completions: Sequence[Completion]) -> list[tuple[Any, ...]]:
    return [(c.index, c.text, c.finish, c.prompt_tokens, c.tokens) for c in completions]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_gives_what_each_prompt_gives_alone(engine: Engine, name: str) -> None:
    together = engine.generate(PROMPTS, SETTINGS[name])
    alone = [c for prompt in PROMPTS for c in engine.generate([prompt], SETTINGS[name])]
    assert facts(together) == facts(alone)
    assert [c.prompt for c in together] == [p for p in range(4) for _ in range(SETTINGS[name].n)]


@pytest.mark.parametrize("positions", ["absolute", "rotary"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_cache_changes_nothing(
    model: Transformer, tokenizer: Tokenizer, name: str, positions: str
) -> None:
    if positions == "rotary":
        config = model.config.replace(positions=[Rotary().model_dump()], norm="rms", activation="swiglu")
        model = initialize(Transformer(config), seed=1)
    engine = Engine(model, tokenizer)
    fields = {f: getattr(SETTINGS[name], f) for f in SETTINGS[name].__slots__}
    plain = engine.generate(PROMPTS, GenerateOptions(**{**fields, "use_cache": False}))
    assert facts(engine.generate(PROMPTS, SETTINGS[name])) == facts(plain)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_stream_makes_the_completion(engine: Engine, name: str) -> None:
    options = SETTINGS[name]
    for prompt in PROMPTS:
        pieces = list(engine.stream(prompt, options))
        count = len(engine.tokenizer.encode(prompt))
        assert collect(Generation((count,), iter(pieces))) == engine.generate([prompt], options)
        assert not any(stop in piece.text for piece in pieces for stop in options.stop)


def test_the_greedy_text_is_the_argmax_of_plain_forwards(engine: Engine, model: Transformer) -> None:
    ids = engine.tokenizer.encode("the cat")
    start = len(ids)
    for _ in range(8):
        ids.append(int(model(causal_batch(torch.tensor([ids]))).logits[0, -1].argmax()))
    assert engine.generate(["the cat"], GenerateOptions(max_tokens=8))[0].text == engine.tokenizer.decode(
        ids[start:]
    )


def test_seeds(engine: Engine) -> None:
    def text(seed: int, n: int = 1) -> list[str]:
        options = GenerateOptions(max_tokens=20, temperature=1.0, seed=seed, n=n)
        return [c.text for c in engine.generate(["the"], options)]

    assert text(1) == text(1)
    assert text(1) != text(2)
    assert text(1, 3)[0] == text(1)[0]
    assert len(set(text(1, 3))) == 3


def test_a_prompt_may_be_tokens_or_empty(engine: Engine) -> None:
    ids = engine.tokenizer.encode("the cat")
    assert facts(engine.generate([ids])) == facts(engine.generate(["the cat"]))
    eos = engine.tokenizer.eos
    assert eos is not None
    assert facts(engine.generate([""])) == facts(engine.generate([[eos]]))
    assert engine.generate([]) == []


def test_it_ends_at_the_end_of_text(model: Transformer, tokenizer: Tokenizer) -> None:
    options = GenerateOptions(max_tokens=20)
    usual = Engine(model, tokenizer).generate(["the cat"], options)[0]
    assert usual.finish == "length"
    ids = tokenizer.encode("the cat")
    for _ in range(5):
        ids.append(int(model(causal_batch(torch.tensor([ids]))).logits[0, -1].argmax()))
    last = tokenizer.token(ids[-1])
    assert last is not None
    ended = Tokenizer(tokenizer._inner, {"eos": last})
    completion = Engine(model, ended).generate(["the cat"], options)[0]
    first = ids.index(ids[-1], len(tokenizer.encode("the cat"))) - len(tokenizer.encode("the cat"))
    assert (completion.finish, completion.tokens) == ("stop", first + 1)


def test_stop_strings_cut_the_text(engine: Engine) -> None:
    whole = engine.generate(["the cat"], GenerateOptions(max_tokens=20))[0].text
    stop = whole[5:8]
    cut = engine.generate(["the cat"], GenerateOptions(max_tokens=20, stop=(stop,)))[0]
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish == "stop"
    assert cut.tokens < 20
    beam = engine.generate(
        ["the cat"], GenerateOptions(max_tokens=20, num_beams=4, n=4, stop=("t", "e", "a", " "))
    )
    assert not any(letter in c.text for c in beam for letter in "tea ")


def test_the_context_limit(engine: Engine) -> None:
    assert engine.max_positions == 64
    completion = engine.generate([[5] * 60], GenerateOptions(max_tokens=50))[0]
    assert (completion.tokens, completion.finish) == (4, "length")
    with pytest.raises(
        UsageError, match=r"prompt 1 has 64 tokens and the model has 64 positions.* 63 tokens"
    ):
        engine.start([[5], [5] * 64])
    # A short and a long prompt together: the long one leaves when its positions are used up.
    together = engine.generate([[5] * 62, [7, 8]], GenerateOptions(max_tokens=30))
    assert [c.tokens for c in together] == [2, 30]


def test_rotary_positions_set_no_limit(model: Transformer, tokenizer: Tokenizer) -> None:
    config = model.config.replace(positions=[Rotary().model_dump()])
    engine = Engine(initialize(Transformer(config), seed=1), tokenizer)
    assert engine.generate([[5] * 60], GenerateOptions(max_tokens=20))[0].tokens == 20


def test_wrong_prompts_are_refused_before_anything_runs(engine: Engine) -> None:
    with pytest.raises(UsageError, match="token 300 is not in the vocabulary"):
        engine.start([[1, 300]])
    with pytest.raises(UsageError, match="give a list"):
        engine.generate("text")
    with pytest.raises(UsageError, match="num_beams"):
        engine.generate(["a"], GenerateOptions(num_beams=1000))


def test_tokens_beyond_the_tokenizer_are_never_generated(tokenizer: Tokenizer) -> None:
    config = TransformerConfig(
        d_model=8, n_heads=2, n_layers=1, d_ff=8, vocab_size=tokenizer.vocab_size + 50, max_positions=64
    )
    model = initialize(Transformer(config), seed=0)
    engine = Engine(model, tokenizer)
    options = GenerateOptions(max_tokens=50, temperature=2.0, logprobs=0)
    assert engine.generate(["a"], options)[0].tokens > 0
    assert engine.vocabulary == tokenizer.vocab_size


def test_logprobs_are_the_models(engine: Engine, model: Transformer) -> None:
    options = GenerateOptions(max_tokens=12, temperature=0.7, top_k=5, seed=4, logprobs=4, echo=True)
    completion = engine.generate(["the cat 猫"], options)[0]
    assert completion.logprobs is not None
    entries = completion.logprobs
    prompt = engine.tokenizer.encode("the cat 猫")
    assert entries[0].logprob is None
    assert len(entries) == len(prompt) + completion.tokens
    assert completion.text.startswith("the cat 猫")
    names = {engine.tokenizer.decode([t], False): t for t in range(300)}
    ids = prompt + [names[e.token] for e in entries[len(prompt) :] if e.token in names]
    logprobs = model(causal_batch(torch.tensor([ids]))).logits[0].log_softmax(-1)
    for k, entry in enumerate(entries[1 : len(prompt)], start=1):
        assert entry.logprob == pytest.approx(float(logprobs[k - 1, ids[k]]), abs=1e-4)
        best = logprobs[k - 1].max()
        assert entry.top[0][1] == pytest.approx(float(best), abs=1e-4)
        assert len(entry.top) == 4
    offsets = [e.offset for e in entries]
    assert offsets == sorted(offsets)
    shown = [
        (completion.text[e.offset :].lstrip("\ufffd"), e.token) for e in entries if "\ufffd" not in e.token
    ]
    assert len(shown) > 5
    assert all(text.startswith(token) for text, token in shown)


def test_logprobs_of_beams_and_of_cut_text(engine: Engine) -> None:
    options = GenerateOptions(max_tokens=8, num_beams=3, logprobs=0)
    completion = engine.generate(["the cat"], options)[0]
    assert completion.logprobs is not None and completion.score is not None
    total = sum(e.logprob for e in completion.logprobs if e.logprob is not None)
    assert completion.score == pytest.approx(total / 8, abs=1e-4)
    whole = engine.generate(["the cat"], GenerateOptions(max_tokens=20))[0].text
    cut = engine.generate(["the cat"], GenerateOptions(max_tokens=20, stop=(whole[5:8],), logprobs=0))[0]
    assert cut.logprobs is not None
    assert all(e.offset < len(cut.text) for e in cut.logprobs)


def test_no_tokens_scores_the_prompt(engine: Engine) -> None:
    completion = engine.generate(["the cat"], GenerateOptions(max_tokens=0, echo=True, logprobs=0))[0]
    assert (completion.text, completion.tokens, completion.finish) == ("the cat", 0, "length")
    assert completion.logprobs is not None
    assert len(completion.logprobs) == completion.prompt_tokens
    assert engine.generate(["a"], GenerateOptions(max_tokens=0))[0].text == ""


def test_closing_a_stream_ends_the_work(model: Transformer, tokenizer: Tokenizer) -> None:
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        stream = Engine(model, tokenizer).stream("the cat", GenerateOptions(max_tokens=40))
        assert isinstance(next(stream), Piece)
        stream.close()  # type: ignore[attr-defined]
        assert len(calls) <= 2
        assert next(stream, None) is None
        assert not torch.is_inference_mode_enabled()
    finally:
        handle.remove()
