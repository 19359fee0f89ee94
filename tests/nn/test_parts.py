"""Attention by parts: the first tokens to one another, the rest to all. It equals the square."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch
from mainspring.data.pseudo_masks import draw_blocks, pseudo_masked_row
from mainspring.data.token_row import collate, rows_of
from mainspring.nn import Absolute, KVCache, Rotary, T5Bias, Transformer, TransformerConfig, allow, initialize
from mainspring.nn import transformer as stack
from mainspring.nn.masks import inspect, part_masks
from mainspring.nn.positions import RelativeBias
from nn.test_masks import batches
from support.spawn import run_ranks

WORDS = 40
SCHEMES = {
    "absolute": (Absolute(),),
    "distance": (Absolute(), T5Bias(buckets=8, max_distance=12)),
    "rotary": (Rotary(),),
    "both": (Rotary(), T5Bias(buckets=8, max_distance=12)),
}


def appended(
    rows: int = 3, length: int = 16, seed: int = 0, *, doc: torch.Tensor | None = None
) -> TokenBatch:
    """Pseudo-masked rows; their ends are ragged."""
    rng = np.random.default_rng(seed)
    text = rows_of(causal_batch(torch.from_numpy(rng.integers(5, WORDS, (rows, length))), doc=doc))
    out = []
    for index, row in enumerate(text):
        blocks = draw_blocks(np.ones(row.length, bool), row.doc, 0.2 + 0.1 * index, 0.5, 4, rng)
        out.append(pseudo_masked_row(row, blocks, np.full(sum(map(len, blocks)), 4), 4))
    return collate(out)


def model(scheme: str, **changes: object) -> Transformer:
    config = TransformerConfig(
        d_model=16,
        n_heads=2,
        n_layers=2,
        d_ff=32,
        vocab_size=WORDS,
        max_positions=64,
        positions=SCHEMES[scheme],
        **changes,
    )
    return initialize(Transformer(config), 0)


@contextmanager
def square() -> Iterator[None]:
    """One attention of all to all."""
    with patch.object(stack, "inspect", lambda batch: inspect(batch)._replace(lead=0, leading=None)):
        yield


def run(
    network: Transformer, batch: TokenBatch, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states of valid tokens, and the gradient of a weighing of them."""
    network.zero_grad()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        hidden = network(batch).hidden
    real = torch.ones_like(batch.ids, dtype=torch.bool) if batch.valid is None else batch.valid
    kept = hidden.float()[real]
    weights = torch.randn(kept.shape, generator=torch.Generator().manual_seed(1))
    (kept * weights).mean().backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return kept.detach(), grads


