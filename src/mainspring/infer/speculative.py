"""Speculative decoding: a small model drafts a few tokens, the large one judges them in one forward.

A drafted token x is kept with probability min(1, p(x) / q(x)), p what the large model would draw from and q
what the small one drew from, both after penalties, temperature and filters; the first that is not kept is
drawn anew from max(p - q, 0), and after a draft that is kept whole one more token is drawn from p. What comes
out is distributed as what the large model alone draws (Leviathan et al. 2023, arXiv 2211.17192, appendix A.1;
Chen et al. 2023, arXiv 2302.01318, theorem 1), though for one seed it is not the same text. Greedy decoding
keeps what agrees, and gives the large model's text token for token.

Shapes: K drafted tokens, R rows, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from mainspring.errors import UsageError
from mainspring.infer.alone import model_alone
from mainspring.infer.completion import Piece, Speculation
from mainspring.infer.decode import filtered
from mainspring.infer.history import History
from mainspring.infer.options import GenerateOptions
from mainspring.infer.prepared import Prepared
from mainspring.infer.sample import greedy, row_generator, sample
from mainspring.infer.slot_reader import SlotReader
from mainspring.infer.writer import Writer

if TYPE_CHECKING:
    from mainspring.infer.engine import Engine


def check_draft(engine: Engine, draft: Engine, options: GenerateOptions) -> None:
    """Refuse a draft model that cannot draft for an engine.

    Raises:
        UsageError: they do not share a tokenizer and a way to read prompts, or one of them takes no cache, or
            the options need another way of decoding.
    """
    if engine.tokenizer.hash != draft.tokenizer.hash or engine.vocabulary != draft.vocabulary:
        raise UsageError(
            f"draft model {draft.name!r} has another tokenizer ({draft.vocabulary} tokens) than "
            f"{engine.name!r} ({engine.vocabulary} tokens), and a draft is in the large model's tokens: "
            "use a small model that was trained with the same tokenizer"
        )
    if engine.layout != draft.layout:
        raise UsageError(f"draft model {draft.name!r} reads prompts in another layout than {engine.name!r}")
    for one in (engine, draft):
        reason = model_alone(one.model, one.layout)
        if one.layout.mask is not None:
            reason = "a mask asks for each of its tokens"
        if reason is not None:
            raise UsageError(f"{one.name!r} cannot take part in speculative decoding: {reason}")
    for asked, what in (
        (options.num_beams > 1, "num_beams above 1"),
        (not options.use_cache, "use_cache = False"),
        (options.echo and options.logprobs is not None, "echo with logprobs"),
    ):
        if asked:
            raise UsageError(f"a draft model does not go with {what}; leave out one of the two")


@dataclass(slots=True, eq=False)
class _Row:
    """One completion under way. The large model has read all its tokens but the last."""

    slot: int
    base: int
    """Tokens of the prompt in its slot."""
    said: Sequence[int]
    """What counts as said before."""
    limit: int
    writer: Writer
    generator: Generator
    tokens: list[int] = field(default_factory=list)
    """Generated."""
    drafted: int = 0
    accepted: int = 0
    done: bool = False


def speculate(engine: Engine, draft: Engine, prepared: Prepared) -> Iterator[Piece]:
    """Continue prompts with the help of a draft model that `check_draft` has nothing against."""
    options, end = prepared.options, engine.layout.end
    count = len(prepared.prompts) * options.n
    longest = max(
        len(engine.layout.row(prompt).ids) + limit
        for prompt, limit in zip(prepared.prompts, prepared.limits, strict=True)
    )
    ours, theirs = (
        SlotReader(e.model, e.vocabulary, e.layout, slots=count, context=longest) for e in (engine, draft)
    )
    rows: list[_Row] = []
    for p, limit in enumerate(prepared.limits):
        begun = _begin(engine, draft, ours, theirs, prepared, p, len(rows))
        for row, logits in begun:
            rows.append(row)
            if options.echo:
                yield row.writer.echo(prepared.texts[p], prepared.prompts[p], None)
            if limit <= 0:
                yield row.writer.close("length")
            else:
                yield from _take(row, _judge(row, logits, [], None, options), logits, end)
    while active := [row for row in rows if not row.done]:
        drafts, odds = _draft(theirs, active, options, draft.max_positions)
        parts = [[row.tokens[-1], *tokens] for row, tokens in zip(active, drafts, strict=True)]
        judged = ours.read([row.slot for row in active], parts)
        for row, logits, tokens, odd in zip(active, judged, drafts, odds, strict=True):
            taken = _judge(row, logits, tokens, odd, options)
            kept, held = len(taken) - 1, row.base + len(row.tokens)
            row.drafted, row.accepted = row.drafted + len(tokens), row.accepted + kept
            ours.cache.truncate(row.slot, held + kept)
            theirs.cache.truncate(row.slot, min(held + kept, theirs.cache.lengths[row.slot]))
            yield from _take(row, taken, logits, end)


def accept(
    target: Callable[[int], Tensor], drafts: Sequence[int], odds: Tensor, generator: Generator
) -> list[int]:
    """The tokens that come of a draft, so that they are distributed as the target's.

    Args:
        target: probabilities [V] at place k, given that the first k drafted tokens are kept; called in order.
        drafts: K tokens, drawn from
        odds: probabilities [K, V].
        generator: of the row.

    Returns:
        The drafted tokens that are kept, and one more: 1 to K + 1.
    """
    for k, token in enumerate(drafts):
        p, q = target(k), odds[k]
        if float(torch.rand((), generator=generator, dtype=torch.float64)) * float(q[token]) < float(
            p[token]
        ):
            continue
        rest = (p - q).clamp(min=0)
        # p = q up to rounding: then whatever p draws is right.
        rest = rest if float(rest.sum()) > 0 else p
        return [*drafts[:k], int(sample(rest.log()[None], [generator]))]
    return [*drafts, int(sample(target(len(drafts)).log()[None], [generator]))]


def _begin(
    engine: Engine,
    draft: Engine,
    ours: SlotReader,
    theirs: SlotReader,
    prepared: Prepared,
    p: int,
    first: int,
) -> Iterator[tuple[_Row, Tensor]]:
    """Read a prompt into slot `first` and those after it: its rows, and the logits after it, [1, V]."""
    prompt, options = prepared.prompts[p], prepared.options
    read, given = engine.layout.row(prompt), engine.layout.given(prompt)
    logits = None
    if prepared.limits[p] > 0:
        for reader, positions in ((theirs, draft.max_positions), (ours, None)):
            reader.begin(first, given)
            if positions is None or read.length < positions:
                (logits,) = reader.prompts([first], [read])
    for index in range(options.n):
        for reader in (ours, theirs) if index else ():
            reader.copy(first, first + index)
        row = _Row(
            first + index,
            read.length,
            engine.history(prepared, p),
            prepared.limits[p],
            engine.writer(prepared, p, index),
            row_generator(options.seed, index),
        )
        row.done = logits is None
        yield row, torch.empty(0) if logits is None else logits[None]


def _draft(
    reader: SlotReader, rows: Sequence[_Row], options: GenerateOptions, positions: int | None
) -> tuple[list[list[int]], list[Tensor | None]]:
    """What the small model says next of each row, and the probabilities [K, V] that it drew from (None where
    it took the most probable tokens)."""
    room = [
        options.draft_tokens if positions is None else positions - row.base - len(row.tokens) + 1
        for row in rows
    ]
    # One token comes of the large model in any case.
    wanted = [
        max(0, min(options.draft_tokens, row.limit - len(row.tokens) - 1, most))
        for row, most in zip(rows, room, strict=True)
    ]
    drafts: list[list[int]] = [[] for _ in rows]
    odds: list[list[Tensor]] = [[] for _ in rows]
    histories: dict[int, History] = {}
    for step in range(max(wanted)):
        going = [k for k in range(len(rows)) if step < wanted[k]]
        unread = [
            rows[k].tokens[reader.cache.lengths[rows[k].slot] - rows[k].base :]
            if step == 0
            else [drafts[k][-1]]
            for k in going
        ]
        read = reader.read([rows[k].slot for k in going], unread)
        logits = torch.stack([of_row[-1] for of_row in read])
        settled = _settle(logits, [rows[k] for k in going], going, histories, drafts, options)
        generators = [rows[k].generator for k in going]
        tokens = sample(settled, generators) if options.samples else greedy(settled)
        chances = settled.double().softmax(-1) if options.samples else None
        for place, (k, token) in enumerate(zip(going, tokens.tolist(), strict=True)):
            drafts[k].append(token)
            if chances is not None:
                odds[k].append(chances[place])
    return drafts, [torch.stack(of_row) if of_row else None for of_row in odds]


def _settle(
    logits: Tensor,
    rows: Sequence[_Row],
    going: Sequence[int],
    histories: dict[int, History],
    drafts: Sequence[Sequence[int]],
    options: GenerateOptions,
) -> Tensor:
    """What the rows' next drafted tokens are chosen from, [R, V]."""
    if not options.remembers:
        return filtered(logits, History([[]] * len(rows), logits, options), options)
    settled = []
    for place, (k, row) in enumerate(zip(going, rows, strict=True)):
        one = logits[place : place + 1]
        if k not in histories:
            histories[k] = History([[*row.said, *row.tokens]], one, options)
        else:
            histories[k].add([drafts[k][-1]])
        settled.append(filtered(one, histories[k], options))
    return torch.cat(settled)


