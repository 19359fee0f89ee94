"""The mask algebra: one rule over the tokens' data makes every attention mask (spec/language-models.md 13.1).

    allow(i, j) = valid_j and doc_i = doc_j and [ (not probe_j and rank_j <= rank_i - probe_i)
                                                  or (probe_i and probe_j and rank_i = rank_j) ]

Bidirectional, causal, prefix, sequence-to-sequence and pseudo-masked models, packing and decoding with a
cache are this rule on different data. `allow` is the reference; `sdpa_mask` gives
scaled_dot_product_attention its cheapest equal arguments; `flex_block_mask` compiles the rule for
FlexAttention.

Shapes: B rows, Tq query tokens, Tk key tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from mainspring.data.batch import TokenBatch

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class SdpaMask(NamedTuple):
    """Arguments of scaled_dot_product_attention."""

    mask: Tensor | None
    """bool, broadcastable to [B, 1, Tq, Tk], True where allowed; None: everywhere (or causal)."""
    is_causal: bool


class Facts(NamedTuple):
    """What the data of a batch says, found with one device synchronisation."""

    causal: bool = False
    """The rule is: every token sees itself and all before it in its row."""
    uniform: bool = False
    """The rule depends on the key's validity alone."""
    all_valid: bool = False
    shared_positions: bool = False
    """Every row has the same positions."""
    max_position: int = -1
    min_id: int = 0
    max_id: int = -1
    lead: int = 0
    """So many tokens at the beginning of every row, half of it or more, are of one rank and see none of the
    others (the text of a pseudo-masked row); 0: there are no such, or they are all."""
    leading: Facts | None = None
    """The facts of those tokens."""


def allow(queries: TokenBatch, keys: TokenBatch | None = None) -> Tensor:
    """The one rule, written out: which query token may attend to which key token.

    Args:
        queries: B rows of Tq tokens.
        keys: B rows of Tk tokens (None: the queries themselves).

    Returns:
        bool [B, 1, Tq, Tk].
    """
    q, k = queries, queries if keys is None else keys
    below = q.rank if q.probe is None else q.rank - q.probe.to(q.rank.dtype)
    seen = k.rank[:, None, :] <= below[:, :, None]
    if k.probe is not None:
        seen = seen & ~k.probe[:, None, :]
        if q.probe is not None:
            pair = q.probe[:, :, None] & k.probe[:, None, :]
            seen = seen | (pair & (q.rank[:, :, None] == k.rank[:, None, :]))
    if q.doc is not None or k.doc is not None:
        doc_q = q.doc if q.doc is not None else torch.zeros_like(q.rank)
        doc_k = k.doc if k.doc is not None else torch.zeros_like(k.rank)
        seen = seen & (doc_q[:, :, None] == doc_k[:, None, :])
    if k.valid is not None:
        seen = seen & k.valid[:, None, :]
    return seen[:, None]


def as_source(batch: TokenBatch) -> TokenBatch:
    """The batch as keys that every query may see, whatever its rank: the encoder's output for a decoder."""
    return batch._replace(rank=torch.full_like(batch.rank, -1), probe=None)


def inspect(batch: TokenBatch) -> Facts:
    """Find what shortcuts the data of a batch permits, with a single synchronisation on an accelerator.

    Tensors without data (meta, fake, of a function that is compiled) give the facts that permit no shortcut.
    """
    if torch.compiler.is_compiling():
        return Facts()
    if batch.ids.is_meta or isinstance(batch.ids, FakeTensor) or batch.ids.numel() == 0:
        return Facts()
    rank, doc = batch.rank, batch.doc
    yes = torch.ones((), dtype=torch.int64, device=rank.device)
    plain = batch.probe is None
    lead, unseen, inside = _leading(batch)
    found = torch.stack(
        [
            (rank[:, 1:] > rank[:, :-1]).all().long() if plain else yes * 0,
            (rank == rank[:, :1]).all().long() if plain else yes * 0,
            yes if doc is None else (doc == doc[:, :1]).all().long(),
            yes if batch.valid is None else batch.valid.all().long(),
            (batch.pos == batch.pos[:1]).all().long(),
            batch.pos.max(),
            batch.ids.min(),
            batch.ids.max(),
            lead,
            unseen.long(),
            *(fact.long() for fact in inside),
        ]
    ).tolist()
    rising, flat, one_doc, all_valid, shared = (bool(f) for f in found[:5])
    limits, count = found[5:8], found[8]
    facts = Facts(rising and one_doc and all_valid, flat and one_doc, all_valid, shared, *limits)
    length = rank.shape[1]
    if facts.causal or not found[9] or not length <= 2 * count < 2 * length:
        return facts
    one_doc, all_valid, shared = (bool(f) for f in found[10:])
    return facts._replace(lead=count, leading=Facts(False, one_doc, all_valid, shared, *limits))


