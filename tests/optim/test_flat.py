"""FlatAdam against torch's optimizers, over whole parameters, pieces of one buffer, and 16-bit dtypes."""

import copy

import pytest
import torch
from torch import nn

from mainspring.nn.span import Span, mark
from mainspring.optim import FlatAdam, flat
from mainspring.optim.runs import Entry, merge

SIZES = (3, 0, 40, 1, 84)
SETTINGS = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
PEERS = {
    "adamw": lambda p: torch.optim.AdamW(p, **SETTINGS),
    "adam": lambda p: torch.optim.Adam(p, **SETTINGS),
    "radam": lambda p: torch.optim.RAdam(p, decoupled_weight_decay=True, **SETTINGS),
    "adamax": lambda p: DecayedAdamax(p, **SETTINGS),
}


class DecayedAdamax(torch.optim.Adamax):
    """torch's, with weights that decay by themselves; states under our names."""

    def step(self):
        for group in self.param_groups:
            decay, group["weight_decay"] = group["weight_decay"], 0.0
            for p in group["params"]:
                p.data.mul_(1 - group["lr"] * decay)
            super().step()
            group["weight_decay"] = decay
            for p in group["params"]:
                self.state[p]["exp_avg_sq"] = self.state[p]["exp_inf"]


def pieces_of(buffer, sizes=SIZES):
    """Parameters that fill `buffer` one after the other; they take 16-bit gradients."""
    found = [nn.Parameter(part) for part in buffer.split(list(sizes))]
    for number, piece in enumerate(found):
        piece.grad_dtype = None
        mark(piece, Span(torch.Size([piece.numel() * 2 + number]), 0, piece.numel()))
    return found


def give_gradients(pieces, values):
    for piece, part in zip(pieces, values.split([p.numel() for p in pieces]), strict=True):
        piece.grad = part


def reference(kind, start, gradients, scale=1.0):
    weight = nn.Parameter(start.clone())
    optimizer = PEERS[kind]([weight])
    for gradient in gradients:
        weight.grad = gradient.to(weight.dtype) * scale
        optimizer.step()
    return weight.detach(), optimizer.state[weight]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pieces_step_as_torch_steps_the_whole(kind, dtype, monkeypatch):
    monkeypatch.setattr("mainspring.optim.portable.BLOCK", 50)  # so that runs are cut and joined
    torch.manual_seed(0)
    start = torch.randn(128)
    gradients = [torch.randn(128).to(dtype) for _ in range(8)]  # RAdam rectifies from its sixth step on
    want, state = reference(kind, start, gradients)
    pieces = pieces_of(buffer := start.clone())
    optimizer = FlatAdam(pieces, kind=kind, compiled=False, **SETTINGS)
    for gradient in gradients:
        give_gradients(pieces, gradient)
        optimizer.step()
    close(buffer, want)
    for name in ("exp_avg", "exp_avg_sq"):
        close(torch.cat([optimizer.state[p][name] for p in pieces]), state[name])
    assert {float(optimizer.state[p]["step"]) for p in pieces} == {8.0}


def test_fp32_is_torchs_fused_result_to_the_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    other = copy.deepcopy(model)
    pair = (
        torch.optim.AdamW(model.parameters(), fused=True, **SETTINGS),
        FlatAdam(other.parameters(), **SETTINGS),
    )
    for _ in range(3):
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("out", [torch.bfloat16, torch.float16])
def test_writes_the_copy_in_the_same_step(out):
    torch.manual_seed(0)
    pieces = pieces_of(buffer := torch.randn(128))
    shadow = torch.zeros(128, dtype=out)
    optimizer = FlatAdam(pieces, compiled=False, **SETTINGS)
    optimizer.copies = dict(zip(pieces, shadow.split(list(SIZES)), strict=True))
    give_gradients(pieces, torch.randn(128).bfloat16())
    optimizer.step()
    assert torch.equal(shadow, buffer.to(out))


def test_scale_is_that_of_the_gradient():
    torch.manual_seed(0)
    start, gradients = torch.randn(128), [torch.randn(128) for _ in range(2)]
    want, _ = reference("adamw", start, gradients, 0.25)
    pieces = pieces_of(buffer := start.clone())
    optimizer = FlatAdam(pieces, **SETTINGS)
    for gradient in gradients:
        give_gradients(pieces, kept := gradient.clone())
        optimizer.step(scale=0.25)
        assert torch.equal(kept, gradient)
    close(buffer, want)


def test_moments_lie_as_parameters_do():
    pieces = pieces_of(torch.randn(128))
    optimizer = FlatAdam(pieces)
    give_gradients(pieces, torch.randn(128))
    optimizer.step()
    states = [optimizer.state[p] for p in pieces if p.numel()]
    entries = [
        Entry(p.detach(), s["exp_avg"], s["exp_avg_sq"], p.grad, None, 1)
        for p, s in zip((p for p in pieces if p.numel()), states, strict=True)
    ]
    (run,) = merge(entries)
    assert run.p.numel() == 128 and run.m.data_ptr() == states[0]["exp_avg"].data_ptr()


def test_only_what_follows_in_all_tensors_is_merged():
    p, m, v, g = (torch.zeros(30) for _ in range(4))

    def entry(place, gradient=None, step=1):
        return Entry(p[place], m[place], v[place], g[place] if gradient is None else gradient, None, step)

    first, second, third = slice(0, 10), slice(10, 20), slice(20, 30)
    lengths = lambda *entries: [e.p.numel() for e in merge(entries)]  # noqa: E731
    assert lengths(entry(third), entry(first), entry(second)) == [30]
    assert lengths(entry(first), entry(third)) == [10, 10]
    assert lengths(entry(first), entry(second, torch.zeros(10))) == [10, 10]
    assert lengths(entry(first), entry(second, step=2), entry(third, step=2)) == [10, 20]
    assert lengths(entry(first), entry(second, g[second].bfloat16())) == [10, 10]


