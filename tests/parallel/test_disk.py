"""Training through the disk tier: the losses and parameters of memory, on one rank and on several."""

import contextlib

import pytest
import torch

from mainspring import optim, parallel
from mainspring.errors import PlanError
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.parallel.disk import DiskPlacement
from mainspring.parallel.zero import Resident
from parallel.examples import EXAMPLES
from support.spawn import run_ranks

OPTIM = OptimConfig(lr=1e-2, eps=1e-4, weight_decay=0.1)
STEPS, ROWS = 3, 12


def train(name, plan, placement, *, rank=0, world=1, precision="fp32", meta=False, accumulation=1):
    """Losses of this rank, and the whole parameters afterwards."""
    example = EXAMPLES[name]
    torch.manual_seed(0)
    with torch.device("meta") if meta else contextlib.nullcontext():
        model = example.build()
    parallel.apply(model, plan, precision=precision, reduce="sum", placement=placement)
    if meta:
        parallel.materialize(model, "cpu", example.initialize)
    optimizer = optim.build(model, OPTIM)
    generator, losses = torch.Generator().manual_seed(7), []
    model.train()
    for _ in range(STEPS):
        rows = example.rows(ROWS, generator)[rank::world]
        total = 0.0
        for index in range(accumulation):
            last = index == accumulation - 1
            with contextlib.nullcontext() if last else parallel.no_sync(model):
                loss, count = example.loss(model, rows[index::accumulation])
                (loss / (ROWS * count / len(rows))).backward()
            total += loss.item()
        losses.append((total, parallel.clip_grad_norm(model, 0.05)))
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        losses.append((example.loss(model, rows)[0].item(), 0.0))
    return losses, parallel.full_state(model, rank0_only=False)


def check(rank, world, folder, cases):
    for name, stage, precision, meta, accumulation in cases:
        plan = Plan(data=world, zero=stage)
        options = {"rank": rank, "world": world, "precision": precision, "meta": meta}
        options["accumulation"] = accumulation
        want, parameters = train(name, plan, Resident(), **options)
        disk = DiskPlacement(folder, rank=rank)
        got, mine = train(name, plan, disk, **options)
        case = (name, stage, precision, meta, accumulation)
        for (a, b), (c, d) in zip(got, want, strict=True):
            assert a == pytest.approx(c, rel=1e-6) and b == pytest.approx(d, rel=1e-6), case
        assert parameters.keys() == mine.keys()
        for key, value in parameters.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-5, atol=1e-6, msg=f"{case} {key}")
        assert disk.store.bytes_read > 0 and (stage < 3 or disk.prefetcher.hits > disk.prefetcher.misses)
        disk.close()
    return True


CASES = [
    ("ours-gpt2", 3, "fp32", True, 1),
    ("ours-gpt2", 3, "bf16", False, 2),
    ("ours-gpt2", 2, "bf16", False, 1),
    ("ours-gpt2", 1, "fp32", False, 2),
    ("awkward", 3, "fp32", False, 1),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_rank_trains_as_in_memory(tmp_path, case):
    assert check(0, 1, tmp_path, [case])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.distributed
def test_two_ranks_train_as_in_memory(tmp_path):
    assert all(run_ranks(check, 2, tmp_path, CASES))
    assert list(tmp_path.iterdir()) == []


def test_an_optimizer_that_needs_whole_parameters_is_refused_by_name(tmp_path):
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(2)))
    disk = DiskPlacement(tmp_path)
    parallel.apply(model, Plan(zero=3), placement=disk)
    optimizer = torch.optim.LBFGS(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    with pytest.raises(PlanError, match="LBFGS may need a whole parameter"):
        optimizer.step(lambda: 0.0)
    disk.close()


def test_a_plan_names_the_folder(tmp_path):
    plan = Plan(zero=3, offload="disk", offload_folder=str(tmp_path / "scratch"))
    want, parameters = train("ours-gpt2", Plan(zero=3), Resident())
    got, mine = train("ours-gpt2", plan, None)
    assert [loss for loss, _ in got] == pytest.approx([loss for loss, _ in want], rel=1e-6)
    for key, value in parameters.items():
        torch.testing.assert_close(mine[key], value, rtol=1e-5, atol=1e-6)
    assert len(list((tmp_path / "scratch").iterdir())) == 1


@pytest.mark.parametrize(
    "fields", [{"zero": 3}, {"zero": 0, "offload_folder": "x"}, {"backend": "fsdp2", "zero": 3}]
)
def test_plans_that_cannot_be_carried_out_are_refused(fields):
    with pytest.raises(ValueError, match=r"offload"):
        Plan(offload="disk", **fields)
