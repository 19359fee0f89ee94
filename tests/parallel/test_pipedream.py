"""The asynchronous pipeline against the formulas: each semantics beside a program that has one process, all
versions of all stages, and the formula written out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mainspring import comm
from mainspring.errors import PlanError, StageError
from mainspring.parallel.pipedream import Layout, Pipeline, order
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed
WIDTH, ROWS, CLASSES = 12, 6, 5
Optim = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optim] = {
    "sgd": partial(torch.optim.SGD, lr=0.3, momentum=0.5),
    "adamw": partial(torch.optim.AdamW, lr=0.02),
}


def make_stages(count: int) -> list[nn.Module]:
    """Stages of unequal make: two outputs of the first, dropout nowhere, a head at the end."""
    torch.manual_seed(0)
    stages: list[nn.Module] = [
        nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)) for _ in range(count)
    ]
    stages[-1].append(nn.Linear(WIDTH, CLASSES))  # type: ignore[operator]
    return stages


def batch(index: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1000 + index)
    return (torch.randn(ROWS, WIDTH, generator=draw), torch.randint(0, CLASSES, (ROWS,), generator=draw))


def train(
    rank: int,
    world: int,
    replicas: tuple[int, ...],
    semantics: Any,
    calls: tuple[int, ...],
    accumulate: int = 1,
    optim: str = "sgd",
) -> dict[str, Any]:
    layout = Layout(replicas)
    stage = layout.place(rank).stage
    counter = comm.Counter()
    pipe = Pipeline(
        make_stages(layout.stages)[stage],
        layout,
        OPTIMIZERS[optim],
        loss=nn.functional.cross_entropy if stage == layout.stages - 1 else None,
        semantics=semantics,
        accumulate=accumulate,
        timeout=30,
        counter=counter,
    )
    with pipe:
        losses: dict[int, float] = {}
        for count in calls:
            losses |= pipe.train(batch, count)
    return {
        "stage": stage,
        "weights": [p.detach().numpy() for p in pipe.module.parameters()],
        "losses": losses,
        "versions": pipe.most_versions,
        "in_flight": pipe.most_in_flight,
        "sent": {name: traffic.wire for (name, _), traffic in counter.records.items()},
    }


def reference(
    replicas: tuple[int, ...], semantics: str, calls: tuple[int, ...], accumulate: int, optim: str
) -> tuple[list[list[Tensor]], dict[int, float]]:
    """Evaluate the delayed-gradient formula, one minibatch after the other, from stored versions."""
    layout, stages = Layout(replicas), make_stages(len(replicas))
    optimizers = [OPTIMIZERS[optim](s.parameters()) for s in stages]
    history = [[_copy(s)] for s in stages]
    losses: dict[int, float] = {}
    start = 0
    for count in calls:
        base = [len(h) - 1 for h in history]
        waiting: list[list[dict[str, Tensor]]] = [[] for _ in stages]
        for i in range(count):
            update = i // accumulate
            if semantics == "stashing":
                delays = [max(0, i // r - layout.warmup(s)) for s, r in enumerate(replicas)]
                at = [base[s] + delays[s] for s in range(len(stages))]
            elif semantics == "vertical_sync":
                learnt = replicas[0] * (base[0] + max(0, i // replicas[0] - layout.warmup(0)))
                at = [learnt // r for r in replicas]
            elif semantics == "2bw":
                at = [max(0, b + update - 1) for b in base]
            else:
                at = [b + update for b in base]
            weights = [
                {k: v.clone().requires_grad_() for k, v in history[s][at[s]].items()}
                for s in range(len(stages))
            ]
            x, target = batch(start + i)
            for stage, values in zip(stages, weights, strict=True):
                x = functional_call(stage, values, (x,))
            loss = nn.functional.cross_entropy(x, target)
            losses[start + i] = loss.item()
            loss.backward()
            for s, r in enumerate(replicas):
                waiting[s].append({k: v.grad for k, v in weights[s].items() if v.grad is not None})
                per = accumulate if accumulate > 1 or semantics in ("2bw", "flush", "gpipe") else r
                if len(waiting[s]) == per:
                    for name, parameter in stages[s].named_parameters():
                        parameter.grad = torch.stack([w[name] for w in waiting[s]]).mean(0)
                    optimizers[s].step()
                    history[s].append(_copy(stages[s]))
                    waiting[s].clear()
        start += count
    return [[p.detach() for p in s.parameters()] for s in stages], losses


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.named_parameters()}


def difference(results: list[dict[str, Any]], wanted: list[list[Tensor]]) -> float:
    return max(
        float((torch.from_numpy(got) - want.detach()).abs().max())
        for result in results
        for got, want in zip(result["weights"], wanted[result["stage"]], strict=True)
    )


CASES = [
    ((1, 1), "stashing", (8, 4), 1, "sgd"),
    ((1, 1, 1, 1), "stashing", (9,), 1, "adamw"),
    ((1, 1, 1), "vertical_sync", (8, 3), 1, "sgd"),
    ((1, 1, 1), "2bw", (9, 6), 3, "adamw"),
    ((1, 1, 1), "flush", (8,), 4, "sgd"),
    ((1, 1), "gpipe", (8,), 4, "sgd"),
    ((2, 1), "stashing", (8, 4), 1, "sgd"),
    ((1, 2), "vertical_sync", (8,), 1, "sgd"),
    ((2, 1, 1), "vertical_sync", (8, 4), 1, "sgd"),
    ((1, 2, 1), "2bw", (12, 4), 4, "sgd"),
    ((1, 2), "flush", (8,), 4, "adamw"),
]


@pytest.mark.parametrize(("replicas", "semantics", "calls", "accumulate", "optim"), CASES)
def test_parameters_equal_the_formula(
    replicas: tuple[int, ...], semantics: str, calls: tuple[int, ...], accumulate: int, optim: str
) -> None:
    wanted, losses = reference(replicas, semantics, calls, accumulate, optim)
    results = run_ranks(train, sum(replicas), replicas, semantics, calls, accumulate, optim)
    assert difference(results, wanted) < 1e-6
    got = {i: loss for result in results for i, loss in result["losses"].items()}
    assert got.keys() == losses.keys()
    assert max(abs(got[i] - losses[i]) for i in losses) < 1e-6
    last = [r for r in results if r["stage"] == len(replicas) - 1]
    for replica, result in enumerate(last):  # round-robin by the number of the minibatch
        assert all(i % len(last) == replica for i in result["losses"])
    layout = Layout(replicas)
    for result in results:
        bound = {
            "stashing": layout.warmup(result["stage"]) + 1,
            "vertical_sync": -(-layout.noam * replicas[0] // replicas[result["stage"]]),
            "2bw": 2,
            "flush": 1,
            "gpipe": 1,
        }[semantics]
        assert result["versions"] <= bound, (result["stage"], result["versions"])
        if semantics != "gpipe":
            assert result["in_flight"] <= layout.warmup(result["stage"]) + 1 <= layout.noam


def test_without_stashing_the_gradient_is_another() -> None:
    """The same schedule in which backward meets the newest weights: a hundred times the tolerance away."""
    replicas, calls = (1, 1, 1), (8,)
    wanted, _ = reference(replicas, "stashing", calls, 1, "sgd")
    assert difference(run_ranks(train, 3, replicas, "unstashed", calls), wanted) > 1e-4


@pytest.mark.parametrize("semantics", ["stashing", "vertical_sync"])
def test_one_stage_is_plain_sgd(semantics: str) -> None:
    stage = make_stages(1)[0]
    optimizer = OPTIMIZERS["sgd"](stage.parameters())
    for i in range(6):
        x, target = batch(i)
        optimizer.zero_grad()
        nn.functional.cross_entropy(stage(x), target).backward()
        optimizer.step()
    (got,) = [train(0, 1, (1,), semantics, (4, 2))]
    assert difference([got], [list(stage.parameters())]) == 0
    assert got["versions"] == 1 or semantics == "vertical_sync"


def test_flush_is_one_large_batch() -> None:
    """Independent of the formulas: one process, one backward over the rows of four minibatches at once."""
    model = nn.Sequential(*make_stages(2))
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    for update in range(3):
        xs, targets = zip(*(batch(4 * update + i) for i in range(4)), strict=True)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.cat(xs)), torch.cat(targets)).backward()
        optimizer.step()
    wanted = [list(stage.parameters()) for stage in model]
    for semantics in ("flush", "gpipe"):
        assert difference(run_ranks(train, 2, (1, 1), semantics, (12,), 4), wanted) < 1e-6


def test_2bw_lags_by_one_update() -> None:
    """The delay-1 recursion on whole batches, without any pipeline."""
    model = nn.Sequential(*make_stages(2))
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    older = _copy(model)
    for update in range(4):
        xs, targets = zip(*(batch(3 * update + i) for i in range(3)), strict=True)
        weights = {k: v.clone().requires_grad_() for k, v in older.items()}
        nn.functional.cross_entropy(
            functional_call(model, weights, (torch.cat(xs),)), torch.cat(targets)
        ).backward()
        older = _copy(model)
        for name, parameter in model.named_parameters():
            parameter.grad = weights[name].grad
        optimizer.step()
    wanted = [list(stage.parameters()) for stage in model]
    assert difference(run_ranks(train, 2, (1, 1), "2bw", (6, 6), 3), wanted) < 1e-6


def test_what_is_sent_is_what_the_stages_exchange() -> None:
    """A message is its tensors and 1 KiB that says what they are."""
    first, last = run_ranks(train, 2, (1, 1), "stashing", (6,))
    activations = 6 * (ROWS * WIDTH * 4 + 1024)
    assert first["sent"] == {"activations": activations}
    assert last["sent"] == {"gradients": activations}


def test_replicas_exchange_their_gradients_once_a_round() -> None:
    results = run_ranks(train, 3, (2, 1), "stashing", (8,))
    numbers = sum(p.numel() for p in make_stages(2)[0].parameters())
    for result in results[:2]:
        assert result["sent"]["weights"] == 4 * 2 * numbers * 4 / 2
    for a, b in zip(results[0]["weights"], results[1]["weights"], strict=True):
        assert (a == b).all()


class Branches(nn.Module):
    """Passes on a tuple: one that takes a gradient, one that does not, one that is not used."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(WIDTH, WIDTH), last

    def forward(self, x: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.last:
            return self.linear(x) * others[0][:, None]
        return self.linear(x), torch.arange(len(x)), self.linear(x).sum()


def branches(rank: int, world: int) -> list[Any]:
    torch.manual_seed(rank)
    stage = Branches(rank == 1)
    loss = (lambda y, target: y.square().mean()) if rank == 1 else None
    with Pipeline(stage, Layout((1, 1)), OPTIMIZERS["sgd"], loss=loss) as pipe:
        pipe.train(batch, 1)
    return [p.detach().numpy() for p in stage.parameters()]


def test_stages_pass_tuples_and_tensors_without_gradient() -> None:
    stages = []
    for rank in range(2):
        torch.manual_seed(rank)
        stages.append(Branches(rank == 1))
    out = stages[1](*stages[0](batch(0)[0]))
    out.square().mean().backward()
    for stage, got in zip(stages, run_ranks(branches, 2), strict=True):
        OPTIMIZERS["sgd"](stage.parameters()).step()
        for p, value in zip(stage.parameters(), got, strict=True):
            torch.testing.assert_close(p.detach(), torch.from_numpy(value), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("replicas", "semantics", "accumulate", "count", "message"),
    [
        ((1, 1), "stashing", 2, 0, "updates after every minibatch"),
        ((1, 1, 1), "2bw", 1, 0, "at least the 2 minibatches"),
        ((2, 1), "flush", 3, 0, "use a multiple of 2"),
        ((2, 1), "stashing", 1, 3, "nearest: 4"),
        ((1, 1), "stash", 1, 0, "did you mean 'stashing'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    replicas: tuple[int, ...], semantics: Any, accumulate: int, count: int, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        order(Layout(replicas), 0, semantics, count, accumulate)


def test_ranks_and_loss_must_fit() -> None:
    with pytest.raises(PlanError, match="need 2 ranks; 1 are started"):
        Pipeline(nn.Linear(1, 1), Layout((1, 1)), OPTIMIZERS["sgd"])
    with pytest.raises(PlanError, match="the last of 1 stages has the loss"):
        Pipeline(nn.Linear(1, 1), Layout((1,)), OPTIMIZERS["sgd"])


def failing(rank: int, world: int) -> str:
    stage = make_stages(3)[rank]
    loss = nn.functional.cross_entropy if rank == 2 else None

    def given(index: int) -> tuple[Tensor, Tensor]:
        if index == 3 and rank == 0:
            raise ZeroDivisionError("minibatch 3 is odd")
        return batch(index)

    with Pipeline(stage, Layout((1, 1, 1)), OPTIMIZERS["sgd"], loss=loss, timeout=30) as pipe:
        try:
            pipe.train(given, 8)
        except (StageError, ZeroDivisionError) as error:
            words = f"{type(error).__name__}: {error}"
        with pytest.raises(PlanError, match="has failed"):
            pipe.train(given, 8)
    return words


def test_a_stage_that_raises_tells_the_others_why() -> None:
    first, *others = run_ranks(failing, 3)
    assert first == "ZeroDivisionError: minibatch 3 is odd"
    assert set(others) == {"StageError: stage 0 of 3 (rank 0) failed: ZeroDivisionError: minibatch 3 is odd"}


@pytest.mark.parametrize("semantics", ["stashing", "2bw"])
def test_state_goes_on_with_the_same_numbers(semantics: Any) -> None:
    def make() -> Pipeline:
        loss = nn.functional.cross_entropy
        return Pipeline(make_stages(1)[0], Layout((1,)), OPTIMIZERS["adamw"], loss=loss, semantics=semantics)

    straight = make()
    straight.train(batch, 3)
    state = copy.deepcopy(straight.state())
    straight.train(batch, 3)
    resumed = make()
    resumed.load_state(state)
    assert resumed.minibatch == 3 and resumed.updates == 3
    resumed.train(batch, 3)
    for a, b in zip(straight.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(a, b)
