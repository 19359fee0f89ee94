"""Tokens on several ranks give what one process gives: losses and gradients, under every mask."""

import traceback

import pytest
import torch
import torch.distributed as dist

from mainspring import parallel
from mainspring.data.batch import TokenBatch
from mainspring.nn.span import span_of
from mainspring.parallel import Plan
from mainspring.parallel.sequence import split_tokens
from parallel.sequence import cases
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed


def whole_gradients(model):
    found = {}
    for name, parameter in model.named_parameters():
        span, grad = span_of(parameter), parameter.grad
        if span is not None and grad is not None:
            whole = torch.zeros(span.shape.numel())
            whole[span.start : span.stop] = grad
            dist.all_reduce(whole)
            grad = whole.view(span.shape)
        found[name] = grad
    return found


def compare(rank, name, kind, plan, seed, length, zigzag):
    """Largest difference of the loss and of gradients, relative to the largest of each."""
    full = cases.batch(kind, seed, length)
    source = cases.batch("bidirectional, padded", 9, length) if name == "encoder-decoder" else None
    alone = cases.model(name)
    want, count = cases.loss(alone, full, source)
    (want / count).backward()
    spread = cases.model(name)
    parallel.apply(spread, plan, reduce="sum")
    rows = len(full.ids) // plan.data
    first = rank // plan.sequence * rows

    def share(batch):
        mine = TokenBatch._make(None if t is None else t[first : first + rows] for t in batch)
        return split_tokens(mine, rank % plan.sequence, plan.sequence, zigzag=zigzag)

    got, _ = cases.loss(spread, share(full), None if source is None else share(source), plan.sequence)
    (got / count).backward()
    total = got.detach().clone()
    dist.all_reduce(total)
    errors = {"loss": abs(float(total / want.detach()) - 1)}
    for key, grad in whole_gradients(spread).items():
        there = dict(alone.named_parameters())[key].grad
        if there is None:
            errors[key] = 0.0 if grad is None or not grad.any() else 1.0
        else:
            scale = max(there.abs().max(), 1e-2 * max(p.grad.abs().max() for p in alone.parameters()))
            errors[key] = float((grad - there).abs().max() / scale)
    return errors


def run(rank, world, chosen):
    results = {}
    for case in chosen:
        name, kind, fields, length, *in_order = case
        plan = Plan(data=world // fields["sequence"], **fields)
        zigzag = plan.sequence_attention == "ring" and not in_order
        try:
            errors = compare(rank, name, kind, plan, 1, length, zigzag)
        except Exception:
            errors = traceback.format_exc()
        results[label(*case)] = errors
        if isinstance(errors, str):
            break
    return results


def label(name, kind, fields, length, *in_order):
    words = [name, kind, "-".join(f"{k}={v}" for k, v in fields.items()), str(length), *in_order]
    return "/".join(words)


def chosen(world):
    heads, ring = {"sequence": 2}, {"sequence": 2, "sequence_attention": "ring"}
    rows = []
    if world == 2:
        for way in (heads, ring):
            rows += [("rotary", kind, way, 24) for kind in cases.KINDS]
            rows += [("t5", kind, way, 24) for kind in ("causal", "prefix", "pseudo-masked", "anything")]
            for name in ("absolute", "gated", "gated by input", "three heads", "encoder-decoder", "experts"):
                rows += [(name, kind, way, 24) for kind in ("causal, padded", "anything")]
            rows += [(name, "causal, packed", way, 23) for name in ("rotary", "encoder-decoder")]
            rows += [("rotary", "causal", {**way, "remat": True}, 24)]
        # A ring takes tokens in any order; a share of 36 is worked on in pieces.
        rows += [("rotary", kind, ring, 24, "in order") for kind in ("causal", "anything")]
        rows += [("rotary", "causal, packed", ring, 72), ("rotary", "causal", ring, 72, "in order")]
        rows += [("t5", kind, ring, 71) for kind in ("causal, padded", "anything")]
        rows += [
            (name, kind, heads, 24)
            for name in ("disentangled", "replaced")
            for kind in ("bidirectional", "bidirectional, padded", "anything")
        ]
        return rows
    for way in ("heads", "ring"):
        rows += [("t5", k, {"sequence": 4, "sequence_attention": way}, 24) for k in ("causal", "anything")]
        rows += [
            ("rotary", "causal, packed", {"sequence": 2, "sequence_attention": way, "zero": zero}, 24)
            for zero in (0, 1, 2, 3)
        ]
    rows += [("disentangled", "bidirectional, padded", {"sequence": 4}, 22)]
    return rows


@pytest.fixture(scope="module")
def outcomes():
    return {world: run_ranks(run, world, chosen(world), timeout=150) for world in (2, 4)}


@pytest.mark.parametrize(
    ("world", "case"), [pytest.param(w, label(*c), id=f"{w}-{label(*c)}") for w in (2, 4) for c in chosen(w)]
)
def test_as_one_process(outcomes, world, case):
    for errors in (found.get(case, "not reached") for found in outcomes[world]):
        assert not isinstance(errors, str), errors
        worst = max(errors, key=errors.get)
        assert errors[worst] < 2e-5, (worst, errors[worst])
