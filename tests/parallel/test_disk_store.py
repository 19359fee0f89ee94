"""Tensors in files: what is read is what was written, or an error that says what happened."""

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import wait
from pathlib import Path

import pytest
import torch

from mainspring.errors import DiskError, PlanError
from mainspring.parallel.disk import Store, blocks, folder
from mainspring.parallel.disk.blocks import BLOCK
from mainspring.parallel.disk.buffers import PAGE, Arena, aligned, round_up

LONG = 2 * BLOCK // 4 + 1000
"""Elements of fp32 that take two blocks and a bit."""


def buffer_of(values):
    buffer = aligned(values.numel() * values.element_size())
    buffer.view(values.dtype)[: values.numel()].copy_(values)
    return buffer


def put(store, name, values):
    store.create(name, values.numel(), values.dtype)
    store.write(name, buffer_of(values)).result()


def get(store, name, numel, dtype=torch.float32):
    buffer = aligned(numel * dtype.itemsize)
    store.read(name, buffer).result()
    return buffer.view(dtype)[:numel]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path) as store:
        yield store


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("numel", [0, 1, 1024, LONG])
def test_reads_what_was_written(tmp_path, numel, dtype, direct):
    values = torch.arange(numel).to(dtype)
    with Store(tmp_path, direct=direct) as store:
        put(store, "layers.0/exp avg", values)
        assert torch.equal(get(store, "layers.0/exp avg", numel, dtype), values)
        assert store.bytes_read == store.bytes_written == round_up(values.nbytes)
        assert store.nbytes == round_up(values.nbytes)


def test_a_part_is_read_and_written_alone(store):
    values = torch.arange(LONG, dtype=torch.float32)
    put(store, "a", values)
    start = BLOCK // 4
    store.write("a", buffer_of(-values[start:]), start).result()
    tail = aligned(BLOCK)
    store.read("a", tail, 2 * start).result()
    assert torch.equal(tail.view(torch.float32)[:1000], -values[2 * start :])
    assert torch.equal(get(store, "a", LONG)[:start], values[:start])


