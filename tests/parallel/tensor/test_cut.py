"""A model whose layers are cut over ranks has the logits, loss and gradients of one process."""

from __future__ import annotations

import pytest
import torch

from mainspring import parallel
from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.span import cut_of
from mainspring.objectives.base import labelled_loss
from mainspring.parallel import Plan
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

CONFIG = TransformerConfig(d_model=32, n_heads=4, n_layers=2, d_ff=80, vocab_size=97, max_positions=12)


def both(rank, world):
    return [errors(rank, world, tokens) for tokens in (False, True)]


def errors(rank, world, tokens):
    """Largest errors of the logits, the loss and the gradients."""
    ids = torch.randint(97, (3, 12), generator=torch.Generator().manual_seed(3))
    labels = torch.roll(ids, -1, 1)
    labels[:, -1] = -100
    batch = causal_batch(ids, labels=labels)
    one = initialize(Transformer(CONFIG), seed=1)
    want = labelled_loss(one, batch)
    want.backward()
    torch.manual_seed(rank)
    model = Transformer(CONFIG) if rank else initialize(Transformer(CONFIG), seed=1)
    parallel.apply(model, Plan(tensor=world, tensor_sequence=tokens))
    loss = labelled_loss(model, batch)
    loss.backward()
    found = {"loss": float((loss - want).detach().abs() / want.detach())}
    for (name, mine), theirs in zip(model.named_parameters(), one.parameters(), strict=True):
        cut = cut_of(mine)
        share = theirs.grad if cut is None else cut.of(theirs.grad)
        found[name] = float((mine.grad - share).abs().max())
    with torch.no_grad():
        found["logits"] = float((model(batch).logits - one(batch).logits).abs().max())
    cuts = sum(cut_of(p) is not None for p in model.parameters())
    return found, cuts


def test_as_one_process():
    for rank in run_ranks(both, 2):
        for found, cuts in rank:
            assert cuts == 1 + 2 * 6
            assert max(found.values()) < 2e-5, found
