"""Training a model whose states are four times what the kernel lets the process have."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mainspring.nn import Transformer
from parallel import disk_training

LAYERS = 40


def run(where, folder, limit, layers=LAYERS):
    command = [sys.executable, "-W", "error", disk_training.__file__, where, folder, layers, limit]

    def small_stacks():
        # A thread's stack counts as data in full, and torch and the disk tier start a few.
        resource.setrlimit(resource.RLIMIT_STACK, (2**20, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=small_stacks,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits of data are Linux's")
def test_states_of_four_times_a_limit_that_the_kernel_enforces(tmp_path):
    with torch.device("meta"):
        count = sum(p.numel() for p in Transformer(disk_training.config(LAYERS)).parameters())
    states = 16 * count  # 2 parameter, 2 gradient, 12 master and moments
    limit = states // 4 // 2**20
    disk = run("disk", tmp_path, limit)
    assert "failed" not in disk, disk["failed"]
    assert disk["parameters"] == count and states >= 4 * disk["limit"]
    assert list(tmp_path.iterdir()) == []
    free = run("memory", tmp_path, 0)
    assert disk["losses"] == pytest.approx(free["losses"], rel=1e-6)
    assert free["resident"] > 3 * disk["resident"]
    # The limit bites: in memory the same training cannot even be set up.
    assert "allocate" in run("memory", tmp_path, limit)["failed"]