def _leading(batch: TokenBatch) -> tuple[Tensor, Tensor, list[Tensor]]:
    """How many tokens go before the first that differs in rank or is a probe, in whichever row.

    Returns:
        Their number; whether they see none that come after; whether they are of one document, all valid,
        and at the same positions in every row.
    """
    rank, first = batch.rank, batch.rank[:, :1]
    same = rank == first if batch.probe is None else (rank == first) & ~batch.probe
    leading = same.all(dim=0).long().cumprod(dim=0).bool()
    later = rank > first if batch.probe is None else (rank > first) | batch.probe
    if batch.valid is not None:
        later = later | ~batch.valid
    yes = leading.new_ones(())
    doc, valid = batch.doc, batch.valid
    inside = [
        yes if doc is None else ((doc == doc[:, :1]) | ~leading).all(),
        yes if valid is None else (valid | ~leading).all(),
        ((batch.pos == batch.pos[:1]) | ~leading).all(),
    ]
    return leading.sum(), (leading | later).all(), inside


def sdpa_mask(queries: TokenBatch, keys: TokenBatch | None = None, facts: Facts | None = None) -> SdpaMask:
    """Arguments of scaled_dot_product_attention that equal `allow`, the cheapest that the data permits.

    Args:
        queries: B rows of Tq tokens.
        keys: B rows of Tk tokens, e.g. what a cache holds (None: the queries themselves).
        facts: `inspect(queries)` where the caller has it already; used only without `keys`.
    """
    if keys is not None:
        mask = allow(queries, keys)
        # A synchronisation costs an accelerator more than the mask does.
        known = not (torch.compiler.is_compiling() or isinstance(mask, FakeTensor))
        everything = known and mask.device.type == "cpu" and bool(mask.all())
        return SdpaMask(None if everything else mask, False)
    facts = inspect(queries) if facts is None else facts
    if facts.causal:
        return SdpaMask(None, queries.ids.shape[1] > 1)
    if facts.uniform:
        if facts.all_valid or queries.valid is None:
            return SdpaMask(None, False)
        return SdpaMask(queries.valid[:, None, None, :], False)
    return SdpaMask(allow(queries), False)


def part_masks(batch: TokenBatch, facts: Facts) -> tuple[SdpaMask, Tensor]:
    """The rule in two parts: of the first `facts.lead` tokens to one another, of the rest to all.

    Args:
        batch: B rows of T tokens.
        facts: `inspect(batch)`, with a `lead`.

    Returns:
        Arguments of scaled_dot_product_attention for the first, and who of the rest sees whom: bool
        [B, 1, T - lead, T].
    """
    at = facts.lead
    lead = TokenBatch._make(None if t is None else t[:, :at] for t in batch)
    rest = TokenBatch._make(None if t is None else t[:, at:] for t in batch)
    return sdpa_mask(lead, facts=facts.leading), allow(rest, batch)


def source_mask(queries: TokenBatch, source: TokenBatch) -> SdpaMask:
    """Arguments for a decoder's queries over an encoder's output: valid keys of the same document."""
    if queries.doc is None and source.doc is None:
        return SdpaMask(None if source.valid is None else source.valid[:, None, None, :], False)
    return SdpaMask(allow(queries, as_source(source)), False)


def flex_block_mask(batch: TokenBatch, *, block_size: int = 128, compile: bool = False) -> BlockMask:
    """The rule compiled for FlexAttention (forward only on CPU).

    Args:
        batch: B rows of T tokens.
        block_size: side of the blocks whose emptiness is found in advance.
        compile: build the mask with torch.compile, without its [B, T, T] intermediate.
    """
    from torch.nn.attention.flex_attention import create_block_mask  # loads a compiler

    rows, length = batch.ids.shape
    return create_block_mask(
        flex_rule(batch),
        rows,
        None,
        length,
        length,
        device=str(batch.ids.device),
        BLOCK_SIZE=block_size,
        _compile=compile,
    )


def flex_rule(batch: TokenBatch) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """`allow` for single tokens, as FlexAttention asks: of row, head, query and key."""
    rank, doc, valid, probe = batch.rank, batch.doc, batch.valid, batch.probe

    def rule(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if probe is None:
            seen = rank[b, j] <= rank[b, i]
        else:
            ordinary = ~probe[b, j] & (rank[b, j] <= rank[b, i] - probe[b, i].to(rank.dtype))
            seen = ordinary | (probe[b, i] & probe[b, j] & (rank[b, i] == rank[b, j]))
        if doc is not None:
            seen = seen & (doc[b, i] == doc[b, j])
        if valid is not None:
            seen = seen & valid[b, j]
        return seen

    return rule
