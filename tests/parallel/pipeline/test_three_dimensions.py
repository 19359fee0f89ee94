"""Data, tensor and pipeline at once, on eight ranks: the numbers of one process."""

from __future__ import annotations

import pytest

from parallel.battery import Case, check
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

CASES = [
    Case("ours-deep", {"pipeline": 2, "tensor": 2, "zero": 1}, accumulation=2),
    Case("ours-mask-decoder", {"pipeline": 2, "tensor": 2, "zero": 2, "remat": True}, "bf16", accumulation=2),
    Case("ours-deep", {"pipeline": 4, "tensor": 2, "pipeline_schedule": "zero_bubble"}, accumulation=4),
]


@pytest.fixture(scope="module")
def outcomes():
    return run_ranks(check, 8, CASES, timeout=200)[0]


@pytest.mark.parametrize("case", [case.id for case in CASES])
def test_as_one_process(outcomes, case):
    errors = outcomes[case]
    assert not isinstance(errors, str), errors
    assert max(errors.values()) <= 1, errors
