"""The folder of the disk tier is tried out before a run, and what was found is told or refused."""

from __future__ import annotations

import shutil
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from rich.console import Console

from mainspring.cli.progress import ProgressSink
from mainspring.errors import DiskError
from mainspring.parallel.disk import preflight
from mainspring.train import disk
from mainspring.train import events as ev
from support.spawn import run_ranks
from train.tiny import fit, recipe

STEPS = 3


def nearly_full(folder: Path, needed: int, **options: Any) -> Any:
    """`preflight` of a disk that fills up after the planner has asked for its room."""
    with patch.object(shutil, "disk_usage", lambda path: SimpleNamespace(free=999)):
        return preflight(folder, needed, **options)


def on_disk(data: Path, folder: Path, **changes: Any) -> Any:
    tier = {"plan__zero": 3, "plan__offload": "disk", "plan__offload_folder": str(folder)}
    return recipe(data, train__steps=STEPS, **tier, **changes)


def test_what_was_found_is_told_before_the_model_is_made(data: Path, tmp_path: Path) -> None:
    _, told, trainer = fit(on_disk(data, tmp_path / "tier"), tmp_path / "run")
    kinds = [type(event) for event in told]
    assert kinds[:3] == [ev.Planned, ev.DiskTried, ev.RunStarted]
    tried = told[1]
    assert isinstance(tried, ev.DiskTried) and trainer.setup is not None
    shard = trainer.setup.estimate.parameters.shard
    assert tried.needed_bytes == 12 * shard  # masters and two moments, and in fp32 no copies
    assert tried.free_bytes > tried.needed_bytes and tried.read_rate > 0 and tried.write_rate > 0
    gathers = 2 * trainer.setup.batch.accumulation
    assert tried.read_per_step == (12 + 4 * gathers) * shard and tried.written_per_step == 12 * shard
    at_least = tried.written_per_step / tried.write_rate + 12 * shard / tried.read_rate
    assert tried.seconds_per_step >= at_least
    assert list((tmp_path / "tier").glob("trial*")) == []


def test_lamb_reads_its_states_twice(data: Path, tmp_path: Path) -> None:
    lamb = on_disk(data, tmp_path / "tier", optim__kind="lamb")
    _, told, trainer = fit(lamb, tmp_path / "run")
    tried = told[1]
    assert isinstance(tried, ev.DiskTried) and trainer.setup is not None
    shard, gathers = trainer.setup.estimate.parameters.shard, 2 * trainer.setup.batch.accumulation
    assert tried.read_per_step == (2 * 12 + 4 * gathers) * shard and tried.written_per_step == 12 * shard


def test_no_disk_no_trial(data: Path, tmp_path: Path) -> None:
    _, told, _ = fit(recipe(data, train__steps=1), tmp_path / "run")
    assert not any(isinstance(event, ev.DiskTried) for event in told)


def test_too_little_room_ends_the_run_with_the_numbers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "preflight", nearly_full)
    told: list[ev.Event] = []
    with pytest.raises(DiskError, match=r"need [\d,]+ bytes of disk and 999 are free.*larger disk"):
        fit(on_disk(data, tmp_path / "tier"), tmp_path / "run", told.append)
    assert [type(event) for event in told] == [ev.Planned, ev.RunEnded]


def refused_on_rank_0(rank: int, world: int, data: str, place: str) -> str:
    if rank == 0:
        disk.preflight = nearly_full  # type: ignore[assignment]
    with pytest.raises(DiskError) as caught:
        fit(on_disk(Path(data), Path(place) / "tier", plan__data=world), Path(place) / "run")
    return str(caught.value)


@pytest.mark.distributed
def test_every_rank_is_told_of_a_refusal(data: Path, tmp_path: Path) -> None:
    said, passed_on = run_ranks(refused_on_rank_0, 2, str(data), str(tmp_path), timeout=60)
    assert "999 are free" in said and passed_on == f"rank 0: {said}"


def test_the_screen_shows_it() -> None:
    out = StringIO()
    rates = {"read_rate": 2e9, "write_rate": 1e9, "direct": False}
    event = ev.DiskTried(
        0, "tier", 10**9, 10**10, **rates, read_per_step=1, written_per_step=1, seconds_per_step=3.0
    )
    ProgressSink(Console(file=out, width=200))(event)
    shown = out.getvalue()
    for part in (
        "954 MiB of 9.31 GiB",
        "in tier",
        "1.86 GiB/s",
        "954 MiB/s through the page cache",
        "3 s a step",
    ):
        assert part in shown, shown
