"""What is told before training on a disk."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from mainspring.errors import DiskError
from mainspring.parallel.disk import Preflight, Store, Traffic, bytes_needed, preflight
from parallel.test_disk_step import OPTIMIZERS, Twin

MIB = 2**20


def test_it_measures_and_leaves_nothing(tmp_path):
    found = preflight(tmp_path / "new", 1000, trial=6 * MIB)
    assert found.read_rate > 1e6 and found.write_rate > 1e6 and found.free > 1e6
    assert found.needed == 1000 and isinstance(found.direct, bool)
    assert list((tmp_path / "new").iterdir()) == []


def test_too_little_room_is_refused_with_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=999))
    with pytest.raises(
        DiskError, match=r"need 1,500 bytes of disk and 999 are free: 501 too few.*larger disk"
    ):
        preflight(tmp_path, 1500)


def test_a_disk_that_gives_back_something_else_is_refused(tmp_path, monkeypatch):
    plain = Store.read

    def lie(self, name, buffer, start=0):
        task = plain(self, name, buffer, start)
        task.result()
        buffer[5] += 1
        return task

    monkeypatch.setattr(Store, "read", lie)
    with pytest.raises(DiskError, match="not what was written"):
        preflight(tmp_path, 0, trial=3 * MIB)


def test_the_predicted_traffic_is_what_is_moved(tmp_path):
    """Of a step with Adam in bf16, and of a gather: the prediction counts what the store counts."""
    pair = Twin(tmp_path, OPTIMIZERS["adamw"], compute_dtype=torch.bfloat16)
    store = pair.disk.store
    elements = sum(shard.numel for shard in pair.shards)
    want = Traffic.of(elements, gathers=1)
    padding = len(pair.shards) * 4 * 4096
    for step in range(2):
        store.flush()
        read, written = store.bytes_read, store.bytes_written
        pair.gradients(step)
        pair.step()
        store.flush()
    assert 0 <= store.bytes_read - read - want.step_read <= padding
    assert 0 <= store.bytes_written - written - want.step_written <= padding
    read = store.bytes_read
    for shard in pair.shards:
        pair.disk.before_gather(shard, torch.empty(shard.numel, dtype=torch.bfloat16))
    assert 0 <= store.bytes_read - read - want.parameters <= padding
    assert store.nbytes == bytes_needed(pair.shards)
    pair.disk.close()


def test_step_time_is_the_longer_of_traffic_and_arithmetic():
    disk = Preflight("folder", 0, 0, read_rate=2e9, write_rate=1e9, direct=True)
    traffic = Traffic.of(10**9)  # 4 GB of parameters; 12 read and 14 written by the step
    assert disk.step_seconds(traffic, compute=1.0) == pytest.approx(2 + 6 + 14)
    assert disk.step_seconds(traffic, compute=5.0, update=30.0) == pytest.approx(35)
    assert Traffic.of(10, rows=1, compute_bytes=4, gathers=0) == Traffic(0, 80, 80)
