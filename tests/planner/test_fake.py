"""A fake world runs the real `apply`; what it counts is what was predicted. Each case has its own process."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
from mainspring.planner import Candidate, verify
from mainspring.planner.presets import TRILLION, TURING_NLG, ZCODE
from mainspring.models.gpt2.config import gpt2
shapes = {"tnlg": TURING_NLG, "trillion": TRILLION, "zcode": ZCODE, "odd": gpt2(72, 5, 3, vocab_size=331)}
config = shapes[sys.argv[1]]
found = []
for case in json.loads(sys.argv[2]):
    precision, rank = case.pop("precision", "bf16"), case.pop("rank", 0)
    seen = verify(config, Candidate(**case), precision, rank=rank)
    found.append([seen.error, seen.seconds, seen.resident, seen.counted, seen.predicted])
print(json.dumps(found))
"""


def verified(model, cases):
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, model, json.dumps(cases)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize(("model", "world"), [("tnlg", 256), ("trillion", 1024)])
def test_predicted_bytes_are_counted(model, world):
    (found,) = verified(model, [{"data": world, "zero": 3}])
    error, seconds, resident, counted, predicted = found
    assert error < 0.02
    for kind, n in counted.items():
        assert predicted[kind] == pytest.approx(n, rel=0.02)
    assert seconds < 30 and resident < 2**30
    psi = {"tnlg": 17_178_680_064, "trillion": 1_008_038_502_400}[model]
    assert counted["optimizer"] == pytest.approx(8 * psi / world, rel=1e-3)


def test_every_stage_back_end_and_precision():
    cases = [
        {"data": 7, "zero": zero, "backend": backend, "precision": precision, "accumulation": steps}
        for zero in (1, 2, 3)
        for backend in ("flat", "fsdp2")
        for precision in ("fp32", "bf16")
        for steps in (1, 2)
    ]
    for case, (error, *_) in zip(cases, verified("odd", cases), strict=True):
        assert error < 0.02, case


THREE = {"tensor": 4, "pipeline": 2, "zero": 1, "accumulation": 4}


@pytest.mark.parametrize(
    ("model", "cases"),
    [
        (
            "tnlg",
            [
                {"data": 64, "tensor": 4, "zero": 1},
                {"data": 64, "tensor": 4, "tensor_sequence": True, "zero": 3},
                {"data": 32, **THREE},
                {"data": 32, **THREE, "rank": 128},
                {"data": 16, **THREE, "pipeline": 4, "schedule": "interleaved", "chunks": 2},
                {"data": 16, **THREE, "sequence": 2, "schedule": "zero_bubble"},
            ],
        ),
        ("trillion", [{"data": 16, **THREE, "tensor": 8, "pipeline": 8, "accumulation": 16}]),
        (
            "zcode",
            [
                {"data": 64, "expert": 16, "zero": 1},
                {"data": 32, "tensor": 2, "expert": 8, "zero": 1},
                {"data": 16, **THREE, "tensor": 2, "expert": 16},
                {"data": 16, **THREE, "tensor": 2, "expert": 8, "rank": 32},
                {"data": 16, "sequence": 2, "expert": 16, "zero": 2},
            ],
        ),
        ("odd", [{"data": 2, "tensor": 3, "pipeline": 5, "accumulation": 5, "precision": "fp32"}]),
    ],
)
def test_three_dimensions_hold_what_was_predicted(model, cases):
    for case, (error, seconds, resident, *_) in zip(cases, verified(model, cases), strict=True):
        assert error < 0.02, case
        assert seconds < 30 and resident < 2**30, case


CHOSEN = """
import sys
from mainspring import planner
from mainspring.planner import presets, verify
model, device, world, rows, tokens = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
config = getattr(presets, model)
shape = planner.inventory_of(config), planner.work_of(config, tokens)
best = planner.search(*shape, planner.device(device), world, rows).best(runs=True)
print(verify(config, best.candidate).error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        ("TURING_NLG", "v100-32g", 256, 512, 1024),
        ("TRILLION", "a100-80g", 1024, 3072, 2048),
        ("DEBERTA", "v100-32g", 64, 2048, 512),
        ("ZCODE", "v100-32g", 64, 4096, 256),
    ],
    ids=lambda case: case[0],
)
def test_what_a_search_chooses_holds_what_was_predicted(case):
    """Of published sizes and their machines, in less than five minutes each."""
    command = [sys.executable, "-W", "error", "-c", CHOSEN, *map(str, case)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < 0.02
