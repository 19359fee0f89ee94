"""Every family, and every part that is cut, gives the losses and gradients of one process."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mainspring import parallel
from mainspring.data.batch import IGNORE
from mainspring.nn import Transformer, initialize
from mainspring.nn.span import cut_of
from mainspring.objectives.cross_entropy import summed_cross_entropy
from mainspring.parallel import Plan
from parallel.tensor.variants import LENGTH, batch_of, families, parts
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

CONFIGS = families() | parts()
PLANS = {"whole tokens": {}, "odd number of tokens, cut": {"tensor_sequence": True}}


def objective(model, config, batch, source, states=True):
    """A loss to which all outputs contribute."""
    labels = batch.ids.masked_fill(batch.ids % 3 == 0, IGNORE)
    out = model(batch, source=source, select=labels != IGNORE, columns="own", states=states)
    if config.head == "tokens":
        loss = summed_cross_entropy(out.logits, labels[labels != IGNORE], out.vocabulary)
    else:
        loss = F.softplus(out.logits.float()).sum() if config.head == "replaced" else out.hidden.sum() * 0
    draw = torch.Generator().manual_seed(2)
    inside = out.states[1] if states else None
    for output in (out.hidden, inside, out.summary, out.pair_logits, out.auxiliary):
        if output is not None:
            loss = loss + (output * torch.randn(output.shape, generator=draw)).sum()
    return loss


def differences(rank, world, options):
    """Largest errors of losses and gradients, of each model, relative to the largest gradient."""
    found = {}
    for name, config in CONFIGS.items():
        batch, source = batch_of(config, LENGTH + ("odd" in options))
        one = initialize(Transformer(config), seed=1)
        want = objective(one, config, batch, source)
        want.backward()
        model = parallel.apply(initialize(Transformer(config), seed=1), Plan(tensor=world, **PLANS[options]))
        loss = objective(model, config, batch, source)
        loss.backward()
        errors = {"loss": float((loss - want).detach().abs() / want.detach().abs())}
        largest = max(float(p.grad.abs().max()) for p in one.parameters() if p.grad is not None)
        cuts = 0
        for (key, mine), theirs in zip(model.named_parameters(), one.parameters(), strict=True):
            cut = cut_of(mine)
            cuts += cut is not None
            assert (mine.grad is None) == (theirs.grad is None), (name, key)
            if mine.grad is not None:
                share = theirs.grad if cut is None else cut.of(theirs.grad)
                errors[key] = float((mine.grad - share).abs().max()) / largest
        found[name] = errors, cuts
    return found


@pytest.fixture(scope="module", params=list(PLANS))
def outcomes(request):
    return run_ranks(differences, 2, request.param, timeout=200)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_as_one_process(outcomes, name):
    for rank in outcomes:
        errors, cuts = rank[name]
        worst = max(errors, key=errors.get)
        assert errors[worst] < 2e-5, (worst, errors[worst])
        assert cuts > 8
