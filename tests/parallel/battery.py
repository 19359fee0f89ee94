"""The equivalence contract: a plan on N ranks gives the loss, gradients and parameters of one process.

`check(rank, world, cases)` runs on every rank of a process group and compares each case with a plain loop in
the same process over the same rows. A later strategy passes the contract by adding cases.
"""

from __future__ import annotations

import contextlib
import functools
import math
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mainspring import optim, parallel
from mainspring.nn.span import cut_of, logical_shape, span_of
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.parallel.strategy import strategy_of
from mainspring.parallel.tensor.rules import Rule
from parallel.examples import EXAMPLES, STAGED, Example

ALL = EXAMPLES | STAGED

STEPS = 3
ROWS = 24
CLIP = 0.05

# eps is large so that Adam does not blow up gradients that are pure rounding noise (the bias of attention's
# keys).
OPTIM = OptimConfig(lr=1e-2, eps=1e-4, weight_decay=0.1)


@dataclass(frozen=True)
class Case:
    """One point of the contract."""

    example: str
    plan: dict[str, Any] = field(default_factory=dict)
    """Fields of the plan beside `data`, which is what they leave of the world."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulation: int = 1
    reduce: Literal["sum", "mean"] = "sum"
    meta: bool = False
    """Born on meta, spread, then materialised."""
    no_sync: bool = True
    """Whether the loop tells about accumulation; it must be right without, too."""
    rules: dict[str, Rule] | None = None
    """How modules that do not say it themselves are cut."""

    @property
    def id(self) -> str:
        parts = [self.example, *(f"{k}={v}" for k, v in self.plan.items()), self.precision]
        parts += [f"accumulate={self.accumulation}"] if self.accumulation > 1 else []
        parts += [
            name
            for name, on in (
                ("mean", self.reduce == "mean"),
                ("meta", self.meta),
                ("unannounced", not self.no_sync),
                ("rules", self.rules is not None),
            )
            if on
        ]
        return "-".join(parts)

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass
class Trace:
    """What a training loop leaves behind."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    """Of the first step, before clipping."""
    parameters: dict[str, Tensor] = field(default_factory=dict)
    trainable: dict[str, bool] = field(default_factory=dict)


def check(rank: int, world: int, cases: list[Case]) -> dict[str, dict[str, float] | str]:
    """Run all cases; for each the errors relative to their tolerance (at most 1 is equal), or a traceback.

    An error that only some ranks meet ends the run: the others would wait for it.
    """
    return {case.id: _outcome(rank, world, case) for case in cases}


def _outcome(rank: int, world: int, case: Case) -> dict[str, float] | str:
    try:
        want = single_run(case)
        if _on_fsdp2(case):
            decay_unused(want)
        with tempfile.TemporaryDirectory() as folder:
            got = spread_run(rank, world, case, folder)
        errors = compare(got, want, _numbers(case), _on_fsdp2(case))
    except Exception:
        errors = traceback.format_exc()
    met: list[Any] = [None] * world
    dist.all_gather_object(met, errors)
    worst = [m for m in met if isinstance(m, str)]
    if worst:
        return worst[0]
    return {key: max(m[key] for m in met) for key in met[0]}


def compare(got: Trace, want: Trace, precision: str, fsdp2: bool) -> dict[str, float]:
    """Largest error of each kind over its tolerance."""
    rtol = {"fp32": 2e-5, "bf16": 4e-2, "fp16": 1e-2}[precision]
    result = {
        "loss": max(abs(a - b) / (rtol * abs(b)) for a, b in zip(got.losses, want.losses, strict=True)),
        "norm": max(abs(a - b) / (rtol * abs(b)) for a, b in zip(got.norms, want.norms, strict=True)),
    }
    assert got.gradients.keys() == want.gradients.keys()
    largest = max(float(g.abs().max()) for g in want.gradients.values() if g is not None)
    for name, gradient in want.gradients.items():
        mine = got.gradients[name]
        if not fsdp2:
            assert (mine is None) == (gradient is None), f"{name}: only one has a gradient"
        # On FSDP2 a parameter that no rank used has a gradient of zero instead of None.
        mine = torch.zeros_like(got.parameters[name]) if mine is None else mine
        error = float((mine - (0 if gradient is None else gradient)).abs().max()) / (rtol * largest)
        result["gradient"] = max(result.get("gradient", 0.0), error)
    for name, parameter in want.parameters.items():
        # An update moves a parameter by about lr a step.
        error = float((got.parameters[name] - parameter).abs().max()) / (10 * rtol * OPTIM.lr * STEPS)
        result["parameters"] = max(result.get("parameters", 0.0), error)
    return result


def decay_unused(trace: Trace) -> None:
    """On FSDP2 a parameter that no rank used has a gradient of zero: weight decay alone shrinks it."""
    for name, gradient in trace.gradients.items():
        if gradient is None and trace.parameters[name].ndim >= 2 and trace.trainable[name]:
            trace.parameters[name] *= (1 - OPTIM.lr * OPTIM.weight_decay) ** STEPS


def spread_run(rank: int, world: int, case: Case, folder: str) -> Trace:
    """Train under the plan; every rank takes its share of the rows, and starts from other random numbers.

    `folder` is for what a plan keeps on disk.
    """
    example, plan = ALL[case.example], plan_of(case, world, folder)
    torch.manual_seed(0 if rank == 0 else 100 + rank)
    if case.meta:
        with torch.device("meta"):
            model = example.build()
    else:
        model = example.build()
    spread = parallel.apply(model, plan, precision=case.precision, reduce=case.reduce, rules=case.rules)
    assert spread is model
    if case.meta:
        assert example.initialize is not None
        parallel.materialize(model, "cpu", example.initialize)
    axes = strategy_of(model).axes
    index, shares, ranks = axes.index("data"), axes.size("data"), axes.size("replicas")
    share = lambda rows: rows[index * len(rows) // shares : (index + 1) * len(rows) // shares]  # noqa: E731
    scale = ranks if case.reduce == "mean" else 1
    if plan.sequence > 1:
        tokens = {"index": axes.index("sequence"), "size": plan.sequence}
        example = replace(example, loss=functools.partial(example.loss, **tokens))

    # What lies on disk is in no parameter between steps.
    stored = functools.partial(parallel.full_state, model, rank0_only=False)
    parameters = stored if plan.offload == "disk" else None
    if plan.pipeline > 1:
        return _train(
            model,
            example,
            case.accumulation,
            share,
            scale,
            _accumulated,
            lambda value: _sum_over_ranks(value) * ranks * plan.pipeline / world,
            lambda: parallel.clip_grad_norm(model, CLIP),
            lambda value: _over_stages(model, example.build(), value),
            parameters,
        )

    def quiet(last: bool) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if last or not case.no_sync else parallel.no_sync(model)

    return _train(
        model,
        example,
        case.accumulation,
        share,
        scale,
        lambda model, micro_batches, loss: _plain(model, micro_batches, loss, quiet),
        lambda value: _sum_over_ranks(value) * ranks / world,
        lambda: parallel.clip_grad_norm(model, CLIP),
        parameters=parameters,
    )


def plan_of(case: Case, world: int, folder: str) -> Plan:
    """The case's plan on so many ranks, with a folder where it takes one."""
    others = math.prod(case.plan.get(axis, 1) for axis in ("tensor", "sequence", "pipeline"))
    where = {"offload_folder": folder} if case.plan.get("offload") == "disk" else {}
    return Plan(data=world // others, **case.plan, **where)


def _numbers(case: Case) -> str:
    """The narrowest numbers that a case computes with or sends."""
    return "bf16" if case.plan.get("gradient_dtype") == "bf16" else case.precision


def single_run(case: Case) -> Trace:
    """The plain loop of one process over all rows."""
    torch.manual_seed(0)
    example = ALL[case.example]
    model = example.build()
    sharded = case.plan.get("zero", 0) > 0
    context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if case.precision == "bf16":
        context = _in_bf16(model, cast=sharded)
    clip = lambda: float(nn.utils.clip_grad_norm_(model.parameters(), CLIP))  # noqa: E731
    with context:
        return _train(
            model,
            example,
            1,
            lambda rows: rows,
            1,
            lambda model, micro_batches, loss: _plain(
                model, micro_batches, loss, lambda last: contextlib.nullcontext()
            ),
            lambda value: value,
            clip,
        )


def _train(
    model: nn.Module,
    example: Example,
    accumulation: int,
    share: Callable[[list[Any]], list[Any]],
    scale: float,
    backward: Callable[..., float],
    over_ranks: Callable[[float], float],
    clip: Callable[[], float],
    gather: Callable[[Callable[[Tensor], Tensor | None]], dict[str, Any]] | None = None,
    parameters: Callable[[], dict[str, Tensor]] | None = None,
) -> Trace:
    gather = gather or (lambda value: {name: _whole_of(p, value) for name, p in model.named_parameters()})
    model.train()
    optimizer = optim.build(model, OPTIM)
    generator = torch.Generator().manual_seed(7)
    trace = Trace()
    for step in range(STEPS):
        everything = example.rows(ROWS, generator)
        with torch.no_grad():  # the loss of all rows is divided by their global count
            count = sum(_predictions(example, [row]) for row in everything)
        mine = share(everything)
        ends = [index * len(mine) // accumulation for index in range(accumulation + 1)]
        factor = scale / count
        losses = backward(
            model,
            [mine[start:stop] for start, stop in pairwise(ends)],
            lambda model, micro, factor=factor: example.loss(model, micro)[0] * factor,
        )
        trace.losses.append(over_ranks(losses) / scale)
        if step == 0:
            trace.gradients = gather(lambda parameter: parameter.grad)
        trace.norms.append(clip())
        optimizer.step()
        optimizer.zero_grad()
    trace.parameters = gather(lambda parameter: parameter.detach()) if parameters is None else parameters()
    trace.trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    return trace


def _plain(
    model: nn.Module,
    micro_batches: list[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    quiet: Callable[[bool], contextlib.AbstractContextManager[Any]],
) -> float:
    """The user's own loop; the sum of the losses."""
    total = 0.0
    for index, micro_batch in enumerate(micro_batches):
        with quiet(index == len(micro_batches) - 1):
            value = loss(model, micro_batch)
            value.backward()
        total += value.item()
    return total


def _accumulated(
    model: nn.Module, micro_batches: list[Any], loss: Callable[[nn.Module, Any], Tensor]
) -> float:
    """Through a pipeline; the sum of the losses, on the last stage's ranks."""
    return float(sum(parallel.accumulate(model, micro_batches, loss)))


def _over_stages(
    model: nn.Module, whole: nn.Module, value: Callable[[Tensor], Tensor | None]
) -> dict[str, Tensor | None]:
    """Values of all parameters of the whole model, from wherever they are."""
    own, found = dict(model.named_parameters()), {}
    names = [name for name, _ in whole.named_parameters()]
    assert set(own) <= set(names)
    for name in names:
        mine = own.get(name)
        there = None if mine is None else value(mine)
        count = _sum_over_ranks(float(there is not None))
        holders = _sum_over_ranks(float(mine is not None))
        assert holders > 0 and count in (0, holders), f"{name} is on {holders} ranks, {count} have a value"
        shape = dict(whole.named_parameters())[name].shape
        found[name] = joined(there, mine, shape) if count else None
    return found


def _predictions(example: Example, rows: list[Any]) -> int:
    return len(rows) if isinstance(rows[0], tuple) else sum(len(row) - 1 for row in rows)


def _on_fsdp2(case: Case) -> bool:
    return case.plan.get("zero", 0) > 0 and case.plan.get("backend") == "fsdp2"


def _whole_of(parameter: Tensor, value: Callable[[Tensor], Tensor | None]) -> Tensor | None:
    """A value (the gradient, say) of a parameter of which every rank has a part."""
    mine = value(parameter)
    if span_of(parameter) is None and cut_of(parameter) is None:
        if mine is None:
            return None
        return (mine.full_tensor() if isinstance(mine, DTensor) else mine.detach()).clone()
    there = _sum_over_ranks(float(mine is not None))
    assert there in (0, dist.get_world_size()), "some ranks have a value"
    return joined(mine, parameter, logical_shape(parameter)) if there else None


def joined(values: Tensor | None, parameter: Tensor | None, shape: torch.Size) -> Tensor:
    """The whole of which ranks have parts: its values where it is what `parameter` is of the whole.

    Ranks that hold the same part have to hold the same values; one that holds none gives None.
    """
    whole, holders = torch.zeros((2, *shape), dtype=torch.float64)
    if parameter is not None and values is not None:
        cut, span = cut_of(parameter), span_of(parameter)
        box = whole if cut is None else cut.of(whole)
        here = torch.ones(box.shape, dtype=torch.bool)
        if span is not None:
            here = torch.zeros(box.numel(), dtype=torch.bool)
            here[span.start : span.stop] = True
            here = here.view(box.shape)
        box[here] = values.detach().double().flatten()
        (holders if cut is None else cut.of(holders))[here] = 1.0
    dist.all_reduce(whole)
    dist.all_reduce(holders)
    assert bool((holders > 0).all()), "some elements are nowhere"
    whole /= holders
    if parameter is not None and values is not None:
        own = (whole if cut is None else cut.of(whole))[here]
        assert torch.equal(own, values.detach().double().flatten()), "ranks hold different values of a part"
    return whole.float()


def _sum_over_ranks(value: float) -> float:
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)


@contextlib.contextmanager
def _in_bf16(model: nn.Module, *, cast: bool) -> Iterator[None]:
    """Run the forward of `model` in bfloat16, as the strategies do, in one process.

    Under autocast; with `cast` also from bf16 copies of the parameters and inputs, which is FSDP2's policy.
    """
    forward = model.forward

    def lower(x: Any) -> Any:
        return x.to(torch.bfloat16) if isinstance(x, Tensor) and x.is_floating_point() else x

    def run(*args: Any, **kwargs: Any) -> Any:
        model.forward = forward
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=not cast or bool(list(model.buffers()))):
                if not cast:
                    return forward(*args, **kwargs)
                copies = {name: lower(p) for name, p in model.named_parameters()}
                return torch.func.functional_call(model, copies, tuple(map(lower, args)), kwargs)
        finally:
            model.forward = run

    model.forward = run
    try:
        yield
    finally:
        del model.forward
