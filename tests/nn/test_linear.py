"""The fast product equals torch's own, with its gradients and theirs, and steps aside where it must."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from mainspring.nn.config import TransformerConfig
from mainspring.nn.feed_forward import FeedForward, activate
from mainspring.nn.linear import WIDE, Linear, linear, linear_activated


def ran_fast(call):
    with profile() as seen:
        call()
    return any("mkldnn::_linear_pointwise" in event.key for event in seen.key_averages())


def operands(lead=(4, 32), wide=192, out=256, dtype=torch.float32, bias=True):
    draw = torch.Generator().manual_seed(0)
    x, w, b = (
        torch.randn(*shape, generator=draw, dtype=dtype, requires_grad=True)
        for shape in ((*lead, wide), (out, wide), (out,))
    )
    return (x, w, b) if bias else (x, w, None)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(128,), (4, 32), (2, 3, 30), (22,)])
def test_values_and_gradients_are_those_of_torch(lead, bias):
    x, w, b = operands(lead, bias=bias)
    inputs = [t for t in (x, w, b) if t is not None]
    assert ran_fast(lambda: linear(x, w, b))
    got, want = linear(x, w, b), F.linear(x.double(), w.double(), None if b is None else b.double())
    torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-5)
    push = torch.randn_like(got)
    for a, e in zip(
        torch.autograd.grad(got, inputs, push), torch.autograd.grad(want, inputs, push.double()), strict=True
    ):
        assert a.is_contiguous()
        torch.testing.assert_close(a, e.float(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("wide", [True, False])
def test_transposed_matrices(wide, monkeypatch):
    """Without AVX-512 they are MKL's; the results are the same on either path."""
    monkeypatch.setattr("mainspring.nn.linear.WIDE", wide)
    x, w, b = (t.detach() for t in operands())
    turned = w.t().contiguous().t()
    with torch.no_grad():
        assert ran_fast(lambda: linear(x, turned, b)) == wide
        torch.testing.assert_close(linear(x, turned, b), F.linear(x, w, b), atol=1e-4, rtol=1e-5)
    w.requires_grad_()
    (got,) = torch.autograd.grad(linear(x, w, b).square().sum(), w)
    (want,) = torch.autograd.grad(F.linear(x, w, b).square().sum(), w)
    torch.testing.assert_close(got, want, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("needed", [0, 1, 2])
def test_only_the_gradients_asked_for(needed):
    inputs = [t.detach() for t in operands()]
    inputs[needed].requires_grad_()
    (got,) = torch.autograd.grad(linear(*inputs).square().sum(), inputs[needed])
    (want,) = torch.autograd.grad(F.linear(*inputs).square().sum(), inputs[needed])
    torch.testing.assert_close(got, want, atol=1e-2, rtol=1e-4)


def test_gradient_of_a_gradient():
    x, w, b = operands()

    def second(product):
        (first,) = torch.autograd.grad(product(x, w, b).pow(3).mean(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, w))

    for got, want in zip(second(linear), second(F.linear), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


def test_few_rows():
    """One token through a large table, as in decoding, and back."""
    x, w, b = operands((1, 2), wide=800, out=900)
    with torch.no_grad():
        assert ran_fast(lambda: linear(x, w, b))
        assert torch.equal(linear(x, w, b), linear(x.requires_grad_(), w, b))
    got = torch.autograd.grad(linear(x, w, b).square().sum(), (x, w, b))
    for a, e in zip(got, torch.autograd.grad(F.linear(x, w, b).square().sum(), (x, w, b)), strict=True):
        torch.testing.assert_close(a, e, atol=1e-2, rtol=1e-4)


def test_a_slice_of_a_table():
    x, w, _ = operands(bias=False)
    linear(x, w[:200]).sum().backward()
    assert (w.grad[200:] == 0).all() and (w.grad[:200] != 0).any()


def test_other_cases_take_torchs_path():
    x, w, b = operands()
    assert not ran_fast(lambda: linear(x[:1, :1], w, b))
    assert not ran_fast(lambda: linear(x.double(), w.double(), b.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, w, b).dtype == torch.bfloat16
    torch._C._set_mkldnn_enabled(False)
    try:
        assert not ran_fast(lambda: linear(x, w, b))
    finally:
        torch._C._set_mkldnn_enabled(True)
    with FakeTensorMode() as fake, FlopCounterMode(display=False) as count:
        linear(*(fake.from_tensor(t) for t in operands()))
    assert count.get_total_flops() == 2 * 128 * 192 * 256
    assert linear(torch.zeros(0, 192), w, b).shape == (0, 256)


def test_module_is_torchs_own():
    layer = Linear(192, 256)
    assert isinstance(layer, torch.nn.Linear) and layer.state_dict().keys() == {"weight", "bias"}
    x = torch.randn(40, 192)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-4, rtol=1e-5)


def test_the_operator_is_what_compilers_need():
    torch.library.opcheck(torch.ops.mainspring.linear.default, operands())


def test_survives_a_compiler():
    x, w, b = operands()
    compiled = torch.compile(lambda x, w, b: linear(x, w, b).relu(), backend="aot_eager", fullgraph=True)
    got, want = compiled(x, w, b), F.linear(x, w, b).relu()
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    push = torch.randn_like(want)
    grads = torch.autograd.grad(got, (x, w, b), push)
    for a, e in zip(grads, torch.autograd.grad(want, (x, w, b), push), strict=True):
        torch.testing.assert_close(a, e, atol=1e-4, rtol=1e-4)
    with profile() as seen:
        compiled(x, w, b).sum().backward()
    products = [event.count for event in seen.key_averages() if "mkldnn::_linear_pointwise" in event.key]
    assert sum(products) == (3 if WIDE else 1)


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activation_within_the_product(kind, dtype):
    x, w, b = (t.detach().to(dtype) for t in operands())
    with torch.no_grad():
        assert ran_fast(lambda: linear_activated(x, w, b, kind)) or dtype != torch.float32
        got = linear_activated(x, w, b, kind)
        if got is None:  # a processor without products in bf16
            return
        want = activate(kind)(F.linear(x.double(), w.double(), b.double()))
    assert got.dtype == dtype
    if dtype == torch.float32:
        torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-5)
    else:
        torch.testing.assert_close(got, want.to(dtype), atol=1e-2, rtol=1e-2)


def test_activation_apart_where_it_must_be():
    x, w, b = operands()
    assert linear_activated(x, w, b, "gelu") is None  # a gradient is wanted
    with torch.no_grad():
        assert linear_activated(x, w, b, "swiglu") is None
        assert linear_activated(x[:1, :1], w, b, "gelu") is None  # too small


def test_feed_forward_within_the_product_equals_apart():
    layer = FeedForward(TransformerConfig(d_model=64, n_heads=2, n_layers=1, d_ff=256, vocab_size=11))
    x = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    want = layer(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), want, atol=1e-5, rtol=1e-5)
        seen = []
        layer.up.register_forward_hook(lambda module, inputs, output: seen.append(output))
        layer(x)
    torch.testing.assert_close(seen[0], layer.up(x))  # hooks see the plain map
