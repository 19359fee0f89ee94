"""Small pieces of a training step, timed on one rank of a CPU: what seconds of a plan are made of."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from mainspring import comm, optim
from mainspring.data.batch import causal_batch
from mainspring.models.gpt2.config import gpt2
from mainspring.nn import Transformer, initialize
from mainspring.nn.linear import linear
from mainspring.optim.config import OptimConfig

WIDTHS = (128, 256, 512, 1024)
"""Widths at which layers' products are timed."""
_TOKENS, _HEAD, _ROW = 1024, 64, 256
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


SAMPLE = 0.02
"""Seconds that a sample lasts at least: many turns of a scheduler where ranks share a core."""


def least(work: Callable[[], object], budget: float = 0.2) -> float:
    """Seconds of a call: the lower quartile of as many samples as `budget` seconds allow (four at least).

    A sample is as many calls as fill `SAMPLE` seconds. What other programs take goes to the upper quartiles;
    what other ranks of the probe take is in every sample.
    """
    work()
    before = time.perf_counter()
    work()
    calls = max(1, round(SAMPLE / (time.perf_counter() - before)))
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < 4 or time.perf_counter() - start < budget:
        before = time.perf_counter()
        for _ in range(calls):
            work()
        found.append((time.perf_counter() - before) / calls)
    return sorted(found)[len(found) // 4]


def product_rate(precision: str, width: int) -> float:
    """FLOP/s of a layer's products (width to 4 widths), forward and both gradients."""
    dtype = _DTYPES[precision]
    x = torch.randn(_TOKENS, width, dtype=dtype, requires_grad=True)
    up = torch.randn(4 * width, width, dtype=dtype).mul_(0.01).requires_grad_()
    g = torch.ones(_TOKENS, 4 * width, dtype=dtype)

    def work() -> None:
        torch.autograd.backward(linear(x, up), g)
        x.grad = up.grad = None

    return 6 * _TOKENS * 4 * width * width / least(work)


def attention_rate(precision: str) -> float:
    """FLOP/s of causal attention, forward and backward, counted in full."""
    q, k, v = (torch.randn(4, 8, _ROW, _HEAD, dtype=_DTYPES[precision], requires_grad=True) for _ in range(3))
    g = torch.ones(4, 8, _ROW, _HEAD, dtype=_DTYPES[precision])

    def work() -> None:
        torch.autograd.backward(F.scaled_dot_product_attention(q, k, v, is_causal=True), g)

    return 3 * 4 * 4 * 8 * _ROW * _ROW * _HEAD / least(work)


def between_bandwidth(passes: int) -> float:
    """Bytes/s at which norms, activations and residual sums of a layer go by, in `passes` over what a layer
    keeps."""
    width = 256
    norm, other = nn.LayerNorm(width), nn.LayerNorm(width)
    x = torch.randn(4 * _TOKENS, width, requires_grad=True)
    inner = torch.randn(4 * _TOKENS, 4 * width, requires_grad=True)
    g, wide = torch.ones(4 * _TOKENS, width), torch.ones(4 * _TOKENS, 4 * width)

    def work() -> None:
        # Two norms and residual sums, a copy of heads for each of the four sides of attention, a GELU.
        y = x + norm(x)
        y = y + other(y)
        torch.autograd.backward(y, g)
        torch.cat([y.detach()] * 4, 1)
        torch.autograd.backward(F.gelu(inner, approximate="tanh"), wide)

    kept = 4 * _TOKENS * 4 * (2 * 2 * width + 4 * width + 2 * 4 * width)
    return passes * kept / least(work)


def logits_bandwidth(tokens: int) -> float:
    """Bytes/s of a cross entropy over 8,192 classes, by three fp32 numbers a class (`logit_bytes`)."""
    logits = torch.randn(tokens, 8192, requires_grad=True)
    labels = torch.randint(0, 8192, (tokens,))

    def work() -> None:
        torch.autograd.backward(F.cross_entropy(logits, labels, reduction="sum"))
        logits.grad = None

    return tokens * 8192 * 12 / least(work)


REFERENCE = gpt2(256, 2, 4, vocab_size=4096, max_positions=_ROW)
"""What the sum of the parts is held against."""
REFERENCE_ROWS = (1, 4, 8)
"""Rows at once with which it is timed: 256 to 2,048 tokens."""


def reference_seconds(precision: str, rows: int) -> float:
    """Seconds of a forward and backward of the reference model, over so many rows."""
    model = initialize(Transformer(REFERENCE), 0).to(_DTYPES[precision])
    ids = torch.randint(0, REFERENCE.vocab_size, (rows, _ROW))

    def work() -> None:
        logits = model(causal_batch(ids)).logits.float().flatten(0, 1)
        torch.autograd.backward(F.cross_entropy(logits, ids.flatten(), reduction="sum"))
        model.zero_grad(set_to_none=True)

    return least(work, 0.6)


def update_rate(elements: int = 2**22) -> float:
    """Parameters/s of an Adam step with the measuring and scaling of clipping before it."""
    layer = nn.Module()
    for index in range(8):
        layer.register_parameter(f"p{index}", nn.Parameter(torch.zeros(elements // 8)))
    parameters = list(layer.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = optim.build(layer, OptimConfig())

    def work() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return elements / least(work)


def copy_bandwidth(size: int = 2**25) -> float:
    """Bytes/s read and written by a streaming update of memory."""
    x = torch.zeros(size // 4)
    return 2 * size / least(lambda: x.add_(1.0))


def page_bandwidth(size: int = 2**24) -> float:
    """Bytes/s at which the system gives pages to a region that is written for the first time, as those of
    gathered parameters are (`parallel.zero.region`)."""
    region = mmap.mmap(-1, size)
    whole = torch.frombuffer(region, dtype=torch.uint8)

    def work() -> None:
        region.madvise(mmap.MADV_DONTNEED)
        whole.fill_(1)

    return size / least(work)


def collective(op: str, ranks: int, nbytes: int) -> float:
    """Seconds of a collective on a tensor of `nbytes` in all; every rank calls it."""
    whole = torch.zeros(nbytes // 4 // ranks * ranks)
    part = torch.zeros(whole.numel() // ranks)

    def work() -> None:
        if op == "all_reduce":
            comm.all_reduce(whole, name="probe")
        elif op == "reduce_scatter":
            comm.reduce_scatter(part, whole, name="probe").wait()
        else:
            for pending in comm.all_gather(whole, part, name="probe"):
                pending.wait()

    for _ in range(2):
        work()
    times = []
    for _ in range(7):  # the same number on every rank
        comm.barrier(name="probe")
        before = time.perf_counter()
        work()
        times.append(time.perf_counter() - before)
    return sorted(times)[3]


def disk_bandwidth(folder: Path, size: int = 2**26) -> tuple[float, float]:
    """Bytes/s of writing a file through to the disk, and of reading it back."""
    payload = bytearray(size)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        before = time.perf_counter()
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        file.readinto(payload)
        return size / (written - before), size / (time.perf_counter() - written)