def test_unused_parameters_keep_values_and_have_no_state():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = FlatAdam([a, b])
    a.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(b, torch.ones(3)) and not optimizer.state[b]
    b.grad = torch.ones(3)
    optimizer.step()
    assert (int(optimizer.state[a]["step"]), int(optimizer.state[b]["step"])) == (2, 1)


def test_layouts_of_whole_parameters():
    torch.manual_seed(0)
    start = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    pair = FlatAdam([ours], **SETTINGS), PEERS["adamw"]([theirs])
    for _ in range(2):
        theirs.grad = torch.randn(2, 3, 4, 5)
        ours.grad = theirs.grad.clone()
        for optimizer in pair:
            optimizer.step()
    assert ours.is_contiguous(memory_format=torch.channels_last)
    close(ours, theirs)


def test_refuses_what_it_cannot_take():
    gaps = nn.Parameter(torch.ones(4, 4)[:, :2])
    gaps.grad = torch.ones(4, 2)
    with pytest.raises(ValueError, match="contiguous"):
        FlatAdam([gaps]).step()
    table = nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([0])).sum().backward()
    with pytest.raises(ValueError, match="dense gradients"):
        FlatAdam(table.parameters()).step()


def test_state_goes_to_torch_and_back():
    torch.manual_seed(0)
    start, gradients = torch.randn(128), [torch.randn(128) for _ in range(4)]
    pieces = pieces_of(start.clone())
    ours = FlatAdam(pieces, **SETTINGS)
    for gradient in gradients[:2]:
        give_gradients(pieces, gradient)
        ours.step()
    theirs = torch.optim.AdamW(copied := [nn.Parameter(p.detach().clone()) for p in pieces], **SETTINGS)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    again = FlatAdam(third := pieces_of(torch.cat([p.detach() for p in pieces])), **SETTINGS)
    again.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for gradient in gradients[2:]:
        give_gradients(copied, gradient)
        give_gradients(third, gradient)
        theirs.step()
        again.step()
    close(torch.cat([p.detach() for p in third]), torch.cat([p.detach() for p in copied]))


def test_a_prepared_update_keeps_the_settings_of_its_step():
    a, b = (nn.Parameter(torch.ones(4)) for _ in range(2))
    one, two = FlatAdam([a], **SETTINGS), FlatAdam([b], **SETTINGS)
    a.grad, b.grad = torch.ones(4), torch.ones(4)
    later = one.prepare()
    one.param_groups[0]["lr"] = 5.0
    a.grad = None
    later()
    two.step()
    assert torch.equal(a, b)


def test_closure_is_evaluated_with_gradients():
    weight = nn.Parameter(torch.ones(3))
    optimizer = FlatAdam([weight])

    def closure():
        loss = (weight**2).sum()
        loss.backward()
        return loss.detach()

    assert float(optimizer.step(closure)) == 3.0
    assert not torch.equal(weight, torch.ones(3))


def test_small_models_are_not_compiled_for(monkeypatch):
    def refuse(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr(flat, "compiled_update", refuse)
    for compiled in (None, False):
        pieces = pieces_of(torch.randn(128))
        give_gradients(pieces, torch.randn(128).bfloat16())
        FlatAdam(pieces, compiled=compiled).step()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("gradient", [torch.float32, torch.bfloat16])
def test_without_bias_correction(compiled, gradient, monkeypatch):
    """BERT's and XAdam's way: the moments as they are."""
    monkeypatch.setattr(flat, "SHORT", 1)
    torch.manual_seed(0)
    start = torch.randn(300)
    weight = nn.Parameter(start.clone())
    weight.grad_dtype = None
    optimizer = FlatAdam([weight], bias_correction=False, compiled=compiled, **SETTINGS)
    x, m, v = start.double(), 0.0, 0.0
    for _ in range(4):
        weight.grad = torch.randn(300).to(gradient)
        g = weight.grad.double()
        optimizer.step()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        x = x * (1 - 0.01 * 0.1) - 0.01 * m / (v.sqrt() + 1e-6)
    torch.testing.assert_close(weight.detach().double(), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("above", "before"), [(4.0, "momentum"), (5.0, "none"), (4.0, "none")])
def test_radam_as_the_paper_and_its_authors_have_it(above, before):
    """Algorithm 2 of arXiv 1908.03265, whose threshold is 4; the authors may wait until it is passed."""
    from mainspring.optim.update import Rectification

    torch.manual_seed(0)
    start, (b1, b2) = torch.randn(20), (0.8, 0.9)
    weight = nn.Parameter(start.clone())
    optimizer = FlatAdam([weight], kind="radam", rectification=Rectification(above, before), **SETTINGS)
    x, m, v, limit = start.double(), 0.0, 0.0, 2 / (1 - b2) - 1
    rectified = []
    for t in range(1, 9):
        weight.grad = torch.randn(20)
        g = weight.grad.double()
        optimizer.step()
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        x = x * (1 - 0.01 * 0.1)
        rho = limit - 2 * t * b2**t / (1 - b2**t)
        rectified.append(rho > above)
        if rho > above:
            r = ((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) ** 0.5
            x = x - 0.01 * r * (m / (1 - b1**t)) * (1 - b2**t) ** 0.5 / (v.sqrt() + 1e-6)
        elif before == "momentum":
            x = x - 0.01 * m / (1 - b1**t)
    assert rectified.index(True) == (4 if above == 4 else 5)
    torch.testing.assert_close(weight.detach().double(), x, rtol=1e-5, atol=1e-6)