def _judge(
    row: _Row, logits: Tensor, drafts: Sequence[int], odds: Tensor | None, options: GenerateOptions
) -> list[int]:
    """The tokens that come of a draft, from the large model's logits [K + 1, V]."""
    said = [*row.said, *row.tokens] if options.remembers else []
    history = History([said], logits[:1], options)

    def settled(k: int) -> Tensor:
        if k:
            history.add([drafts[k - 1]])
        return filtered(logits[k : k + 1], history, options)

    if options.samples:
        none = logits.new_empty((0, logits.shape[-1]))
        return accept(
            lambda k: settled(k).double().softmax(-1)[0],
            drafts,
            none if odds is None else odds,
            row.generator,
        )
    for k, token in enumerate(drafts):
        best = int(greedy(settled(k)))
        if best != token:
            return [*drafts[:k], best]
    return [*drafts, int(greedy(settled(len(drafts))))]


def _take(row: _Row, tokens: Sequence[int], logits: Tensor, end: int | None) -> Iterator[Piece]:
    """Append tokens to a row until it is done."""
    for token, at in zip(tokens, logits, strict=False):
        row.tokens.append(token)
        last = token == end or len(row.tokens) >= row.limit
        piece = row.writer.write(token, at, last=last)
        row.done = piece.finish is not None
        yield replace(piece, speculation=Speculation(row.drafted, row.accepted)) if row.done else piece
        if row.done:
            return
