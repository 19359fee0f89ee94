"""Every plan trains every example as one process does, on 2 and on 4 ranks."""

from __future__ import annotations

import pytest

from parallel.battery import Case, check
from parallel.examples import EXAMPLES
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

STAGES = (0, 1, 2, 3)
LARGE = ("hf-deberta", "hf-mixtral", "hf-t5")
"""Examples that take longer: some cases only."""


def cases(world):
    found = [Case(name, {"zero": z}) for name in EXAMPLES if name not in LARGE for z in STAGES]
    found += [Case(name, {"zero": z}, accumulation=3) for name in ("ours-gpt2", "awkward") for z in STAGES]
    if world == 2:
        found += [Case(name, {"zero": z}) for name in LARGE for z in (1, 3)]
        found += [Case(name, {"zero": 3, "remat": True}) for name in LARGE]
        found += [Case(name, {"zero": 2}, "bf16") for name in ("hf-mixtral", "hf-t5", "hf-bert")]
        fsdp2 = [{"zero": z, "backend": "fsdp2"} for z in (1, 2, 3)]
        found += [Case(name, plan) for name in ("ours-gpt2", "cnn", "awkward") for plan in fsdp2]
        found += [Case("awkward", plan, "bf16", accumulation=3) for plan in fsdp2]
        found += [Case("cnn", {"zero": z}, accumulation=2, no_sync=False) for z in STAGES]
        found += [
            Case("cnn", {"zero": z}, reduce="mean", accumulation=a, no_sync=a < 3)
            for z in STAGES
            for a in (2, 3)
        ]
        found += [Case("ours-gpt2", {"zero": z}, meta=True) for z in STAGES]
        found += [
            Case(name, {"zero": z, "remat": True})
            for name in ("ours-gpt2", "ours-deberta", "hf-gpt2")
            for z in (0, 3)
        ]
        found += [
            Case(name, {"zero": z}, "bf16", accumulation=2)
            for name in ("ours-gpt2", "ours-deberta", "cnn")
            for z in STAGES
        ]
        found += [Case("awkward", {"zero": z}, "bf16", accumulation=3) for z in STAGES]
    return found + cut(world)


def cut(world):
    """Layers cut over ranks, beside everything else."""
    gpt2, deberta = "ours-gpt2", "ours-deberta"
    if world == 2:
        return [
            Case(gpt2, {"tensor": 2}, meta=True),
            Case(gpt2, {"tensor": 2, "tensor_sequence": True}, reduce="mean"),
            Case(deberta, {"tensor": 2, "remat": True}, "bf16", accumulation=2),
            Case(deberta, {"tensor": 2, "tensor_sequence": True, "remat": True}),
        ]
    half = [Case(gpt2, {"tensor": 2, "zero": z}, accumulation=2) for z in STAGES]
    half += [Case(gpt2, {"tensor": 2, "zero": z}, "bf16", meta=True) for z in (0, 3)]
    half += [Case(deberta, {"tensor": 2, "tensor_sequence": True, "zero": z}) for z in (0, 2)]
    half += [Case(gpt2, {"tensor": 2, "zero": z, "remat": True}, reduce="mean") for z in (1, 3)]
    half += [Case(deberta, {"tensor": 2, "zero": z, "offload": "host"}, accumulation=2) for z in (2, 3)]
    wide = {"tensor": 4, "tensor_sequence": True, "zero": 3, "remat": True}
    return [*half, Case(deberta, {"tensor": 4}), Case(gpt2, wide, "bf16", accumulation=2)]


@pytest.fixture(scope="module")
def outcomes():
    return {world: run_ranks(check, world, cases(world), timeout=200)[0] for world in (2, 4)}


@pytest.mark.parametrize(
    ("world", "case"),
    [pytest.param(world, case.id, id=f"{world}-{case.id}") for world in (2, 4) for case in cases(world)],
)
def test_as_one_process(outcomes, world, case):
    errors = outcomes[world][case]
    assert not isinstance(errors, str), errors
    assert max(errors.values()) <= 1, errors
