"""Carry out a plan on any module: `apply`, then the four verbs a training loop needs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mainspring import comm
from mainspring.comm import Counter
from mainspring.errors import PlanError
from mainspring.nn.span import cut_of, span_of
from mainspring.parallel.expert import expert_layers, spread_experts
from mainspring.parallel.mesh import Axes, copies_of
from mainspring.parallel.own_norm import clip_own_gradients
from mainspring.parallel.pipeline import gather_stages, keep_stages, open_pipeline
from mainspring.parallel.places import place
from mainspring.parallel.plan import Plan
from mainspring.parallel.precision import Autocast, Precision
from mainspring.parallel.remat import set_remat
from mainspring.parallel.sequence import spread_sequence
from mainspring.parallel.shard import Sharded
from mainspring.parallel.strategy import Replicated, Strategy, remember, strategy_of
from mainspring.parallel.tensor import Rule, cut_tensors
from mainspring.parallel.watch import watch_collectives
from mainspring.parallel.whole import named_tensors, own_tensors, whole
from mainspring.parallel.zero import state
from mainspring.parallel.zero.engine import Flat
from mainspring.parallel.zero.gradients import plain
from mainspring.parallel.zero.placement import Placement, Shard
from mainspring.parallel.zero.scale import LossScaler

M = TypeVar("M", bound=nn.Module)


def apply(
    model: M,
    plan: Plan,
    *,
    axes: Axes | None = None,
    precision: Precision = "fp32",
    reduce: Literal["mean", "sum"] = "mean",
    counter: Counter | None = None,
    placement: Placement | None = None,
    rules: Mapping[str, Rule] | None = None,
) -> M:
    """Spread `model` over ranks as `plan` says, in place; the loop around it stays as it is.

    Every rank calls this with the same module. It may have storage (rank 0's values are given to all) or
    live on the meta device (call `materialize` next). Make the optimizer afterwards. With one rank there is
    nothing to shard: any ZeRO stage is then legal and changes nothing.

    Args:
        model: any module; its units are what `blocks()` returns, else its lists of like modules.
        plan: how to spread it.
        axes: the plan's mesh; None makes it.
        precision: "bf16" and "fp16" compute in 16 bits over fp32 masters; fp16 with a loss scale that
            follows overflows by itself (`zero.scale`), on flat shards alone.
        reduce: how gradients of ranks are joined. "mean" suits a loss averaged on each rank over equal
            counts, "sum" a loss that is already divided by the global count.
        counter: told all traffic; None makes one (see `traffic`).
        placement: where masters live, of flat shards; None takes what the plan says (`offload`).
        rules: how `plan.tensor` cuts modules that do not say it themselves, by pattern of module paths:
            `{"h.*.mlp.c_fc": "column", "h.*.mlp.c_proj": "row"}` (`mainspring.parallel.tensor.rules`).

    Returns:
        The same object.

    Raises:
        PlanError: the plan's world is not the number of ranks, or `model` has a plan
            already.
    """
    known = strategy_of(model)
    if type(known) is not Strategy or known.pipeline is not None:
        raise PlanError("this model is spread already; apply a plan once, to a fresh model")
    axes = Axes.of(plan) if axes is None else axes
    counter = Counter() if counter is None else counter
    if plan.expert > 1:
        expert_layers(model, plan.expert)  # of the whole model: a stage of a pipeline may have none
    kept = keep_stages(model, axes, plan) if plan.pipeline > 1 else None
    if plan.tensor > 1:
        cut_tensors(model, axes, plan, counter, rules)
    if plan.expert > 1:
        spread_experts(model, axes, counter)
    if plan.sequence > 1:
        spread_sequence(model, axes, plan, counter)
    set_remat(model, plan.remat)
    group = axes.group("replicas")
    alone = group is None
    placement = place(plan) if placement is None else placement
    strategy: Strategy
    flat = plan.zero > 0 and plan.backend == "flat" and (not alone or precision == "fp16")
    if precision == "fp16" and not (flat or placement is not None):
        remedy = "zero to 1, 2 or 3 (legal on one rank, too)" if plan.zero == 0 else 'backend = "flat"'
        raise PlanError(
            f"fp16 needs the loss scaler of flat shards; the plan has zero = {plan.zero}, backend = "
            f'"{plan.backend}": set {remedy}, or use precision = "bf16"'
        )
    if precision == "fp16" and plan.communication != "exact":
        raise PlanError(
            "fp16 agrees on overflows where gradients are joined, and with plan.communication = "
            f'"{plan.communication}" they are not; use precision = "bf16"'
        )
    if placement is not None or flat:
        strategy = Flat(
            model,
            plan,
            group,
            counter,
            precision=precision,
            reduce=reduce,
            expert_group=axes.group("expert_replicas"),
            tensor_group=axes.group("tensor"),
            placement=placement,
        )
    elif group is None:
        strategy = Strategy(model, plan, None, counter)
    elif plan.zero == 0:
        strategy = Replicated(model, plan, group, counter, reduce, axes.group("expert_replicas"))
    else:
        strategy = Sharded(model, plan, group, counter, precision=precision, reduce=reduce)
    strategy.axes = axes
    if kept is not None:
        strategy.pipeline = open_pipeline(model, kept, plan, axes, counter, strategy)
    if precision == "bf16" and not isinstance(strategy, Sharded | Flat):
        Autocast(model)
    remember(model, strategy)
    watch_collectives(plan, strategy)
    return model


def materialize(
    model: nn.Module,
    device: torch.device | str,
    init: Callable[[nn.Module], None],
    *,
    equal: bool = True,
    whole: bool = False,
) -> None:
    """Give a model from the meta device its storage: each rank allocates only what it keeps.

    Args:
        model: a module on meta, before or after `apply`. Tied parameters stay tied.
        device: where the storage goes.
        init: fills every parameter and buffer in place. Sharded ones are 1-D pieces that carry a `span`
            (`mainspring.nn.span`), of which `nn.initialize` draws what it needs; on FSDP2, DTensors.
        equal: `init` surely gives the same values on every rank, so rank 0's need not be sent.
        whole: call `init` for each module, as `nn.Module.apply` does, with its own parameters whole and with
            rank 0's result for all: for an `init` that knows nothing of pieces. A unit is whole at a time.
    """
    strategy_of(model).materialize(device, init, equal=equal, whole=whole)


def no_sync(model: nn.Module) -> AbstractContextManager[None]:
    """A context for the backward passes of a step before its last (gradient accumulation).

    ZeRO 0 and 1 add gradients up on each rank and reduce them once, in the step's last backward. ZeRO 2 and 3
    keep only shards of gradients and so reduce in each; 2 leaves the parameters gathered until the last.
    """
    return strategy_of(model).no_sync()


def settle(model: nn.Module) -> None:
    """Forget gathered copies of sharded parameters: call it after changing parameters other than by an
    optimizer."""
    strategy_of(model).settle()


def shards(model: nn.Module) -> list[Shard]:
    """This rank's flat shards, in the order of the model's units; [] of a model that has none."""
    strategy = strategy_of(model)
    return strategy.shards if isinstance(strategy, Flat) else []


def loss_scaler(model: nn.Module) -> LossScaler | None:
    """The loss scale of a model that computes in fp16; None of any other."""
    strategy = strategy_of(model)
    return strategy.scaler if isinstance(strategy, Flat) else None


def sharded_state(model: nn.Module) -> dict[str, Tensor]:
    """What this rank holds of each tensor of `model`, by name; it shares memory with the model.

    Of flat shards 1-D pieces (perhaps of 0 elements) with a `span`, DTensors on FSDP2, else plain tensors;
    each under its first name, and with a `cut` where other ranks have more of it (`mainspring.nn.span`).
    """
    strategy = strategy_of(model)
    if isinstance(strategy, Flat):
        return state.sharded_state(strategy)
    return own_tensors(model)


def full_state(model: nn.Module, rank0_only: bool = True) -> dict[str, Tensor]:
    """The state dict of `model` with all tensors whole, on the CPU, as copies. Every rank calls it.

    Tensors are gathered one unit at a time.

    Args:
        model: sharded or not.
        rank0_only: other ranks get {} and need no memory for it.
    """
    strategy, axes = strategy_of(model), axes_of(model)
    wants, stages = not rank0_only or axes.rank == 0, axes.group("pipeline")
    keep = wants or axes.ranks("pipeline")[0] == 0

    def join(box: Tensor) -> Tensor:
        return whole(box, axes, strategy.counter)

    found: dict[str, Tensor] = {}
    if isinstance(strategy, Flat):
        found = state.full_state(strategy, join, keep)
    else:
        for name, tensor in named_tensors(model):
            joined = join(tensor)
            if keep:
                found[name] = joined.detach().to("cpu", copy=True)
    return found if stages is None else gather_stages(found, stages, strategy.counter, wants)


def axes_of(model: nn.Module) -> Axes:
    """Where this rank stands in the mesh of the model's plan; alone, where it has none."""
    found = strategy_of(model).axes
    return Axes.alone() if found is None else found


def traffic(model: nn.Module) -> Counter:
    """The tally of what the plan's collectives have moved for `model`."""
    return strategy_of(model).counter


def clip_grad_norm(model: nn.Module, max_norm: float) -> float:
    """Scale all gradients so that their global 2-norm is at most `max_norm`, and return the norm they had.

    The norm is over all parameters and all ranks: each element is counted once, however many ranks hold it.
    Gradients are left alone where the norm is within bounds, where it is not finite (so that the culprit can
    be found), and where `max_norm` is 0 or infinite (measure only). Where ranks keep their own gradients
    (`plan.communication`), the norm is the root mean square of theirs: a bound of the whole's.
    """
    strategy = strategy_of(model)
    if strategy.local:
        return clip_own_gradients(strategy, max_norm)
    gradients, counted, parts = _local_gradients(model, strategy.axes)
    device = next((g.device for g in gradients), torch.device("cpu"))
    if parts:
        square = _square(counted, device)
        comm.all_reduce(square, name="norm", counter=strategy.counter)
    else:
        square = _square(gradients, device)
    norm = float(square.sqrt())
    if 0 < max_norm < norm and math.isfinite(norm):
        for group in _by_dtype(gradients):
            torch._foreach_mul_(group, max_norm / norm)
    return norm


def _local_gradients(model: nn.Module, axes: Axes | None) -> tuple[list[Tensor], list[Tensor], bool]:
    """This rank's gradients; those of them that it counts in a norm, of parts that several ranks hold one
    rank; and whether ranks hold different ones."""
    gradients: list[Tensor] = []
    counted: list[Tensor] = []
    parts = axes is not None and axes.world > axes.size("expert_replicas")
    for parameter in model.parameters():
        gradient = parameter.grad
        if gradient is None:
            continue
        sharded = isinstance(gradient, DTensor) or span_of(parameter) is not None
        local = gradient.to_local() if isinstance(gradient, DTensor) else plain(gradient)
        parts = parts or (sharded and axes is not None)
        if local.numel():
            gradients.append(local)
            if axes is None or _counts(parameter, sharded, axes):
                counted.append(local)
    return gradients, counted, parts


def _counts(parameter: nn.Parameter, sharded: bool, axes: Axes) -> bool:
    """Whether this rank is the one of those that hold the same that counts it."""
    cut = cut_of(parameter)
    over = () if cut is None else cut.axes
    return (sharded or axes.index(copies_of(parameter)) == 0) and (
        "tensor" in over or axes.index("tensor") == 0
    )


def _square(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Sum of squares of all elements, fp64 [] (fp32 where the device has no fp64)."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    norms = [norm for group in _by_dtype(tensors) for norm in torch._foreach_norm(group, dtype=torch.float32)]
    if not norms:
        return torch.zeros((), dtype=dtype, device=device)
    return torch.stack([norm.to(device) for norm in norms]).to(dtype).square().sum()


def _by_dtype(tensors: list[Tensor]) -> list[list[Tensor]]:
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.dtype, tensor.device].append(tensor)
    return list(groups.values())
