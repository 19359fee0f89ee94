"""The mesh: every rank's place and groups, against the definition written out."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch.distributed.tensor import DTensor, Shard

from mainspring.errors import PlanError
from mainspring.parallel import Axes, Plan
from mainspring.planner.fake import fake_world
from support.spawn import run_ranks

PLAN = Plan(data=4, expert=2, tensor=2, sequence=3, pipeline=2)


def places():
    """Coordinates of all ranks, in order: the last axis is the fastest."""
    names = ("pipeline", "expert_data", "expert", "sequence", "tensor")
    return [
        dict(zip(names, place, strict=True))
        for place in itertools.product(range(2), range(2), range(2), range(3), range(2))
    ]


@pytest.mark.parametrize(
    ("axis", "parts"),
    [
        ("tensor", {"tensor"}),
        ("sequence", {"sequence"}),
        ("pipeline", {"pipeline"}),
        ("expert", {"expert"}),
        ("data", {"expert_data", "expert"}),
        ("replicas", {"expert_data", "expert", "sequence"}),
        ("expert_replicas", {"expert_data", "sequence"}),
    ],
)
def test_groups_are_the_ranks_that_differ_along_the_axis_alone(axis, parts):
    everyone = places()
    assert PLAN.world == len(everyone)
    for rank in (0, 5, 17, 31, 47):
        with fake_world(PLAN.world, rank):
            axes = Axes.of(PLAN)
            want = [
                other
                for other, place in enumerate(everyone)
                if all(place[name] == everyone[rank][name] for name in place if name not in parts)
            ]
            assert axes.ranks(axis) == want
            assert axes.size(axis) == len(want) and axes.index(axis) == want.index(rank)
            assert dist.get_process_group_ranks(axes.group(axis)) == want


def sums(rank, world):
    axes = Axes.of(Plan(data=2, tensor=2))
    found = {}
    for axis in ("tensor", "data", "sequence"):
        number = torch.tensor(float(rank))
        if axes.group(axis) is not None:
            dist.all_reduce(number, group=axes.group(axis))
        found[axis] = float(number)
    theirs = axes.device_mesh("cpu")
    assert theirs.mesh_dim_names == ("data", "tensor") and theirs.mesh.tolist() == [[0, 1], [2, 3]]
    for axis in theirs.mesh_dim_names:
        assert theirs[axis].get_local_rank() == axes.index(axis)
        assert dist.get_process_group_ranks(theirs.get_group(axis)) == axes.ranks(axis)
    rows = DTensor.from_local(torch.full((1, 2), float(rank)), theirs, [Shard(0), Shard(1)])
    found["whole"] = rows.full_tensor().tolist()
    return found


@pytest.mark.distributed
def test_groups_talk():
    whole = {"whole": [[0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]]}
    assert run_ranks(sums, 4) == [
        {"tensor": 1.0, "data": 2.0, "sequence": 0.0} | whole,
        {"tensor": 1.0, "data": 4.0, "sequence": 1.0} | whole,
        {"tensor": 5.0, "data": 2.0, "sequence": 2.0} | whole,
        {"tensor": 5.0, "data": 4.0, "sequence": 3.0} | whole,
    ]


def test_one_rank_has_no_mesh_of_groups():
    with pytest.raises(PlanError, match="one rank"):
        Axes.alone().device_mesh("cpu")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data": 6, "expert": 4}, "expert = 3"),
        ({"tensor_sequence": True}, "tensor > 1"),
        ({"pipeline": 2, "pipeline_schedule": "interleaved"}, "has at least 2"),
        ({"pipeline": 2, "pipeline_chunks": 2}, "have 1"),
        ({"tensor": 2, "backend": "fsdp2"}, "data and sequence ranks alone"),
    ],
)
def test_plans_that_contradict_themselves_are_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        Plan(**fields)


def test_the_remedy_keeps_the_other_axes():
    with fake_world(8), pytest.raises(PlanError, match="data=1, tensor=4.*plan.data=2"):
        Axes.of(Plan(tensor=4))
