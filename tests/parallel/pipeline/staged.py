"""What the ranks of the pipeline tests do."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.parallel.strategy import strategy_of
from mainspring.train import checkpoint

CONFIG = TransformerConfig(d_model=16, n_heads=2, n_layers=4, d_ff=24, vocab_size=29, max_positions=16)


class _Asleep(torch.autograd.Function):
    """Takes a while in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        time.sleep(ctx.seconds)
        return gradient, None


class Sleeper(nn.Module):
    """Takes as long forward as backward to its input and as backward to its weight, and no processor."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return _Asleep.apply(x, self.seconds) @ _Asleep.apply(self.weight, self.seconds)


def asleep(
    rank: int, world: int, schedules: list[dict[str, Any]], micro_batches: int, tick: float
) -> list[list[Any]]:
    """What this rank did in the second step of each pipeline, of ranks that sleep: ops, start and end."""
    done, rows = [], torch.ones(2, 4, requires_grad=True)
    for fields in schedules:
        plan = Plan(pipeline=world, **fields)
        blocks = [Sleeper(tick / plan.pipeline_chunks) for _ in range(world * plan.pipeline_chunks)]
        model = parallel.apply(nn.Sequential(*blocks), plan)
        for _ in range(2):  # the first also sends shapes
            parallel.accumulate(model, [rows] * micro_batches, lambda m, x: m(x).sum())
        pipeline = strategy_of(model).pipeline
        assert pipeline is not None
        done.append([(tuple(one.op), one.start, one.end) for one in pipeline.done])
    return done


def batches(count: int, lengths: tuple[int, ...] = (7,)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(29, (3, lengths[i % len(lengths)]), generator=generator) for i in range(count)]


def language_loss(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(causal_batch(ids)).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum")


def traffic(rank: int, world: int, plan: dict[str, Any], lengths: tuple[int, ...]) -> dict[str, float]:
    """Bytes that this rank sent in the second of two steps, by name."""
    model = initialize(Transformer(CONFIG), seed=0)
    parallel.apply(model, Plan(**plan), reduce="sum")
    for _ in range(2):
        with parallel.traffic(model).measure() as seen:
            parallel.accumulate(model, batches(4, lengths), language_loss)
    return {name: record.wire for (name, _), record in seen.records.items()}


def keep(rank: int, world: int) -> dict[str, Any]:
    """What a rank has, and what it says to measuring and to being run as a whole."""
    model = initialize(Transformer(CONFIG), seed=0)
    parallel.apply(model, Plan(pipeline=world))
    said = []
    try:
        model(causal_batch(batches(1)[0]))
    except ValueError as error:
        said.append(str(error))
    return {
        "names": sorted(name for name, _ in model.named_parameters()),
        "state": sorted(model.state_dict()),
        "elsewhere": parallel.elsewhere(model),
        "results": parallel.measure(model, batches(3), lambda m, ids: language_loss(m, ids).item()),
        "has": parallel.has_results(model),
        "said": said,
        "full": {name: t.tolist() for name, t in parallel.full_state(model).items()},
        "twice": _refused(model),
    }


def _refused(model: nn.Module) -> str:
    """What a loss that runs the model twice is told on the last rank; others hand on at the first run."""

    def twice(m: nn.Module, ids: Tensor) -> float:
        return (language_loss(m, ids) + language_loss(m, ids)).item()

    try:
        parallel.measure(model, batches(1), twice)
    except ValueError as error:
        return str(error)
    return ""


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: int, index: int, steps: int) -> None:
    for step in range(steps):
        rows = batches(4)[step % 2 :: 2] * 2
        share = [ids[index * 3 // data : (index + 1) * 3 // data] if data > 1 else ids for ids in rows]
        parallel.accumulate(model, share, language_loss)
        optimizer.step()
        optimizer.zero_grad()


def save(rank: int, world: int, plan: dict[str, Any], folder: str, source: str = "") -> str:
    """Train a little under a plan (from a checkpoint, where there is one) and save."""
    model = initialize(Transformer(CONFIG), seed=rank)
    spread = Plan(**plan)
    parallel.apply(model, spread, reduce="sum")
    optimizer = optim.build(model, OptimConfig(lr=0.01))
    group = torch.distributed.group.WORLD if world > 1 else None
    if source:
        checkpoint.load(source, model, optimizer, group=group)
    else:
        index = parallel.axes_of(model).index("data")
        train(model, optimizer, spread.data, index, 2)
    return str(checkpoint.save(folder, 2, checkpoint.run_state(model, optimizer), {}, group=group))
