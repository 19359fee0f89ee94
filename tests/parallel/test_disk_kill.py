"""SIGKILL in the middle of a step on disk: the run goes on from its checkpoint to the same numbers."""

import multiprocessing
import os
import signal

import pytest
import torch

from mainspring.errors import DiskError
from mainspring.parallel.disk.folder import PREFIX
from mainspring.parallel.disk.stepping import Stepper
from mainspring.train import checkpoint as ck
from mainspring.train.sinks import read
from support.spawn import PRELOAD
from train.tiny import build_data, fit, recipe

STEPS, EVERY = 6, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return build_data(tmp_path_factory.mktemp("data"))


def on_disk(data, folder):
    return recipe(
        data,
        train__steps=STEPS,
        train__checkpoint_every=EVERY,
        plan__zero=3,
        plan__offload="disk",
        plan__offload_folder=str(folder),
    )


def run_and_die(wanted, run, step, stretch):
    """Train, and die when that stretch of that step is about to be written."""
    torch.set_num_threads(1)
    plain_step, plain_write = Stepper.step, Stepper._write
    seen = {"step": 0, "stretch": 0}

    def counted_step(self, optimizer, shards):
        seen.update(step=seen["step"] + 1, stretch=0)
        plain_step(self, optimizer, shards)
        seen["stretch"] = -(10**9)

    def counted_write(self, part, **which):
        seen["stretch"] += 1
        if (seen["step"], seen["stretch"]) == (step, stretch):
            os.kill(os.getpid(), signal.SIGKILL)
        plain_write(self, part, **which)

    Stepper.step, Stepper._write = counted_step, counted_write
    fit(wanted, run)


def kill_once(wanted, run, step, stretch):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=run_and_die, args=(wanted, run, step, stretch), daemon=True)
    process.start()
    process.join(90)
    assert process.exitcode == -signal.SIGKILL, process.exitcode


def curve(run):
    lines = read(run / "metrics.jsonl")
    return {e["step"]: (e["loss"], e["grad_norm"]) for e in lines if e["event"] == "step_done"}


def weights(run):
    return ck.load_model_state(ck.latest(run / "checkpoints"))


def leftovers(folder):
    return {path.name for path in folder.glob(f"{PREFIX}*")}


def test_killed_in_mid_step_and_resumed_is_exact(data, tmp_path):
    scratch = tmp_path / "scratch"
    fit(on_disk(data, tmp_path / "other"), tmp_path / "through")
    fit(recipe(data, train__steps=STEPS, train__checkpoint_every=EVERY), tmp_path / "memory")

    wanted, run = on_disk(data, scratch), tmp_path / "killed"
    kill_once(wanted, run, step=4, stretch=2)  # the second of three shards, a step after a checkpoint
    assert ck.latest(run / "checkpoints").name.endswith("2")
    (left,) = leftovers(scratch)
    kill_once(wanted, run, step=2, stretch=3)  # step 2 of the resumed run is step 4 again
    assert left not in leftovers(scratch)  # never read, and swept away
    fit(wanted, run)

    through, killed, memory = (curve(tmp_path / name) for name in ("through", "killed", "memory"))
    assert list(through) == list(range(1, STEPS + 1))
    assert killed == through  # to the last bit
    for step, numbers in memory.items():
        assert through[step] == pytest.approx(numbers, rel=1e-3)  # Adam enlarges the noise of rounding
    resumed = weights(run)
    for name, value in weights(tmp_path / "through").items():
        assert torch.equal(resumed[name], value), name


def test_damage_ends_the_run_and_the_last_checkpoint_is_good(data, tmp_path, monkeypatch):
    """A flipped bit in step 4; taken up again, the run ends as if nothing had been."""
    fit(on_disk(data, tmp_path / "other"), tmp_path / "through")
    wanted, run = on_disk(data, tmp_path / "scratch"), tmp_path / "run"
    plain, seen = Stepper.step, []

    def damaging(self, optimizer, shards):
        seen.append(None)
        if len(seen) == 4:
            self._store.flush()
            (path,) = self._store.path.glob("*layers.1*exp_avg.bin")
            raw = bytearray(path.read_bytes())
            raw[100] ^= 1
            path.write_bytes(raw)
        plain(self, optimizer, shards)

    monkeypatch.setattr(Stepper, "step", damaging)
    with pytest.raises(DiskError, match=r"exp_avg\.bin.*checksum.*resumes from its last checkpoint"):
        fit(wanted, run)
    assert ck.latest(run / "checkpoints").name.endswith("2")
    monkeypatch.undo()
    fit(wanted, run)
    assert curve(run) == curve(tmp_path / "through")
