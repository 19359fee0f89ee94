"""Greedy and sampled decoding of a batch: one token a row a step, rows leave when they end.

Yields what was chosen, token by token; text, stop strings and log-probability reports are made of it
elsewhere. The caller may end a row between two steps (`Row.done`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from mainspring.infer.history import History
from mainspring.infer.logits import block, sampling_logits
from mainspring.infer.options import GenerateOptions
from mainspring.infer.runner import Runner
from mainspring.infer.sample import greedy, row_generator, sample


@dataclass(slots=True, eq=False)
class Row:
    """One completion under way."""

    prompt: int
    """Which prompt it continues."""
    index: int
    """Which completion of that prompt."""
    limit: int
    """Tokens it may have."""
    tokens: list[int] = field(default_factory=list)
    """Tokens so far."""
    done: bool = False
    """No more tokens are wanted; the caller may set it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A token that was chosen for a row."""

    row: Row
    token: int
    logits: Tensor
    """The model's own logits at this place, fp32 [V]."""


def decode(
    runner: Runner,
    histories: Sequence[Sequence[int]],
    first: Tensor,
    rows: Sequence[Row],
    options: GenerateOptions,
    eos: int | None,
) -> Iterator[list[Choice]]:
    """Continue prompts that `runner` holds; yields the choices of each step.

    Args:
        runner: after `prefill`.
        histories: for each prompt the tokens that count as said before, for the options on repetition.
        first: logits after each prompt, [P, V].
        rows: the completions wanted, in the order of the batch.
        options: filters and seeds.
        eos: a row that chooses this token is done.
    """
    active = [row for row in rows if row.limit > 0 and not row.done]
    if not active:
        return
    origin = [row.prompt for row in active]
    runner.select(origin)
    logits = first[torch.tensor(origin, device=first.device)]
    history = History([histories[k] for k in origin], logits, options)
    generators = [row_generator(options.seed, row.index) for row in active]
    while True:
        tokens = choose(logits, history, options, generators).tolist()
        for row, token in zip(active, tokens, strict=True):
            row.tokens.append(token)
            row.done = token == eos or len(row.tokens) >= row.limit
        yield [
            Choice(row, token, logits[k]) for k, (row, token) in enumerate(zip(active, tokens, strict=True))
        ]
        history.add(tokens)
        keep = [k for k, row in enumerate(active) if not row.done]
        if not keep:
            return
        if len(keep) < len(active):
            runner.select(keep)
            active, tokens, generators = (
                [active[k] for k in keep],
                [tokens[k] for k in keep],
                [generators[k] for k in keep],
            )
            history.select(keep)
        logits = runner.step(tokens)


def choose(
    logits: Tensor, history: History, options: GenerateOptions, generators: Sequence[Generator]
) -> Tensor:
    """One token a row under `options`. logits [B, V] -> int64 [B]."""
    settled = filtered(logits, history, options)
    return sample(settled, generators) if options.samples else greedy(settled)


def filtered(logits: Tensor, history: History, options: GenerateOptions) -> Tensor:
    """What tokens are drawn from, or the greatest taken of: -inf at what is excluded. [B, V] -> [B, V]."""
    logits, blocked = history.penalize(logits), history.blocked(logits.device)
    return sampling_logits(logits, options, blocked) if options.samples else block(logits, blocked)
