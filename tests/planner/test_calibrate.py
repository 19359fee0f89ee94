"""Calibration: kept in a file for what it depends on, written whole or not at all; what its probes give."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import mainspring
from mainspring.errors import PlanError
from mainspring.planner import Candidate, calibrate, calibrated, cost, device, inventory_of, work_of
from mainspring.planner.memory import available_memory
from mainspring.planner.state_probe import SHAPES, pass_seconds, state_seconds
from support.spawn import run_ranks

FOUND = device("h200").replace(name="made up", kind="cpu", gemm={"fp32": ((128.0, 1e10),)})


@pytest.fixture
def measured(monkeypatch):
    """Calls of the measurement, which is made up."""
    calls = []

    def measure(ranks, threads):
        calls.append((ranks, threads))
        return FOUND.replace(latency=len(calls) * 1e-6)

    monkeypatch.setattr(calibrate, "measure", measure)
    return calls


def test_measured_once_and_kept(measured, tmp_path):
    first = calibrated(2, 1, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    again = calibrated(2, 1, folder=tmp_path)
    assert measured == [(2, 1)]
    now = {"memory": first.memory, "disk": first.disk}
    assert again.replace(**now) == first and first.gemm == {"fp32": ((128.0, 1e10),)}
    assert calibrated(2, 1, folder=tmp_path, fresh=True).latency == 2e-6
    assert calibrated(2, 1, folder=tmp_path).latency == 2e-6
    assert [f.name for f in tmp_path.iterdir()] == [file.name]  # nothing else is left


def test_memory_is_that_of_now(measured, tmp_path):
    calibrated(4, 1, folder=tmp_path)
    again = calibrated(4, 1, folder=tmp_path)
    assert again.memory == pytest.approx(available_memory() / 4, rel=0.2)
    assert again.memory != FOUND.memory and 0 < again.disk < 2**60


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (calibrate, "cpu_model", lambda: "another processor"),
        (calibrate, "usable_cores", lambda: 77),
        (calibrate, "fast_instructions", lambda: ("amx_fp4",)),
        (torch, "__version__", "9.9.9"),
        (mainspring, "__version__", "9.9.9"),
    ],
)
def test_another_machine_or_version_is_measured_anew(measured, tmp_path, monkeypatch, owner, name, value):
    calibrated(2, 1, folder=tmp_path)
    with monkeypatch.context() as changed:
        changed.setattr(owner, name, value)
        assert calibrated(2, 1, folder=tmp_path).latency == 2e-6
    assert calibrated(2, 1, folder=tmp_path).latency == 1e-6  # the first machine's is still there
    assert len(measured) == 2 and len(list(tmp_path.iterdir())) == 2


def test_ranks_and_threads_have_files_of_their_own(measured, tmp_path):
    for ranks, threads in ((1, 1), (2, 1), (1, 2)):
        calibrated(ranks, threads, folder=tmp_path)
    assert measured == [(1, 1), (2, 1), (1, 2)] and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("text", ["", '{"name": "cut o', '{"name": "of an older form", "speed": 3}', "[1]"])
def test_a_damaged_file_is_measured_anew(measured, tmp_path, text):
    calibrated(2, 1, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert calibrated(2, 1, folder=tmp_path).latency == 2e-6
    assert json.loads(file.read_text())["latency"] == 2e-6


def test_a_write_that_is_cut_off_leaves_the_former_file(measured, tmp_path, monkeypatch):
    calibrated(2, 1, folder=tmp_path)
    write = Path.write_text

    def cut(self, text, **options):
        write(self, text[: len(text) // 2], **options)
        raise OSError("no space left on device")

    with monkeypatch.context() as full, pytest.raises(OSError, match="no space"):
        full.setattr(Path, "write_text", cut)
        calibrated(2, 1, folder=tmp_path, fresh=True)
    assert calibrated(2, 1, folder=tmp_path).latency == 1e-6


def test_a_rank_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(calibrate, "PROGRAM", "raise SystemExit('no such instruction')")
    with pytest.raises(PlanError, match="a rank of the calibration failed: no such instruction"):
        calibrate.measure(1, 1)


def test_a_rank_that_takes_too_long_is_told(monkeypatch):
    monkeypatch.setattr(calibrate, "PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(calibrate, "TIMEOUT", 0.2)
    with pytest.raises(PlanError, match="of 2 ranks did not end within 0.2 s"):
        calibrate.measure(2, 1)


def _state_seconds(rank, world):
    def slowest(value):
        told = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return float(told)

    bare = pass_seconds("fp32", world, slowest)
    states = {zero: state_seconds(zero, "fp32", bare, world, slowest) for zero in (0, 3)}
    return bare, states


def test_states_take_time_by_units_and_parameters():
    found, other = run_ranks(_state_seconds, 2)
    assert found == other  # the slowest rank's, on both
    bare, states = found
    wide = inventory_of(SHAPES[1])
    assert min(bare) >= 0 and 1e-4 < len(wide.units) * bare[0] + wide.total * bare[1] < 3
    for once, further in states.values():
        assert min(*once, *further) >= 0 and len(wide.units) * once[0] + wide.total * once[1] < 3
    (unit, element), _ = states[3]
    step = cost(
        inventory_of(SHAPES[1]),
        work_of(SHAPES[1], 8),
        Candidate(data=2, zero=3, accumulation=4),
        FOUND.replace(states={"fp32 3": ((unit, element), (1.0, 0.0))}),
        "fp32",
    )
    units = len(inventory_of(SHAPES[1]).units)
    mine = units * unit + inventory_of(SHAPES[1]).total * element
    assert step.seconds["communication"] == pytest.approx(mine + 3 * units)


def test_computation_is_scaled_by_the_tokens_of_a_micro_batch():
    inventory, work = inventory_of(SHAPES[1]), work_of(SHAPES[1], 8)
    timed = FOUND.replace(compute_scale={"fp32": ((64.0, 2.0), (256.0, 0.5))})

    def longer(rows, micro_batches):
        one = Candidate(data=1, micro_rows=rows, accumulation=micro_batches)
        with_scale, without = (cost(inventory, work, one, on, "fp32").seconds for on in (timed, FOUND))
        assert with_scale["optimizer"] == without["optimizer"]
        kinds = ("matrix products", "other compute")
        return sum(with_scale[kind] for kind in kinds) / sum(without[kind] for kind in kinds)

    assert longer(8, 4) == longer(1, 32) == pytest.approx(2.0)  # 64 tokens at once, and fewer
    assert longer(16, 2) == pytest.approx(1.0)  # between them, on a line between logarithms
    assert longer(32, 1) == longer(64, 1) == pytest.approx(0.5)
