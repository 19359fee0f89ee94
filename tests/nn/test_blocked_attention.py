"""Attention in blocks equals the formula in double precision, with its gradients; it runs where faster."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import profile

from mainspring.nn import blocked_attention as module
from mainspring.nn.attention import Sight, attend
from mainspring.nn.blocked_attention import blocked_attention

SCALE = 0.3


def operands(rows=2, heads=3, length=150, keys=None, dtype=torch.float32):
    """Queries, keys and values as a fused projection lays them out, and a gradient to push back."""
    draw = torch.Generator().manual_seed(0)
    keys = length if keys is None else keys
    fused = torch.randn(rows, max(length, keys), heads, 3, 8, generator=draw).to(dtype)
    q, k, v = (t.transpose(1, 2) for t in fused.unbind(3))
    q, k, v = (t.detach().requires_grad_() for t in (q[:, :, :length], k[:, :, :keys], v[:, :, :keys]))
    return (q, k, v), torch.randn(rows, length, heads, 8, generator=draw).to(dtype).transpose(1, 2)


def reference(q, k, v, bias, is_causal):
    """Double precision, written out."""
    scores = q.double() @ k.double().transpose(-1, -2) * SCALE
    if bias is not None:
        scores = scores + bias.double()
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
    blind = (scores == -math.inf).all(-1, keepdim=True)
    return scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0) @ v.double()


def compare(inputs, push, bias, is_causal, tolerance):
    leaves = [t for t in (*inputs, bias) if t is not None and t.requires_grad]
    got, want = blocked_attention(*inputs, bias, is_causal, SCALE), reference(*inputs, bias, is_causal)
    results = [got, *torch.autograd.grad(got, leaves, push)]
    expected = [want, *torch.autograd.grad(want, leaves, push.double())]
    for a, e in zip(results, expected, strict=True):
        assert (a.double() - e).norm() <= tolerance * max(e.norm(), 10.0)


@pytest.fixture(params=["one piece", "many pieces"])
def pieces(request, monkeypatch):
    """Blocks as they come, and so small that rows and queries are cut."""
    if request.param == "many pieces":
        monkeypatch.setattr(module, "SCORES", 3 * 150 * 40)
        monkeypatch.setattr(module, "CAUSAL_BLOCK", 40)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("is_causal", [True, False])
def test_values_and_gradients(dtype, tolerance, is_causal, pieces):
    inputs, push = operands(dtype=dtype)
    compare(inputs, push, None, is_causal, tolerance)


@pytest.mark.parametrize(
    "shape", [(2, 3, 150, 90), (1, 3, 150, 90), (2, 1, 150, 90), (2, 1, 1, 90), (1, 1, 150, 1)]
)
def test_a_bias_of_any_broadcast_shape_and_its_gradient(shape, pieces):
    inputs, push = operands(keys=90)
    bias = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    if shape[3] == 90:
        bias = bias.masked_fill(torch.arange(90) % 5 == 2, -math.inf)
    compare(inputs, push, bias.requires_grad_(), False, 1e-6)


def test_a_query_that_sees_nothing_gives_nothing_and_takes_nothing(pieces):
    inputs, push = operands()
    bias = torch.zeros(2, 1, 150, 150)
    bias[1, :, 7:60] = -math.inf
    compare(inputs, push, bias, False, 1e-6)
    got = blocked_attention(*inputs, bias, False, SCALE)
    assert torch.equal(got[1, :, 7:60], torch.zeros(3, 53, 8))
    assert all(g.isfinite().all() for g in torch.autograd.grad(got, inputs, push))


def test_a_number_that_is_none_is_not_hidden():
    (q, k, v), _ = operands()
    broken = q.detach().clone()
    broken[0, 0, 3, 0] = math.nan
    for bias in (None, torch.zeros(1, 1, 150, 150)):
        got = blocked_attention(broken, k, v, bias, False, SCALE)
        assert got[0, 0, 3].isnan().all() and got[0, 0, 4:].isfinite().all()


def test_registration():
    inputs, _ = operands(length=12)
    bias = torch.randn(1, 3, 12, 12, requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(blocked_attention, (*inputs, bias, False, SCALE), test_utils=checks)
    torch.library.opcheck(blocked_attention, (*inputs, None, True, SCALE), test_utils=checks)


def ran_ours(call):
    with profile() as seen:
        call()
    return any("blocked_attention" in event.key for event in seen.key_averages())


def test_goes_where_it_is_faster(monkeypatch):
    monkeypatch.setattr(module, "_has_bf16_without_tiles", lambda: True)
    inputs, _ = operands(length=300, dtype=torch.bfloat16)
    sight = Sight(is_causal=True)
    assert ran_ours(lambda: attend(*inputs, sight, None, 0.0))
    assert not ran_ours(lambda: attend(*inputs, sight, None, 0.1))
    assert not ran_ours(lambda: attend(*(t.float() for t in inputs), sight, None, 0.0))
    assert not ran_ours(lambda: attend(*(t[:, :, :20] for t in inputs), sight, None, 0.0))
    monkeypatch.setattr(module, "_has_bf16_without_tiles", lambda: False)
    assert not ran_ours(lambda: attend(*inputs, sight, None, 0.0))


@pytest.mark.parametrize("kind", ["causal", "bool", "float"])
def test_attend_means_the_same_either_way(kind, monkeypatch):
    inputs, _ = operands(length=300, dtype=torch.bfloat16)
    allowed = torch.rand(2, 1, 300, 300, generator=torch.Generator().manual_seed(1)) < 0.5
    allowed[0, 0, 5] = False
    scores = torch.randn(1, 3, 300, 300).masked_fill(~allowed[:1], -math.inf)
    sight = {"causal": Sight(is_causal=True), "bool": Sight(allowed), "float": Sight(scores)}[kind]
    results = []
    for ours in (True, False):
        monkeypatch.setattr(module, "_has_bf16_without_tiles", lambda ours=ours: ours)
        results.append(attend(*inputs, sight, SCALE, 0.0))
    torch.testing.assert_close(*results, atol=2e-2, rtol=2e-2)
    want = F.scaled_dot_product_attention(
        *(t.double() for t in inputs),
        attn_mask=sight.mask.double() if kind == "float" else sight.mask,
        is_causal=sight.is_causal,
        scale=SCALE,
    )
    assert (results[0].double() - want).norm() <= 1e-2 * want.norm()