CASES = {
    "ragged": appended(),
    "one row": appended(1),
    "documents": appended(doc=torch.tensor([[0] * 6 + [1] * 10, [0] * 16, [0] * 9 + [1] * 7])),
    "hole in the text": (whole := appended())._replace(
        valid=whole.valid & (torch.arange(whole.ids.shape[1]) != 3)
    ),
    "far positions": whole._replace(pos=whole.pos + 40),
    "positions by row": whole._replace(pos=whole.pos + torch.arange(3)[:, None]),
    "prefix": bidirectional_batch(whole.ids[:, :20])._replace(
        rank=(torch.arange(20) - 13).clamp(min=0).expand(3, 20)
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_parts_equal_the_square_with_gradients(scheme: str, case: str) -> None:
    batch, network = CASES[case], model(scheme)
    with patch.object(stack, "part_masks", side_effect=part_masks) as parts:
        ours, grads = run(network, batch)
    assert parts.call_count == 1, "once a forward"
    with square():
        want, expected = run(network, batch)
    torch.testing.assert_close(ours, want, atol=1e-6, rtol=1e-6)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_parts_with_recomputation_are_bit_equal_to_parts_without(scheme: str) -> None:
    network = model(scheme)
    want, expected = run(network, CASES["ragged"])
    network.remat = True
    ours, grads = run(network, CASES["ragged"])
    assert torch.equal(ours, want)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-7, rtol=1e-6, msg=name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_parts_equal_the_square_in_bf16(scheme: str) -> None:
    network = model(scheme)
    ours, grads = run(network, CASES["ragged"], torch.bfloat16)
    with square():
        want, expected = run(network, CASES["ragged"], torch.bfloat16)
    torch.testing.assert_close(ours, want, atol=2e-2, rtol=2e-2)
    for name, grad in grads.items():
        assert (grad - expected[name]).norm() <= 0.03 * expected[name].norm() + 1e-6, name


def test_a_gated_bias_keeps_the_square() -> None:
    gated = TransformerConfig(
        d_model=16, n_heads=2, n_layers=1, d_ff=32, vocab_size=WORDS, positions=(T5Bias(gate="query"),)
    )
    network = initialize(Transformer(gated), 0)
    with patch.object(stack, "part_masks", side_effect=part_masks) as parts:
        run(network, CASES["ragged"])
    assert parts.call_count == 0


def test_prefill_by_parts_then_decoding_equals_one_forward() -> None:
    rank = (torch.arange(14) - 7).clamp(min=0).expand(2, 14)
    whole = bidirectional_batch(torch.arange(28).view(2, 14))._replace(rank=rank)
    network = model("both").eval()
    first, then = (
        TokenBatch(*(None if t is None else t[:, part] for t in whole))
        for part in (slice(0, 11), slice(11, 14))
    )
    with torch.inference_mode():
        cache = KVCache(network.config, rows=2, capacity=16)
        with patch.object(stack, "part_masks", side_effect=part_masks) as parts:
            got = torch.cat([network(part, cache=cache).hidden for part in (first, then)], dim=1)
        assert parts.call_count == 1, "the first forward only"
        with square():
            torch.testing.assert_close(got, network(whole).hidden, atol=1e-6, rtol=1e-5)


@given(st.one_of(batches(), st.builds(appended, st.integers(1, 3), st.integers(2, 12), st.integers(0, 99))))
def test_the_parts_are_the_rule(batch: TokenBatch) -> None:
    facts, rule = inspect(batch), allow(batch)
    rows, length = batch.ids.shape
    if not facts.lead:
        assert facts.leading is None
        return
    lead, rest = part_masks(batch, facts)
    assert 2 * facts.lead >= length > facts.lead and not lead.is_causal
    assert not rule[:, :, : facts.lead, facts.lead :].any()
    assert torch.equal(rest, rule[:, :, facts.lead :])
    shape = (rows, 1, facts.lead, facts.lead)
    first = torch.ones(shape, dtype=torch.bool) if lead.mask is None else lead.mask.expand(shape)
    assert torch.equal(first, rule[:, :, : facts.lead, : facts.lead])


def test_when_rows_have_parts() -> None:
    ids = torch.zeros(2, 8, dtype=torch.int64)
    facts = inspect(appended(3, 16))
    assert facts.lead == 16 and facts.leading is not None
    assert facts.leading[:4] == (False, True, True, True), "all see all, at the same positions"
    assert inspect(causal_batch(ids)).lead == 0
    assert inspect(bidirectional_batch(ids)).lead == 0
    packed = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]] * 2)
    assert inspect(causal_batch(ids, doc=packed)).lead == 0
    prefix = torch.tensor([[0, 0, 0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 0, 0, 1, 2]])
    assert inspect(bidirectional_batch(ids)._replace(rank=prefix)).lead == 0, "sources of different length"
    assert inspect(bidirectional_batch(ids)._replace(rank=prefix[:1].expand(2, 8))).lead == 5
    short = (prefix[:1] + 3).clamp(max=4).expand(2, 8)
    assert inspect(bidirectional_batch(ids)._replace(rank=short)).lead == 5
    back = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 2]] * 2)
    assert inspect(bidirectional_batch(ids)._replace(rank=back)).lead == 0, "the first see a later token"


@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 9),
    st.integers(0, 99),
)
def test_the_bias_by_parts_is_the_bias(
    rows: int, lead: int, rest: int, shared: bool, start: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    pos = torch.randint(start + lead, (rows, lead + rest), generator=draw)
    if shared:
        pos[:, :lead] = pos[:1, :lead]
    bias = RelativeBias(T5Bias(buckets=8, max_distance=12), 2, bidirectional=True)
    first, later = bias.parts(pos, lead, shared, int(pos.max()))
    whole = bias(pos, pos, None)
    assert torch.equal(first.expand(rows, 2, lead, lead), whole[:, :, :lead, :lead])
    assert torch.equal(later, whole[:, :, lead:])


def sharded(rank: int, world: int) -> bool:
    """Gradients of parts under FSDP2 beside the square in one process; then bf16, which casts inputs."""
    batch = appended(2 * world)
    mine = TokenBatch(*(None if t is None else t[2 * rank : 2 * rank + 2] for t in batch))
    alone, spread, half = (model("both") for _ in range(3))
    with square():
        alone(batch).logits.logsumexp(-1).mean().backward()
    spread.remat = True
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for network, given_policy in ((spread, MixedPrecisionPolicy()), (half, policy)):
        for block in network.blocks():
            fully_shard(block, mp_policy=given_policy)
        fully_shard(network, mp_policy=given_policy)
        with patch.object(stack, "part_masks", side_effect=part_masks) as parts:
            network(mine).logits.logsumexp(-1).mean().backward()
        assert parts.call_count == 1
    for (name, p), q, low in zip(
        spread.named_parameters(), alone.parameters(), half.parameters(), strict=True
    ):
        assert p.grad is not None and q.grad is not None and low.grad is not None, name
        torch.testing.assert_close(p.grad.full_tensor(), q.grad, atol=1e-6, rtol=1e-4, msg=name)
        # What bf16 loses is noise beside the largest gradients; those of key biases are noise altogether.
        assert (low.grad.full_tensor() - q.grad).norm() <= 0.05 * q.grad.norm() + 1e-3, name
    return True


@pytest.mark.distributed
def test_parts_sharded_by_fsdp() -> None:
    assert run_ranks(sharded, 2) == [True, True]
