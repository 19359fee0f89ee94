"""The layer beside the einsum formulation, a dense feed-forward, and itself."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mainspring.nn import TransformerConfig, initialize
from mainspring.nn.feed_forward import FeedForward
from mainspring.nn.moe import ExpertFeedForward, Experts, add_rows, gather_rows
from mainspring.nn.moe.experts import apply_grouped
from mainspring.nn.moe.in_turn import apply_each

from . import reference

ACTIVATIONS = ["relu", "gelu", "gelu_tanh", "swiglu", "geglu"]


def config(width=16, inner=32, activation="gelu", bias=True, **experts):
    return TransformerConfig(
        d_model=width, n_heads=1, n_layers=2, d_ff=inner, activation=activation, bias=bias, vocab_size=9,
        init_std=0.4, experts={"count": 4, **experts},
    )  # fmt: skip


def layer(count, **settings):
    made = initialize(ExpertFeedForward(config(**settings), count), 0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return made


def tokens(rows=3, length=11, width=16, seed=0):
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(seed))


def gradients(module, out):
    out.backward()
    found = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad(set_to_none=True)
    return found


def by_einsum(made, x, valid=None):
    """The layer's formula in training with `keep = "first"`."""
    settings = made.gate.config
    flat = x.reshape(-1, x.shape[-1])
    logits = flat @ made.gate.weight.t()
    experts = logits.topk(settings.top_k, dim=1).indices
    if valid is not None:
        experts = experts.masked_fill(~valid.reshape(-1, 1), made.gate.count)
    count = len(flat) if valid is None else int(valid.sum())
    room = None
    if settings.capacity_factor is not None:
        share = count * settings.top_k * settings.capacity_factor / made.gate.count
        room = max(-int(-share // 1), settings.min_capacity)
    factors = reference.combine_tensor(logits.softmax(1), experts, room, renormalise=settings.renormalise)
    inside = made.experts
    return reference.moe(
        flat, factors, inside.up.weight, inside.up.biases, inside.down.weight, inside.down.biases,
        inside.activation,
    ).view(x.shape), factors  # fmt: skip


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_expert_is_the_dense_feed_forward(activation, bias):
    settings = config(activation=activation, bias=bias, count=1)
    sparse = initialize(ExpertFeedForward(settings, 1), 0)
    dense = FeedForward(settings)
    with torch.no_grad():
        for ours, one in ((sparse.experts.up, dense.up), (sparse.experts.down, dense.down)):
            one.weight.copy_(ours.weight[0])
            if bias:
                ours.bias.normal_()
                one.bias.copy_(ours.bias)
    x = tokens().requires_grad_()
    got, auxiliary = sparse(x)
    want = dense(x)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    assert auxiliary[0] == 1
    (a,) = torch.autograd.grad(got.square().sum(), x)
    (b,) = torch.autograd.grad(want.square().sum(), x)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("factor", [None, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("count", "k", "activation", "bias", "renormalise"),
    [(4, 1, "relu", True, True), (8, 2, "gelu", True, True), (8, 2, "swiglu", False, False),
     (5, 3, "gelu_tanh", True, True), (4, 4, "geglu", False, True)],
)  # fmt: skip
def test_equals_the_einsum_formulation(count, k, activation, bias, renormalise, factor, padded):
    made = layer(
        count, top_k=k, capacity_factor=factor, min_capacity=2, keep="first", activation=activation,
        bias=bias, renormalise=renormalise,
    )  # fmt: skip
    x = tokens().requires_grad_()
    valid = torch.arange(11) < torch.tensor([11, 6, 1])[:, None] if padded else None
    got, _ = made(x, valid)
    want, factors = by_einsum(made, x, valid)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    lost = (factors.sum((1, 2)) == 0).view(3, 11)
    routed = k * (33 if valid is None else int(valid.sum()))
    assert factor != 0.5 or int((factors != 0).sum()) < routed
    assert (got[lost] == 0).all()
    ours, theirs = (gradients(made, (y * tokens(seed=5)).sum()) for y in (got, want))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_by_one_equals_the_grouped_products(activation, dtype):
    settings = config(width=32, inner=64, activation=activation)
    experts = initialize(Experts(settings, 6), 0).to(dtype)
    counts = [0, 17, 1, 0, 40, 3]
    rows = torch.randn(61, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    results = []
    for apply in (apply_each, apply_grouped):
        x = rows.clone().requires_grad_()
        weights = [experts.up.weight, experts.up.biases, experts.down.weight, experts.down.biases]
        y = apply(x, *weights, counts, activation)
        grads = torch.autograd.grad(y.sum(), [x, *experts.parameters()])
        results.append([y, *grads])
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for one, other in zip(*results, strict=True):
        scale = other.detach().abs().max().float().item()
        assert (one - other).abs().max().item() <= tolerance * max(scale, 1e-3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_experts_without_any_row(activation, bias):
    """A rank whose experts no token chose: nothing goes out, and every weight has a gradient, of zeros."""
    experts = layer(4, activation=activation, bias=bias).experts
    rows = torch.empty(0, 16, requires_grad=True)
    out = experts(rows, [0] * 4)
    assert out.shape == (0, 16)
    out.sum().backward()
    assert rows.grad.shape == (0, 16)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in experts.parameters())


def test_gather_and_add_rows_and_their_gradients():
    token = torch.tensor([3, 0, 3, 1])
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    rows = gather_rows(x, token)
    assert torch.equal(rows, x[token])
    total = add_rows(rows, weight, token, 5)
    want = torch.zeros(5, 6, dtype=torch.float64).index_add(0, token, x[token] * weight[:, None])
    torch.testing.assert_close(total, want)
    assert torch.autograd.gradcheck(lambda a, w: add_rows(gather_rows(a, token), w, token, 5), (x, weight))
    assert (add_rows(rows[:0], weight[:0], token[:0], 5) == 0).all()


def test_sums_of_bf16_rows_are_rounded_once():
    rows = torch.tensor([[1.0], [2**-8], [2**-8]], dtype=torch.bfloat16)
    total = add_rows(rows, torch.ones(3), torch.zeros(3, dtype=torch.long), 1)
    assert total.item() == 1 + 2**-7


@pytest.mark.parametrize("noise", [None, "jitter", "gumbel"])
@pytest.mark.parametrize("k", [1, 2])
def test_chance_is_for_training_and_follows_the_seed(k, noise):
    made = layer(
        4, top_k=k, noise=noise, jitter=0.3, capacity_factor=0.6, eval_capacity_factor=0.6, min_capacity=1
    )
    x = tokens(4, 30)

    def run(seed):
        torch.manual_seed(seed)
        return made(x)[0].detach()

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    made.eval()
    assert torch.equal(run(0), run(1))


def test_noise_reaches_the_choice_and_not_what_experts_see_or_how_much_they_count():
    """DeepSpeed's Jitter multiplies what the gate reads by U(1 - e, 1 + e), its RSample adds to logits."""
    made = layer(1, noise="jitter", jitter=0.3, capacity_factor=None)
    still = layer(1, capacity_factor=None)
    x = tokens(1, 200)[0]
    torch.testing.assert_close(made(x[None])[0], still(x[None])[0])  # one expert, of which a token is sure
    torch.manual_seed(3)
    z = made.gate(x).auxiliary[1]
    torch.manual_seed(3)
    shaken = x * torch.empty_like(x).uniform_(0.7, 1.3)
    torch.testing.assert_close(z, torch.nn.functional.linear(shaken, made.gate.weight).square().mean())
    drawn = layer(4, noise="gumbel", capacity_factor=None).gate
    clean = torch.nn.functional.linear(x, drawn.weight).softmax(1)
    gated = drawn(x)
    assert (gated.experts[:, 0] != clean.argmax(1)).any()
    owner = torch.arange(4).repeat_interleave(gated.routing.counts)
    torch.testing.assert_close(gated.routing.weight, clean[gated.routing.token, owner])


class Largest(TorchDispatchMode):
    """Remembers the most elements that an operator gave."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


@pytest.mark.parametrize("width", [16, 64])
def test_nothing_has_tokens_times_experts_times_slots_elements(width):
    """One by one, and by grouped products."""
    made = layer(32, width=width, inner=2 * width, top_k=2, keep="first", capacity_factor=1.0)
    x = tokens(4, 256, width).requires_grad_()
    with Largest() as seen:
        made(x)[0].sum().backward()
    assert seen.elements <= max(made.experts.up.weight.numel(), 2 * 1024 * 2 * width)
    assert seen.elements < 1024 * 32 * 64  # S x E x C


def test_padding_changes_nothing():
    made = layer(4, top_k=2, keep="first", capacity_factor=1.0, min_capacity=1)
    x = tokens(2, 9)
    valid = torch.arange(14) < 9
    longer = torch.cat([x, tokens(2, 5, seed=3)], 1)
    short, a = made(x)
    long, b = made(longer, valid.expand(2, -1))
    assert torch.equal(long[:, :9], short) and (long[:, 9:] == 0).all()
    torch.testing.assert_close(a, b)


def test_evaluation_without_capacity_does_not_depend_on_the_batch():
    made = layer(4, top_k=2).eval()
    x = tokens(5, 7)
    alone = torch.cat([made(row[None])[0] for row in x])
    torch.testing.assert_close(made(x)[0], alone, atol=1e-6, rtol=1e-6)


def test_residual_mixes_the_dense_feed_forward_in():
    made = layer(4, residual=True, capacity_factor=None)
    plain = copy.deepcopy(made)
    plain.dense = plain.mix = None
    x = tokens()
    share = torch.softmax(made.mix(x), -1)
    want = share[..., :1] * plain(x)[0] + share[..., 1:] * made.dense(x)
    torch.testing.assert_close(made(x)[0], want)
    assert {n.split(".")[0] for n, _ in made.named_parameters()} == {"gate", "experts", "dense", "mix"}


def test_the_gate_computes_in_fp32_under_autocast_and_in_bf16_models():
    made = layer(4, capacity_factor=None)
    x = tokens()
    with torch.autocast("cpu", torch.bfloat16):
        out, auxiliary = made(x.bfloat16())
        gated = made.gate(x.reshape(-1, 16))
    assert out.dtype == torch.bfloat16 and auxiliary.dtype == gated.routing.weight.dtype == torch.float32
    assert torch.equal(gated.routing.weight, made.gate(x.reshape(-1, 16)).routing.weight)
    half = copy.deepcopy(made).bfloat16()
    out, auxiliary = half(x.bfloat16())
    assert out.dtype == torch.bfloat16 and auxiliary.dtype == torch.float32
    torch.testing.assert_close(out.float(), made(x)[0], atol=0.1, rtol=0.1)


def test_frozen_experts_and_inputs_get_no_gradient():
    made = layer(4, width=32, inner=64, capacity_factor=None)
    made.experts.up.requires_grad_(False)
    made(tokens(8, 64, width=32))[0].sum().backward()
    assert made.experts.up.weight.grad is None and made.experts.down.weight.grad is not None


def test_the_exchange_is_a_seam():
    made = layer(4, capacity_factor=None)
    local, seen = made.exchange, []

    class Watched:
        def dispatch(self, x, routing):
            given = local.dispatch(x, routing)
            seen.append(given.counts)
            return given._replace(combine=lambda rows: 2 * given.combine(rows))

    x = tokens()
    before = made(x)[0]
    made.exchange = Watched()
    torch.testing.assert_close(made(x)[0], 2 * before)
    assert sum(seen[0]) == 33 and len(seen[0]) == 4
    for maps in (made.experts.up, made.experts.down):
        assert all(p.shape[maps.expert_dim] % 4 == 0 for p in maps.parameters())


@pytest.mark.filterwarnings("ignore")  # dynamo's own, of what it looks at where a graph ends
def test_compiles():
    made = layer(4, top_k=2, capacity_factor=None)
    x = tokens()
    torch.testing.assert_close(torch.compile(made, backend="eager")(x)[0], made(x)[0])
