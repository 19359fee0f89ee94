"""Experts on several ranks give what one process gives, whatever the number of ranks they are on."""

import traceback

import pytest
import torch
import torch.distributed as dist

from mainspring import optim, parallel
from mainspring.data.batch import bidirectional_batch, causal_batch, pad_rows
from mainspring.errors import PlanError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.span import cut_of, span_of
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.parallel.expert.spread import expert_layers
from support.spawn import run_ranks

VOCAB, ROWS, STEPS = 40, 8, 2
OPTIM = OptimConfig(lr=1e-2, eps=1e-4, weight_decay=0.1)


def config(**other):
    experts = {"count": 8, "every": 1, "capacity_factor": None, **other.pop("experts", {})}
    return TransformerConfig(
        d_model=16, n_heads=2, n_layers=other.pop("n_layers", 2), d_ff=24, vocab_size=VOCAB,
        max_positions=16, init_std=0.3, experts=experts, **other,
    )  # fmt: skip


MODELS = {
    "top 1": lambda: config(experts={"top_k": 1}),
    "top 2, gated": lambda: config(activation="swiglu", experts={"top_k": 2, "residual": True}),
    "pyramid": lambda: config(experts={"count": (4, 8), "every": 1}),
    "encoder-decoder": lambda: config(n_layers=0, encoder_layers=2, decoder_layers=2, experts={"every": 2}),
    "dropping": lambda: config(
        experts={"capacity_factor": 0.7, "min_capacity": 1, "keep": "probability", "noise": None}
    ),
}


def rows(step, few=False):
    """Of different lengths; with `few`, one rank's rows are all one token, which one expert gets."""
    draw = torch.Generator().manual_seed(step)
    lengths = torch.randint(3, 13, (ROWS,), generator=draw).tolist()
    made = [torch.randint(VOCAB, (n,), generator=draw).tolist() for n in lengths]
    return [[7] * len(row) if few and i < ROWS // 2 else row for i, row in enumerate(made)]


def losses(model, some, weight):
    """Sum of the losses of some rows; the auxiliary ones, times `weight`, count by rows."""
    ids, valid = pad_rows(some, 0)
    batch = causal_batch(ids, valid=valid)
    source = bidirectional_batch(ids.flip(1), valid=valid.flip(1)) if model.encoder is not None else None
    out = model(batch, source=source)
    labels = ids[:, 1:].masked_fill(~valid[:, 1:], -100)
    total = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), labels.flatten(), reduction="sum"
    )
    return total + weight * len(some) * out.auxiliary.sum()


def train(model, shares, scale, weight, over_ranks, clip, read, few):
    """Steps over micro-batches; what is compared."""
    optimizer = optim.build(model, OPTIM)
    found = {"losses": [], "norms": [], "gradients": {}}
    for step in range(STEPS):
        count = sum(len(row) - 1 for row in rows(step))
        total = torch.zeros(())
        parts = shares(rows(step, few))
        for index, part in enumerate(parts):
            with parallel.no_sync(model) if index + 1 < len(parts) else torch.enable_grad():
                loss = losses(model, part, weight) / count
                (loss * scale).backward()
            total += loss.detach()
        found["losses"].append(over_ranks(total))
        if step == 0:
            found["gradients"] = {n: read(p.grad, p) for n, p in model.named_parameters()}
        found["norms"].append(clip())
        optimizer.step()
        optimizer.zero_grad()
    found["parameters"] = {n: read(p.detach(), p) for n, p in model.named_parameters()}
    return found


def whole(part, parameter):
    """The parameter (or its gradient), of which every rank has a part or all."""
    span, cut = span_of(parameter), cut_of(parameter)
    if span is None and cut is None:
        return part.clone()
    shape = cut.shape if cut is not None else span.shape
    every = torch.zeros(2, *shape)
    box = torch.zeros(2, *(cut.sizes if cut is not None else shape))
    flat = box.view(2, -1)
    where = slice(span.start, span.stop) if span is not None else slice(None)
    flat[0, where], flat[1, where] = part.flatten(), 1.0
    for into, values in zip(every, box, strict=True):
        (cut.of(into) if cut is not None else into).copy_(values)
    dist.all_reduce(every)
    return every[0] / every[1]


