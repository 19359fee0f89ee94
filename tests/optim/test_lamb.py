"""LAMB against its published algorithm in double precision: whole, in pieces, plain and compiled."""

import pytest
import torch
from torch import nn

from mainspring.nn.span import Span, mark
from mainspring.optim import Lamb, OptimConfig, build, flat

SETTINGS = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1}


def reference(start, gradients, *, adapt=True, lr=0.02, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1):
    """Algorithm 2 of arXiv 1904.00962, line by line, with phi the identity."""
    x, m, v = start.double(), torch.zeros_like(start).double(), torch.zeros_like(start).double()
    for t, g in enumerate(gradients, 1):
        g = g.double()
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        r = (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps) + weight_decay * x
        ratio = x.norm() / r.norm() if adapt and x.norm() > 0 and r.norm() > 0 else 1.0
        x = x - lr * ratio * r
    return x


@pytest.mark.parametrize("gradient", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_follows_the_published_algorithm(compiled, gradient):
    torch.manual_seed(0)
    starts = [torch.randn(40, 9), torch.randn(7), torch.zeros(5), torch.randn(flat.SHORT + 3)]
    given = [[torch.randn_like(s).to(gradient) for s in starts] for _ in range(4)]
    parameters = [nn.Parameter(s.clone()) for s in starts]
    copies = [torch.zeros_like(s, dtype=torch.bfloat16) for s in starts]
    plain = parameters.pop(1)
    optimizer = Lamb(
        [{"params": parameters}, {"params": [plain], "adapt": False}], compiled=compiled, **SETTINGS
    )
    parameters.insert(1, plain)
    optimizer.copies = dict(zip(parameters, copies, strict=True))
    for row in given:
        for parameter, g in zip(parameters, row, strict=True):
            parameter.grad_dtype = None
            parameter.grad = g
        optimizer.step()
    for number, (parameter, start) in enumerate(zip(parameters, starts, strict=True)):
        want = reference(start, [row[number] for row in given], adapt=number != 1)
        torch.testing.assert_close(parameter.detach().double(), want, rtol=2e-5, atol=2e-6)
        assert torch.equal(copies[number], parameter.detach().bfloat16())
        assert float(optimizer.state[parameter]["step"]) == 4


def test_pieces_step_as_the_whole_when_their_sums_are_joined():
    """Two optimizers stand for two ranks; what the other's piece adds to the sums is the reference's."""
    torch.manual_seed(0)
    start, gradients = torch.randn(6, 5), [torch.randn(6, 5) for _ in range(3)]
    cuts = [(0, 11), (11, 30)]
    pieces = []
    for a, b in cuts:
        pieces.append(nn.Parameter(start.flatten()[a:b].clone()))
        mark(pieces[-1], Span(start.shape, a, b))
    seen = [[], []]

    def join_of(rank):
        def join(parameters, rows):
            assert parameters == [pieces[rank]]
            rows += seen[1 - rank].pop(0)

        return join

    # The sums of each step, of the whole minus the piece, from the reference.
    x = start.double()
    m = v = torch.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        m, v = 0.8 * m + 0.2 * g.double(), 0.9 * v + 0.1 * g.double() ** 2
        r = (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-4) + 0.1 * x
        for rank, (a, b) in enumerate(cuts):
            part = (x.flatten()[a:b], r.flatten()[a:b])
            seen[rank].append(torch.stack([(q**2).sum() for q in part])[None])
        x = x - 0.02 * x.norm() / r.norm() * r
    for rank, (a, b) in enumerate(cuts):
        optimizer = Lamb([pieces[rank]], join=join_of(rank), **SETTINGS)
        for g in gradients:
            pieces[rank].grad = g.flatten()[a:b]
            optimizer.step()
    whole = torch.cat([p.detach() for p in pieces]).view(6, 5)
    torch.testing.assert_close(whole.double(), x, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(whole.double(), reference(start, gradients), rtol=2e-5, atol=2e-6)


def test_pieces_without_a_sum_over_ranks_are_refused():
    piece = nn.Parameter(torch.ones(3))
    mark(piece, Span(torch.Size([6]), 0, 3))
    piece.grad = torch.ones(3)
    with pytest.raises(ValueError, match="has pieces: give it join="):
        Lamb([piece]).step()


def test_built_from_settings():
    optimizer = build(nn.Linear(3, 2), OptimConfig(kind="lamb", lr=0.1))
    assert isinstance(optimizer, Lamb)
    assert [(g["adapt"], g["weight_decay"]) for g in optimizer.param_groups] == [(True, 0.1), (False, 0.0)]
