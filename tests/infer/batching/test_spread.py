"""Requests join and leave the running batch of a model that is cut over ranks, and get the same text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mainspring.errors import RunFault, UsageError
from mainspring.infer import Engine, GenerateOptions, Piece
from mainspring.infer.batching import Batcher, BatchSettings, DeadlineError, Request, SpreadBatcher, follow
from mainspring.infer.completion import Generation, collect
from mainspring.infer.load import Shape
from mainspring.infer.tensor_parallel import spread
from mainspring.nn import Transformer, initialize
from mainspring.parallel import Plan
from mainspring.text import Tokenizer
from support.spawn import run_ranks
from support.toy import small

pytestmark = pytest.mark.distributed

SETTINGS = BatchSettings(slots=4, chunk=8, prefix_block=4)
ASKED = (
    (["the cat sat on the mat; the dog"], GenerateOptions(max_tokens=12)),
    (["the cat sat on the mat; the log"], GenerateOptions(max_tokens=5, temperature=1.0, seed=3, n=3)),
    (["naïve café", "the"], GenerateOptions(max_tokens=9, repetition_penalty=1.3)),
    (["the dog"], GenerateOptions(max_tokens=6, num_beams=3)),
    (["on the log; the cat"], GenerateOptions(max_tokens=12, logprobs=2)),
)


def pair(world: int, folder: str) -> tuple[Engine, Engine]:
    """This rank's part of an engine, and the whole one."""
    tokenizer = Tokenizer.load(folder)
    size = tokenizer.vocab_size
    config = small(size, d_model=32, n_heads=4, n_layers=2, d_ff=64, vocab_rows=320, max_positions=64)
    whole = initialize(Transformer(config), seed=0).eval().requires_grad_(False)
    shape = Shape(config=config)
    part = spread(shape, whole.state_dict(), Plan(tensor=world), torch.float32, torch.device("cpu"))
    return Engine(part, tokenizer), Engine(whole, tokenizer)


def lead(engine: Engine, whole: Engine) -> dict[str, Any]:
    clock = [0.0]
    batcher = SpreadBatcher(engine, SETTINGS, clock=lambda: clock[0])
    pieces: dict[Request, list[Piece]] = {}
    faults: dict[Request, Exception] = {}

    def step() -> None:
        clock[0] += 1
        for news in batcher.step():
            if news.piece is not None:
                pieces.setdefault(news.request, []).append(news.piece)
            if news.fault is not None:
                faults[news.request] = news.fault

    requests = []
    for prompts, options in ASKED:  # one joins every two steps
        requests.append(batcher.add(batcher.prepare(prompts, options)))
        step()
        step()
    unwanted = batcher.add(batcher.prepare(["the mat"], GenerateOptions(max_tokens=40)))
    late = batcher.add(batcher.prepare(["the mat"], GenerateOptions(max_tokens=40)), clock[0] + 4)
    step()
    step()
    unwanted.cancelled = True
    while batcher.busy:
        step()
    batcher.rest()
    same = [
        [one.text for one in collect(Generation(r.prepared.prompt_tokens, iter(pieces[r])))]
        == [one.text for one in whole.generate(prompts, options)]
        for r, (prompts, options) in zip(requests, ASKED, strict=True)
    ]
    broken = batcher.add(batcher.prepare(["the mat"], GenerateOptions(max_tokens=40)))
    step()
    ended = [(news.request is broken, str(news.fault)) for news in batcher.end(RunFault("stopping"))]
    with pytest.raises(UsageError, match="takes no draft model"):
        batcher.prepare(["the mat"], GenerateOptions(draft=whole))
    reused, left = batcher.stats().reused_tokens, batcher.stats().tokens
    batcher.release()
    return {
        "same": same, "reused": reused, "left": left, "ended": ended,
        "late": isinstance(faults.pop(late), DeadlineError), "faults": len(faults),
        "unwanted": len(pieces.get(unwanted, [])),
    }  # fmt: skip


def batch_on_ranks(rank: int, world: int, folder: str) -> dict[str, Any]:
    engine, whole = pair(world, folder)
    if rank == 0:
        return lead(engine, whole)
    follow(engine, SETTINGS)
    return {}


def test_requests_get_the_text_that_one_process_writes(tokenizer: Tokenizer, tmp_path: Any) -> None:
    tokenizer.save(tmp_path)
    found = run_ranks(batch_on_ranks, 2, str(tmp_path))[0]
    assert found["same"] == [True] * len(ASKED)
    assert found["reused"] > 0, "prompts that begin alike are read once"
    assert found["late"] and not found["faults"] and found["unwanted"] < 10
    assert found["ended"] == [(True, "stopping")] and found["left"] == 0


def fail_on_ranks(rank: int, world: int, folder: str) -> str:
    engine, _ = pair(world, folder)
    if rank == 0:
        batcher = SpreadBatcher(engine, SETTINGS)
        batcher.add(batcher.prepare(["the mat"], GenerateOptions(max_tokens=4)))
        batcher.rest()
        return "led"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batcher, "add", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            follow(engine, SETTINGS)
    return "failed"


def test_a_rank_that_fails_alone_does_not_go_on(tokenizer: Tokenizer, tmp_path: Any) -> None:
    tokenizer.save(tmp_path)
    assert run_ranks(fail_on_ranks, 2, str(tmp_path)) == ["led", "failed"]