def compare(rank, world, name, fields, reduce, few, weight):
    plan = Plan(data=world // fields.get("sequence", 1), **fields)
    size = ROWS // plan.data
    alone = initialize(Transformer(MODELS[name]()), 0).train()
    clip = lambda m: lambda: float(torch.nn.utils.clip_grad_norm_(m.parameters(), 0.05))  # noqa: E731
    # A micro-batch of a rank is the unit of balance and of room: one process goes through the same ones.
    micro = lambda every: [every[i : i + size] for i in range(0, ROWS, size)]  # noqa: E731
    keep = lambda part, parameter: part.clone()  # noqa: E731
    want = train(alone, micro, 1, weight, float, clip(alone), keep, few)
    torch.manual_seed(rank)
    spread = initialize(Transformer(MODELS[name]()), 0 if rank == 0 else 5).train()
    parallel.apply(spread, plan, reduce=reduce)

    def over_ranks(value):
        total = value.clone()
        dist.all_reduce(total)
        return float(total)

    got = train(
        spread, lambda every: [micro(every)[rank]], world if reduce == "mean" else 1, weight, over_ranks,
        lambda: parallel.clip_grad_norm(spread, 0.05), whole, few,
    )  # fmt: skip
    errors = {}
    for key in ("losses", "norms"):
        errors[key] = max(abs(a / b - 1) for a, b in zip(got[key], want[key], strict=True))
    for kind in ("gradients", "parameters"):
        largest = max(float(t.abs().max()) for t in want[kind].values() if t is not None)
        for key, value in want[kind].items():
            errors[f"{kind} {key}"] = float((got[kind][key] - value).abs().max()) / largest
    return errors


def label(name, fields, reduce="sum", few=False, weight=0.5):
    words = [name, *(f"{k}={v}" for k, v in fields.items()), reduce]
    return "-".join([*words, *(["few"] if few else []), f"{weight}"])


def run(rank, world, chosen):
    results = {}
    for case in chosen:
        try:
            results[label(*case)] = compare(rank, world, *case)
        except Exception:
            results[label(*case)] = traceback.format_exc()
            break
    return results


def chosen(world):
    if world == 2:
        return [(name, {"expert": 2}, "sum", False, 0.5) for name in MODELS] + [
            ("top 2, gated", {"expert": 2, "zero": 3}, "mean", False, 0.5),
            ("top 1", {"expert": 2}, "mean", False, 0.0),
            ("top 1", {"expert": 2, "remat": True}, "sum", False, 0.5),
            ("top 1", {"expert": 2}, "sum", True, 0.5),
        ]
    mixed = [
        ("top 1", {"expert": expert, "zero": zero}, "mean", False, 0.5) for expert, zero in ((2, 0), (4, 2))
    ]
    return mixed + [
        ("top 2, gated", {"expert": expert, "zero": zero}, "sum", False, 0.5)
        for expert in (1, 2, 4)
        for zero in (0, 1, 2, 3)
        if expert > 1 or zero == 0
    ]


@pytest.fixture(scope="module")
def outcomes():
    return {world: run_ranks(run, world, chosen(world), timeout=150) for world in (2, 4)}


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("world", "case"), [pytest.param(w, label(*c), id=f"{w}-{label(*c)}") for w in (2, 4) for c in chosen(w)]
)
def test_as_one_process(outcomes, world, case):
    for errors in (found.get(case, "not reached") for found in outcomes[world]):
        assert not isinstance(errors, str), errors
        worst = max(errors, key=errors.get)
        assert errors[worst] < 2e-5, (worst, errors[worst])


def test_numbers_that_do_not_divide_are_refused():
    model = Transformer(MODELS["pyramid"]())
    with pytest.raises(PlanError, match="has 4 experts, which 8 ranks cannot share.*nearest legal.*2 or 4"):
        expert_layers(model, 8)
    with pytest.raises(PlanError, match="no layers of experts"):
        expert_layers(Transformer(config().replace(experts=None)), 2)
    with pytest.raises(ValueError, match="has to divide data = 4"):
        Plan(data=4, expert=3)
