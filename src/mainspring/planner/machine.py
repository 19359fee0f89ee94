"""What this machine can do, measured in about a second: matrix products, memory, links between processes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import torch
import torch.nn.functional as F

from mainspring.config import Section
from mainspring.nn.linear import linear
from mainspring.parallel.world import usable_cores
from mainspring.planner.device import Device
from mainspring.planner.memory import available_disk, available_memory

_CPU_SHAPE = (512, 1024, 1024)
"""Rows, inner width and columns of the measured product: that of a small model's layer."""
_CUDA_SHAPE = (8192, 8192, 8192)
_DTYPES = (torch.float32, torch.bfloat16)


class Machine(Section):
    """Rates and sizes that a plan's time and fit are worked out from. Rates are of one rank while all ranks
    work."""

    flops_fp32: float
    """Floating-point operations a second of a rank, fp32 matrix products."""
    flops_bf16: float
    """The same in bfloat16."""
    memory_bandwidth: float
    """Bytes a second that a rank reads and writes in a streaming update."""
    elementwise_bandwidth: float = 0.0
    """Bytes a second that a rank reads and writes in a GELU: work between matrix products, which on a CPU is
    bound by computing, not by memory (0: as `memory_bandwidth`)."""
    link_bandwidth: float
    """Bytes a second between two ranks, as measured through a TCP connection of this machine with itself; put
    the rate of the real links in its place where ranks are GPUs or on several machines."""
    memory: int
    """Bytes that may still be taken on this machine (a GPU: on that device), by all its ranks together."""
    cores: int
    """Cores this process may run on."""
    threads: int
    """Threads of a rank for which the rates hold."""
    ranks: int
    """Ranks working at the same time for which the rates hold."""
    accelerators: tuple[str, ...] = ()
    """Names of the CUDA devices."""
    device: str = "cpu"
    """What was measured: "cpu" or "cuda"."""

    @classmethod
    def measure(cls, threads: int = 0, *, ranks: int = 1, device: str = "cpu") -> Machine:
        """Measure this machine in this process, in about 1.5 s on a CPU (twice that where bf16 is emulated).

        Args:
            threads: compute threads of a rank; 0 shares the cores evenly.
            ranks: ranks that will work here at the same time; they are imitated by as many Python threads.
            device: "cpu" or "cuda".
        """
        cores = usable_cores()
        threads = threads or max(1, cores // ranks)
        names = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        if device == "cuda":
            rates = {dtype: _cuda_flops(dtype) for dtype in _DTYPES}
            bandwidth, memory = _cuda_bandwidth(), torch.cuda.mem_get_info()[0]
            elementwise = bandwidth
        else:
            before = torch.get_num_threads()
            try:
                rates = {dtype: _cpu_flops(dtype, threads, ranks) for dtype in _DTYPES}
                elementwise = _cpu_elementwise(threads, ranks)
                bandwidth = _cpu_bandwidth(threads, ranks)
            finally:
                torch.set_num_threads(before)
            memory = available_memory()
        return cls(
            flops_fp32=rates[torch.float32],
            flops_bf16=rates[torch.bfloat16],
            memory_bandwidth=bandwidth,
            elementwise_bandwidth=elementwise,
            link_bandwidth=_link_bandwidth(),
            memory=memory,
            cores=cores,
            threads=threads,
            ranks=ranks,
            accelerators=names,
            device=device,
        )

    def flops(self, precision: str) -> float:
        """Peak rate of a rank in "fp32" or "bf16"."""
        return self.flops_bf16 if precision == "bf16" else self.flops_fp32


EFFICIENCY = 0.85
"""Part of the measured best rate that the matrix products of a model reach."""
RUNTIME_BYTES = 300 * 2**20
"""What a process holds before any tensor: the interpreter and the libraries (about 250 MiB resident on a
CPU). (Both constants: docs/decisions/0003-parallel-on-fsdp2.md.)"""


def device_of(machine: Machine, local_ranks: int, folder: str | Path = ".") -> Device:
    """A machine as the device of each of `local_ranks` ranks that share it.

    Args:
        machine: what was measured.
        local_ranks: ranks that share its memory and disk.
        folder: where states on disk would be.
    """
    cuda = machine.device == "cuda"
    return Device(
        name=machine.accelerators[0] if cuda and machine.accelerators else machine.device,
        kind="cuda" if cuda else "cpu",
        flops={"fp32": machine.flops_fp32, "bf16": machine.flops_bf16},
        efficiency=EFFICIENCY,
        memory=machine.memory if cuda else machine.memory // local_ranks,
        memory_bandwidth=machine.memory_bandwidth,
        between_bandwidth=machine.elementwise_bandwidth,
        reserved=RUNTIME_BYTES,
        fragmentation=0.1 if cuda else 0.0,
        ranks_per_node=max(1, local_ranks),
        link_bandwidth=machine.link_bandwidth,
        network_bandwidth=machine.link_bandwidth,
        latency=0.0,
        overlap=0.0,
        host_memory=available_memory() // local_ranks if cuda else 0,
        disk=available_disk(folder) // local_ranks,
        sources=("measured here",),
    )


def _together(work: Callable[[], float], ranks: int, threads: int) -> float:
    """Run `work` on `ranks` Python threads at once, each with `threads` compute threads; the slowest's
    result."""
    barrier = Barrier(ranks)

    def one() -> float:
        torch.set_num_threads(threads)
        work()  # warm up: allocate, choose kernels
        barrier.wait()
        return work()

    with ThreadPoolExecutor(ranks) as pool:
        return max(future.result() for future in [pool.submit(one) for _ in range(ranks)])


def _cpu_flops(dtype: torch.dtype, threads: int, ranks: int) -> float:
    m, k, n = _CPU_SHAPE

    def seconds() -> float:
        x, weight = torch.ones(m, k, dtype=dtype), torch.ones(n, k, dtype=dtype)
        with torch.no_grad():  # of this thread
            return min(_best(partial(product, x, weight), 0.08) for product in (linear, F.linear))

    return 2 * m * k * n / _together(seconds, ranks, threads)


def _cpu_elementwise(threads: int, ranks: int, elements: int = 2**19) -> float:
    def seconds() -> float:
        x = torch.linspace(-3, 3, elements)
        with torch.no_grad():
            return _best(lambda: F.gelu(x, approximate="tanh"), 0.04)

    return 2 * 4 * elements / _together(seconds, ranks, threads)


def _cpu_bandwidth(threads: int, ranks: int, size: int = 96 * 2**20) -> float:
    def seconds() -> float:
        x = torch.zeros(size // 4)
        return _best(lambda: x.add_(1.0), 0.04)

    return 2 * size / _together(seconds, ranks, threads)


def _best(work: Callable[[], object], budget: float) -> float:
    """Least time of one call, over as many calls as `budget` seconds allow (at least two)."""
    best, start, calls = float("inf"), time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - start < budget:
        before = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - before)
        calls += 1
    return best


def _cuda_flops(dtype: torch.dtype) -> float:
    m, k, n = _CUDA_SHAPE
    a = torch.ones(m, k, dtype=dtype, device="cuda")
    b = torch.ones(k, n, dtype=dtype, device="cuda")
    return 2 * m * k * n / _cuda_seconds(lambda: a @ b)


def _cuda_bandwidth(size: int = 2**28) -> float:
    x = torch.zeros(size // 4, device="cuda")
    return 2 * size / _cuda_seconds(lambda: x.add_(1.0))


def _cuda_seconds(work: Callable[[], object], calls: int = 10) -> float:
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def _link_bandwidth(size: int = 8 * 2**20, times: int = 3) -> float:
    """Bytes a second through a TCP connection of this machine with itself: what gloo travels on."""
    payload = memoryview(bytearray(size))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sender,
    ):
        receiver, _ = server.accept()
        with receiver, ThreadPoolExecutor(1) as pool:
            inbox = bytearray(size)
            best = float("inf")
            for _ in range(times):
                start = time.perf_counter()
                sending = pool.submit(sender.sendall, payload)
                received = 0
                while received < size:
                    received += receiver.recv_into(memoryview(inbox)[received:])
                sending.result()
                best = min(best, time.perf_counter() - start)
    return size / best