def test_operations_on_a_tensor_keep_their_order(store):
    """Forty writes and reads started at once, on more threads than a tensor has turns."""
    store.create("a", BLOCK // 4, torch.float32)
    tasks, seen = [], []
    for turn in range(40):
        tasks.append(store.write("a", buffer_of(torch.full((BLOCK // 4,), float(turn)))))
        seen.append(aligned(BLOCK))
        tasks.append(store.read("a", seen[-1]))
    wait(tasks)
    assert [float(s.view(torch.float32)[7]) for s in seen] == list(range(40))


def test_without_direct_io_it_says_so_once(tmp_path, monkeypatch):
    plain = os.open

    def refuse(path, flags, *rest, **named):
        if flags & blocks.DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        return plain(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    said = []
    with Store(tmp_path, report=said.append) as store:
        assert not store.direct
        put(store, "a", torch.arange(LONG, dtype=torch.float32))
        assert float(get(store, "a", LONG)[-1]) == LONG - 1
    assert len(said) == 1 and "page cache" in said[0] and str(tmp_path) in said[0]


def file_of(store, name):
    (path,) = store.path.glob(f"{name}.bin")
    return path


def test_a_flipped_bit_is_found(store):
    put(store, "a", torch.arange(LONG, dtype=torch.float32))
    with file_of(store, "a").open("r+b") as file:
        file.seek(BLOCK + 5000)
        byte = file.read(1)[0]
        file.seek(BLOCK + 5000)
        file.write(bytes([byte ^ 16]))
    with pytest.raises(DiskError, match=rf"a\.bin.*offset {BLOCK:,} are not those.*checksum.*checkpoint"):
        get(store, "a", LONG)
    with pytest.raises(
        DiskError, match="checksum"
    ):  # and stays an error: nothing goes on as if all were well
        store.flush()


def exchanged(values, *places):
    """The words at `places` moved on by one place each."""
    moved = values.clone()
    moved[list(places)] = values[[*places[1:], places[0]]]
    return moved


WORDS = PAGE // 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda words: exchanged(words, 3, 4),  # in a page
        lambda words: exchanged(words, 7, 7 + WORDS),  # in a column
        lambda words: exchanged(words, 1, WORDS + 2, 9 * WORDS),
        lambda words: words.view(-1, WORDS).flip(0).flatten(),  # pages in another order
        lambda words: words.roll(1),
        torch.zeros_like,
        lambda words: words ^ (torch.arange(len(words)) == 700),
        lambda words: words ^ ((torch.arange(len(words)) == 700) * 2**62),
    ],
)
def test_checksums_tell_apart(damage):
    words = torch.randint(-(2**62), 2**62, (16 * WORDS,), generator=torch.Generator().manual_seed(0))
    damaged = damage(words)
    assert not torch.equal(words, damaged)
    assert blocks.checksum(words.view(torch.uint8)) != blocks.checksum(damaged.view(torch.uint8))
    assert blocks.checksum(words.view(torch.uint8)) == blocks.checksum(words.clone().view(torch.uint8))


def test_a_file_cut_short_is_found(store):
    put(store, "a", torch.arange(LONG, dtype=torch.float32))
    os.truncate(file_of(store, "a"), BLOCK + PAGE)
    with pytest.raises(DiskError, match=rf"ends at {BLOCK + PAGE:,} of {round_up(4 * LONG):,} bytes"):
        get(store, "a", LONG)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.unlink(), "is gone"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "should have"),
        (lambda path: (path.unlink(), path.write_bytes(bytes(BLOCK))), "another file"),
    ],
)
def test_check_finds_a_changed_folder(store, change, says):
    put(store, "a", torch.zeros(BLOCK // 4))
    store.check()
    change(file_of(store, "a"))
    with pytest.raises(DiskError, match=says):
        store.check()


def test_what_was_never_written_cannot_be_read(store):
    store.create("a", LONG, torch.float32)
    with pytest.raises(DiskError, match="before it was written"):
        get(store, "a", LONG)


@pytest.mark.parametrize("call", ["preadv", "pwritev"])
def test_an_error_of_the_disk_names_file_offset_and_numbers(store, monkeypatch, call):
    put(store, "a", torch.arange(LONG, dtype=torch.float32))

    def fail(file, buffers, offset):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    doing = "reading" if call == "preadv" else "writing"
    with pytest.raises(DiskError, match=rf"a\.bin: {doing} {BLOCK:,} bytes at offset 0 .*EIO.*failing.*chec"):
        get(store, "a", LONG) if call == "preadv" else store.write("a", aligned(BLOCK)).result()


def test_short_transfers_are_finished(store, monkeypatch):
    """A kernel may move fewer bytes than asked, and that is no error."""
    read, written = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda f, b, o: read(f, [b[0][: 3 * PAGE]], o))
    monkeypatch.setattr(os, "pwritev", lambda f, b, o: written(f, [b[0][: 5 * PAGE]], o))
    put(store, "a", torch.arange(LONG, dtype=torch.float32))
    assert torch.equal(get(store, "a", LONG), torch.arange(LONG, dtype=torch.float32))


def test_a_write_that_stops_short_is_an_error(store, monkeypatch):
    store.create("a", LONG, torch.float32)
    monkeypatch.setattr(os, "pwritev", lambda f, b, o: 0)
    with pytest.raises(DiskError, match=r"short write at offset 0: 0 of .*full"):
        store.write("a", aligned(4 * LONG)).result()


def test_a_size_limit_is_met_when_space_is_reserved(tmp_path):
    """RLIMIT_FSIZE stands for a full disk: a real refusal by the kernel, before training begins."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store(tmp_path) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK, hard))
        try:
            with pytest.raises(DiskError, match=rf"no room for its {2 * BLOCK:,} bytes.*ulimit -f"):
                store.create("a", BLOCK // 2, torch.float32)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "a" not in store and not list(store.path.glob("*.bin"))


def test_a_full_disk(tmp_path):
    """A file system of 4 MiB, where the test may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    with contextlib.suppress(OSError):
        if subprocess.run(mount, capture_output=True).returncode == 0:
            try:
                with Store(tmp_path) as store:
                    put(store, "a", torch.zeros(BLOCK // 4))
                    with pytest.raises(DiskError, match="No space left.*free space there or name a folder"):
                        store.create("b", BLOCK, torch.float32)
                    assert float(get(store, "a", BLOCK // 4).sum()) == 0
            finally:
                subprocess.run(["umount", str(tmp_path)], check=True)
            return
    pytest.skip("no right to mount a file system")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="plan.offload_folder"):
        Store(tmp_path / "file" / "below")


def test_the_folder_goes_when_the_store_is_closed(tmp_path):
    store = Store(tmp_path, rank=3)
    assert store.path.parent == tmp_path and "rank00003" in store.path.name
    assert json.loads((store.path / "scratch.json").read_text())["process"] == os.getpid()
    store.close()
    store.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DiskError, match="closed"):
        store.create("a", 1, torch.float32)


KILLED = """
import os, signal, sys, torch
from mainspring.parallel.disk import Store
from mainspring.parallel.disk.buffers import aligned
store = Store(sys.argv[1])
store.create("a", 1000, torch.float32)
store.write("a", aligned(4000)).result()
print(store.path, flush=True)
if len(sys.argv) > 2:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_is_removed_and_a_living_one_spared(tmp_path):
    (tmp_path / "mine.txt").write_text("not of the tier")
    unmarked = tmp_path / f"{folder.PREFIX}by-hand"
    unmarked.mkdir()
    with Store(tmp_path, rank=1) as living:
        for arguments, code in (([tmp_path, "kill"], -signal.SIGKILL), ([tmp_path], 0)):
            run = [sys.executable, "-c", KILLED, *map(str, arguments)]
            done = subprocess.run(run, capture_output=True, text=True, timeout=60)
            assert done.returncode == code, done.stderr
            # A process that ends in good order removes its folder itself.
            assert Path(done.stdout.strip()).exists() == (code != 0)
        # The second run has swept away what the first left.
        assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "mine.txt", unmarked, living.path])
        put(living, "a", torch.ones(5))


def test_an_arena_waits_for_its_buffers():
    arena = Arena(2, PAGE + 1)
    assert arena.nbytes == 2 * PAGE
    first, second = arena.take(), arena.take()
    assert first.data_ptr() % PAGE == 0 and first.data_ptr() != second.data_ptr()
    assert arena.try_take(1) is None and arena.free == 0
    arena.give(first)
    assert arena.take().data_ptr() == first.data_ptr()
    with pytest.raises(PlanError, match="at least 1"):
        Arena(0, PAGE)
