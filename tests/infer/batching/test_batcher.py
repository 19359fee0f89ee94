"""Requests that join and leave a running batch get the text that they would get alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.errors import ConfigError, UsageError
from mainspring.infer import Completion, Engine, GenerateOptions, Generation, Piece
from mainspring.infer.batching import Batcher, BatchSettings, DeadlineError, Request
from mainspring.infer.completion import collect
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.config import Rotary
from mainspring.text import Tokenizer

WORDS = ["the", "cat", "sat", "on", "mat;", "dog", "log", "naïve", "café", "東京の猫", "🐈🐟", "наука"]
SMALL = BatchSettings(slots=4, chunk=8, prefix_block=4)


@pytest.fixture(scope="session")
def engine(model: Transformer, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer)


def run(
    batcher: Batcher,
    asked: Sequence[tuple[list[str], GenerateOptions]],
    arrivals: Sequence[int] | None = None,
) -> list[list[Completion]]:
    """Put each request in line at its step, and run to the end."""
    due = [0] * len(asked) if arrivals is None else arrivals
    requests: dict[int, Request] = {}
    pieces: dict[Request, list[Piece]] = {}
    step = 0
    while len(requests) < len(asked) or batcher.busy:
        for k, (prompts, options) in enumerate(asked):
            if k not in requests and due[k] <= step:
                requests[k] = batcher.add(batcher.prepare(prompts, options))
                pieces[requests[k]] = []
        for news in batcher.step():
            assert news.fault is None and news.piece is not None
            pieces[news.request].append(news.piece)
        step += 1
        assert step < 2000
    return [
        collect(Generation(requests[k].prepared.prompt_tokens, iter(pieces[requests[k]])))
        for k in range(len(asked))
    ]


def texts(completions: Sequence[Completion]) -> list[tuple[object, ...]]:
    return [(c.prompt, c.index, c.text, c.finish, c.prompt_tokens, c.tokens) for c in completions]


def check(
    engine: Engine, batcher: Batcher, asked: list[tuple[list[str], GenerateOptions]], due: list[int]
) -> None:
    got = run(batcher, asked, due)
    for (prompts, options), completions in zip(asked, got, strict=True):
        alone = engine.generate(prompts, options)
        assert texts(completions) == texts(alone)
        for one, other in zip(completions, alone, strict=True):
            assert (one.logprobs is None) == (other.logprobs is None)
            for entry, expected in zip(one.logprobs or (), other.logprobs or (), strict=True):
                assert (entry.token, entry.offset) == (expected.token, expected.offset)
                assert entry.logprob == pytest.approx(expected.logprob, abs=1e-3)
    assert batcher.stats().tokens == 0


OPTIONS = st.builds(
    GenerateOptions,
    max_tokens=st.integers(0, 12),
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.8]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    no_repeat_ngram=st.sampled_from([0, 0, 2]),
    n=st.integers(1, 3),
    stop=st.sampled_from([(), ("e",), ("at", "猫")]),
    seed=st.integers(0, 5),
    logprobs=st.sampled_from([None, None, 2]),
)
REQUEST = st.tuples(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=2),
    OPTIONS,
)


@settings(max_examples=25)
@given(asked=st.lists(REQUEST, min_size=1, max_size=6), data=st.data())
def test_every_order_of_arrival_gives_the_text_of_one_alone(
    engine: Engine, asked: list[tuple[list[str], GenerateOptions]], data: st.DataObject
) -> None:
    due = data.draw(st.lists(st.integers(0, 8), min_size=len(asked), max_size=len(asked)))
    check(engine, Batcher(engine, SMALL), asked, due)


@pytest.mark.parametrize("positions", ["rotary", "t5"])
def test_other_positions(tokenizer: Tokenizer, model: Transformer, positions: str) -> None:
    scheme = Rotary().model_dump() if positions == "rotary" else {"kind": "t5_bias", "bidirectional": False}
    config = model.config.replace(positions=[scheme])
    engine = Engine(initialize(Transformer(config), seed=1).requires_grad_(False), tokenizer)
    asked = [
        ([" ".join(WORDS[k:])], GenerateOptions(max_tokens=5 + k, temperature=0.5, seed=k)) for k in range(5)
    ]
    check(engine, Batcher(engine, SMALL), asked, [0, 0, 1, 3, 3])


def test_more_requests_than_slots_and_more_completions(engine: Engine) -> None:
    asked = [(["the cat"], GenerateOptions(max_tokens=6, n=6, temperature=1.0, seed=2))]
    asked += [([w], GenerateOptions(max_tokens=4)) for w in WORDS]
    check(engine, Batcher(engine, SMALL), asked, [0] * len(asked))


def test_what_cannot_join_takes_its_turn(engine: Engine) -> None:
    asked = [
        (["the cat"], GenerateOptions(max_tokens=6, num_beams=3, n=2)),
        (["the dog"], GenerateOptions(max_tokens=6)),
        (["the mat"], GenerateOptions(max_tokens=3, echo=True, logprobs=1)),
        (["on the log"], GenerateOptions(max_tokens=3, use_cache=False)),
        (["sat"], GenerateOptions(max_tokens=0, echo=True)),
        (["sat"], GenerateOptions(max_tokens=5, echo=True, n=2)),
    ]
    batcher = Batcher(engine, SMALL)
    reasons = [batcher.add(batcher.prepare(*one)).alone for one in asked]
    assert [reason is not None for reason in reasons] == [True, False, True, True, False, False]
    assert "beams" in str(reasons[0])
    check(engine, Batcher(engine, SMALL), asked, [0] * len(asked))


def test_a_model_that_takes_no_cache_says_so_and_works(tokenizer: Tokenizer, model: Transformer) -> None:
    config = model.config.replace(conv={"kernel": 3})
    engine = Engine(initialize(Transformer(config), seed=1).requires_grad_(False), tokenizer)
    batcher = Batcher(engine, SMALL)
    assert batcher.alone is not None and "convolution" in batcher.alone
    check(engine, batcher, [([w], GenerateOptions(max_tokens=3)) for w in WORDS[:3]], [0, 0, 1])


def test_running_text_is_not_held_up_by_a_long_prompt(engine: Engine) -> None:
    batcher = Batcher(engine, BatchSettings(slots=4, chunk=8))
    running = batcher.add(batcher.prepare(["the"], GenerateOptions(max_tokens=20)))
    batcher.step()
    long = batcher.add(batcher.prepare([[5] * 40], GenerateOptions(max_tokens=2)))
    for _ in range(4):  # 32 of 40 tokens: the first text goes on with each step
        news = batcher.step()
        assert [n.request for n in news] == [running]
    assert {n.request for n in batcher.step()} == {running, long}


def test_short_prompts_are_read_together(engine: Engine) -> None:
    batcher = Batcher(engine, BatchSettings(slots=4, chunk=64))
    for word in WORDS[:4]:
        batcher.add(batcher.prepare([word], GenerateOptions(max_tokens=2)))
    calls: list[int] = []
    handle = engine.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        assert len(batcher.step()) == 4
    finally:
        handle.remove()
    assert len(calls) == 1


def test_a_prefix_is_read_once(engine: Engine) -> None:
    batcher = Batcher(engine, BatchSettings(slots=4, chunk=64, prefix_block=4))
    common = [5, 6, 7, 8] * 5
    asked = [([[*common, 9 + k]], GenerateOptions(max_tokens=4)) for k in range(3)]
    for one in asked:
        assert texts(run(batcher, [one])[0]) == texts(engine.generate(*one))
    stats = batcher.stats()
    assert (stats.prompt_tokens, stats.reused_tokens) == (21 + 1 + 1, 40)
    # A text goes on from what was written before.
    first = engine.generate([common], GenerateOptions(max_tokens=8))[0]
    assert first.tokens == 8
    held = list(common)
    for _ in range(8):
        index = torch.tensor([held])
        from mainspring.data.batch import causal_batch

        held.append(int(engine.model(causal_batch(index)).logits[0, -1, : engine.vocabulary].argmax()))
    run(batcher, [([common], GenerateOptions(max_tokens=8))])
    before = batcher.stats().prompt_tokens
    run(batcher, [([[*held, 3]], GenerateOptions(max_tokens=1))])
    assert batcher.stats().prompt_tokens - before == len(held) + 1 - (len(held) - 1) // 4 * 4


def test_prefixes_stay_within_their_bytes(engine: Engine) -> None:
    token = 2 * 2 * 32 * 4 + 16
    batcher = Batcher(engine, BatchSettings(slots=2, prefix_block=4, prefix_bytes=10 * 4 * token))
    for k in range(12):
        run(batcher, [([[10 + k] * 13], GenerateOptions(max_tokens=2))])
        assert batcher.stats().prefix_bytes <= 10 * 4 * token
    assert batcher.stats().prefix_bytes > 5 * 4 * token
    before = batcher.stats().reused_tokens
    run(batcher, [([[10] * 13], GenerateOptions(max_tokens=2))])  # forgotten
    assert batcher.stats().reused_tokens == before
    run(batcher, [([[21] * 13], GenerateOptions(max_tokens=2))])  # the last but one
    assert batcher.stats().reused_tokens == before + 12
    none = Batcher(engine, BatchSettings(prefix_bytes=0))
    run(none, [([[9] * 40], GenerateOptions(max_tokens=2))] * 2)
    assert (none.stats().prefix_bytes, none.stats().reused_tokens) == (0, 0)


def test_cancelled_requests_leave(engine: Engine) -> None:
    batcher = Batcher(engine, SMALL)
    stay = (["the cat"], GenerateOptions(max_tokens=10))
    kept = batcher.add(batcher.prepare(*stay))
    gone = [batcher.add(batcher.prepare(["the dog"], GenerateOptions(max_tokens=20))) for _ in range(6)]
    gone.append(batcher.add(batcher.prepare(["a"], GenerateOptions(max_tokens=9, num_beams=2))))
    pieces = [n.piece for n in batcher.step() if n.request is kept]
    for request in gone:
        request.cancelled = True
    while batcher.busy:
        for news in batcher.step():
            assert news.request is kept
            pieces.append(news.piece)
    assert "".join(p.text for p in pieces if p) == engine.generate(*stay)[0].text
    batcher.rest()
    assert batcher.stats().cache_bytes == 0


def test_deadlines(engine: Engine) -> None:
    now = [0.0]
    batcher = Batcher(engine, SMALL, clock=lambda: now[0])
    options = GenerateOptions(max_tokens=30)
    early = [batcher.add(batcher.prepare([w], options), deadline=5.0) for w in WORDS[:6]]
    late = batcher.add(batcher.prepare(["the cat"], options), deadline=50.0)
    for _ in range(3):
        assert all(n.fault is None for n in batcher.step())
    now[0] = 6.0
    told = [n.request for n in batcher.step() if isinstance(n.fault, DeadlineError)]
    assert set(told) == set(early)
    assert len(told) == 6
    pieces = []
    while batcher.busy:
        pieces += [n.piece for n in batcher.step() if n.request is late]
    assert pieces[-1] is not None and pieces[-1].finish is not None


def test_everything_is_given_up(engine: Engine) -> None:
    batcher = Batcher(engine, SMALL)
    requests = [batcher.add(batcher.prepare([w], GenerateOptions(max_tokens=9))) for w in WORDS[:6]]
    batcher.step()
    fault = RuntimeError("the model fell over")
    news = batcher.end(fault)
    assert {n.request for n in news} == set(requests)
    assert all(n.fault is fault for n in news)
    assert not batcher.busy
    check(engine, batcher, [(["the cat"], GenerateOptions(max_tokens=5))], [0])


def test_a_row_beyond_the_context_is_refused(tokenizer: Tokenizer, model: Transformer) -> None:
    config = model.config.replace(positions=[Rotary().model_dump()])
    engine = Engine(initialize(Transformer(config), seed=1), tokenizer)
    batcher = Batcher(engine, BatchSettings(context=20))
    with pytest.raises(
        UsageError, match="15 tokens and may be continued by 6: together 21, and a row holds 20"
    ):
        batcher.add(batcher.prepare([[5] * 15], GenerateOptions(max_tokens=6)))
    assert len(run(batcher, [([[5] * 15], GenerateOptions(max_tokens=5))])[0]) == 1  # type: ignore[list-item]


@pytest.mark.parametrize("field", ["slots", "context", "chunk", "prefix_block"])
def test_settings_are_checked(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        BatchSettings(**{field: 0})


def test_experts_with_little_room_run_alone(tokenizer: Tokenizer) -> None:
    experts = {"count": 2}
    shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 32, "vocab_size": tokenizer.vocab_size}
    for factor, alone in ((2.0, True), (None, False)):
        config = TransformerConfig(
            **shape, max_positions=64, experts={**experts, "eval_capacity_factor": factor}
        )
        engine = Engine(initialize(Transformer(config), seed=1), tokenizer)
        assert (Batcher(engine).alone is not None) == alone
