"""What a candidate costs on a device: bytes, FLOPs, traffic, seconds, of the fullest rank.

Bytes that are counted: parameters, gradients, optimizer states, activations that autograd keeps, and buffers
of the passage (logits and their gradients, gathered units, rows of gradients under way); `fragmentation` is
the allocator's slack on what comes and goes, and `runtime` what is taken before any tensor.

Time follows Narayanan et al. 2021 (arXiv 2104.04473, sections 2 and 3): compute, stretched by the bubble of
the pipeline (stages - 1) / micro-batches, then what communication does not hide behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mainspring.parallel.precision import Precision
from mainspring.planner.activations import Numerics, Widths, kept_bytes, logit_bytes, working_bytes
from mainspring.planner.candidate import Candidate
from mainspring.planner.device import LARGE, Device
from mainspring.planner.inventory import Inventory
from mainspring.planner.states import FP32, States, state_bytes
from mainspring.planner.work import Pass, Work

PASSES = 6
"""How often an activation goes through memory outside matrix products: written and read forward, read
backward, and the like for its gradient. (docs/decisions/0003-parallel-on-fsdp2.md)"""
ADAM_TRAFFIC = 28 + 8
"""Bytes moved for each parameter by an update: p, m, v, g read and p, m, v written; g read and scaled to
clip."""
HOST_TRAFFIC = 30
"""The same on a host in one pass: 12 read, 12 written, the gradient and the 16-bit copy."""


@dataclass(frozen=True)
class Cost:
    """Of the fullest rank; FLOPs of all ranks together."""

    device_bytes: dict[str, int]
    host_bytes: dict[str, int]
    disk_bytes: dict[str, int]
    flops: float
    """Of a step's forward and backward, without recomputation."""
    flops_done: float
    """With recomputation."""
    traffic: dict[str, float]
    """Bytes that a rank sends in a step, by link: node, network, host, disk."""
    seconds: dict[str, float]
    """matrix products, other compute, pipeline bubble, optimizer, communication, offload."""
    tokens: int
    """Of a step, over all ranks."""

    @property
    def memory(self) -> int:
        """Bytes on the device."""
        return sum(self.device_bytes.values())

    @property
    def host(self) -> int:
        """Bytes on the host."""
        return sum(self.host_bytes.values())

    @property
    def disk(self) -> int:
        """Bytes on disk."""
        return sum(self.disk_bytes.values())

    @property
    def seconds_per_step(self) -> float:
        """Of a step."""
        return sum(self.seconds.values())

    @property
    def tokens_per_second(self) -> float:
        """Over all ranks."""
        return self.tokens / self.seconds_per_step


def numerics_of(candidate: Candidate, precision: Precision) -> Numerics:
    """How 16 bits are used: by autocast without shards, throughout with them."""
    if precision == "fp32":
        return "fp32"
    sharded = candidate.zero > 0 and (candidate.replicas > 1 or candidate.offload != "none")
    return "bf16" if sharded or candidate.tensor * candidate.pipeline > 1 else "autocast"


def cost(
    inventory: Inventory, work: Work, candidate: Candidate, device: Device, precision: Precision
) -> Cost:
    """Work out a candidate.

    Args:
        inventory: of the module that is trained.
        work: what a row is put through.
        candidate: how the run is spread and cut.
        device: what a rank computes on.
        precision: of forward and backward.
    """
    numerics = numerics_of(candidate, precision)
    states = _bytes(inventory, work, candidate, device, numerics)
    rows = candidate.data * candidate.micro_rows * candidate.accumulation
    compute = _Compute(work, candidate, device, precision, numerics)
    bubble = (candidate.pipeline - 1) / candidate.accumulation * compute.total
    traffic = dict.fromkeys(("node", "network", "host", "disk"), 0.0)
    exposed = _communication(inventory, work, candidate, device, numerics, compute.backward, traffic)
    optimizer, offload = _update(inventory, candidate, device, numerics, traffic)
    return Cost(
        device_bytes=states.device,
        host_bytes=states.host,
        disk_bytes=states.disk,
        flops=rows * work.flops(),
        flops_done=rows * work.flops(again=candidate.remat),
        traffic=traffic,
        seconds={
            "matrix products": compute.products,
            "other compute": compute.between,
            "pipeline bubble": bubble,
            "optimizer": optimizer,
            "communication": exposed,
            "offload": offload,
        },
        tokens=rows * work.seq_len,
    )


def _bytes(
    inventory: Inventory, work: Work, candidate: Candidate, device: Device, numerics: Numerics
) -> States:
    cuda = device.kind == "cuda"
    matrices = 0
    if numerics == "autocast":
        layers, head, _ = work.main.forward_flops
        matrices = round((layers + head / max(work.main.predicted, 1e-9)) / 2 / work.main.seq_len)
    states = state_bytes(inventory, candidate, numerics, matrices=matrices)
    in_flight = min(candidate.pipeline, candidate.accumulation)
    kept, passing = [], []
    for one in work.passes:
        tokens = candidate.micro_rows * one.seq_len / candidate.sequence
        size = kept_bytes(
            one.config,
            one.seq_len,
            numerics,
            kept=candidate.kept,
            tensor=candidate.tensor,
            pipeline=candidate.pipeline,
            in_flight=in_flight,
            cuda=cuda,
        )
        kept.append(tokens * size if one.backward else 0.0)
        logits = one.predicted * logit_bytes(one.config, numerics) / candidate.tensor
        around = working_bytes(one.config, numerics, cuda=cuda) / candidate.tensor
        passing.append(tokens * (logits + around))
    together = candidate.backend == "fsdp2" and candidate.zero == 1 and candidate.replicas > 1
    states.device["activations"] = round(sum(kept) if together else max(kept))
    states.device["buffers"] += round(max(passing))
    loose = states.device["activations"] + states.device["buffers"]
    states.device["fragmentation"] = round(device.fragmentation * loose)
    states.device["runtime"] = device.reserved
    if device.kind == "cpu":  # its host is itself
        for kind, n in states.host.items():
            states.device[kind] += n
            states.host[kind] = 0
    return states


class _Compute:
    """Seconds of a rank's forward and backward passes of a step."""

    def __init__(
        self, work: Work, candidate: Candidate, device: Device, precision: Precision, numerics: Numerics
    ) -> None:
        split = candidate.tensor * candidate.pipeline * candidate.sequence
        rows = candidate.micro_rows * candidate.accumulation
        self.products = self.between = self.backward = 0.0
        scale = rows / split * device.compute_scale.get(precision, 1.0)
        for one in work.passes:
            products = scale * self._products(one, candidate, device, precision)
            between = scale * self._between(one, candidate, device, numerics)
            self.products += products
            self.between += between
            self.backward += (products + between) * (2 / 3 if one.backward else 0.0)

    @property
    def total(self) -> float:
        return self.products + self.between

    @staticmethod
    def _products(one: Pass, candidate: Candidate, device: Device, precision: Precision) -> float:
        layers, head, attention = one.forward_flops
        times = 1 if not one.backward else 4 if candidate.remat else 3
        rate = device.product_rate(precision, one.config.d_model)
        seconds = times * layers / rate + (3 if one.backward else 1) * head / rate
        if candidate.kept == "selective":
            attention *= 4 / 3
        return seconds + times * attention / device.attention.get(precision, rate)

    @staticmethod
    def _between(one: Pass, candidate: Candidate, device: Device, numerics: Numerics) -> float:
        cuda = device.kind == "cuda"
        kept = kept_bytes(one.config, one.seq_len, numerics, cuda=cuda)
        logits = one.predicted * logit_bytes(one.config, numerics)
        times = (1 / 3 if not one.backward else 1.0) * one.seq_len
        rate = device.between_bandwidth or device.memory_bandwidth
        again = 4 / 3 if candidate.remat and one.backward else 1.0
        if device.logits_bandwidth:
            at_once = candidate.micro_rows * one.seq_len * one.predicted * one.config.vocab_size * FP32
            large = at_once >= LARGE and device.large_logits_bandwidth > 0
            logits /= device.large_logits_bandwidth if large else device.logits_bandwidth
            if large and device.page_bandwidth:  # the product's result is paged in as well
                logits += one.predicted * one.config.vocab_size * FP32 / device.page_bandwidth
            return times * (PASSES * kept * again / rate + logits)
        return times * PASSES * (kept * again + logits) / rate


def _communication(
    inventory: Inventory,
    work: Work,
    candidate: Candidate,
    device: Device,
    numerics: Numerics,
    backward: float,
    traffic: dict[str, float],
) -> float:
    """Seconds that are not hidden; adds to the traffic."""
    c = Widths.of(numerics).compute
    units = inventory.stage(candidate.pipeline)
    psi = float(sum(unit.elements(tensor=candidate.tensor, expert=candidate.expert) for unit in units))
    root = float(units[0].elements(tensor=candidate.tensor))
    learns = float(sum(unit.elements(tensor=candidate.tensor, trainable=True) for unit in units))
    seconds = 0.0

    def send(op: str, nbytes: float, ranks: int, stride: int, times: float = 1.0) -> float:
        if ranks == 1:
            return 0.0
        rounds = 2 if op == "all_reduce" else 1
        link = "node" if ranks * stride <= device.ranks_per_node else "network"
        traffic[link] += times * rounds * (ranks - 1) / ranks * nbytes
        return times * device.collective(op, nbytes, ranks, stride=stride)  # type: ignore[arg-type]

    # Within a layer: every micro-batch waits for it.
    main, micro = work.main, candidate.accumulation
    layers = math.ceil(len(inventory.blocks) / candidate.pipeline)
    stream = candidate.micro_rows * main.seq_len * main.config.d_model * c / candidate.sequence
    again = 1.5 if candidate.remat else 1.0
    if candidate.tensor > 1:
        # Two all-reduces forward and two backward, or as many pairs of the halves they are made of.
        seconds += send("all_reduce", stream, candidate.tensor, 1, 4 * again * layers * micro)
    if candidate.sequence > 1:
        # q, k, v and the output change from tokens to heads, forward and backward.
        moved = stream / candidate.tensor
        seconds += send("all_gather", moved, candidate.sequence, candidate.tensor, 8 * again * layers * micro)
    if candidate.pipeline > 1:
        stride = candidate.tensor * candidate.sequence * candidate.data
        crosses = 2 * micro * stream / candidate.tensor
        link = "node" if stride * candidate.pipeline <= device.ranks_per_node else "network"
        traffic[link] += crosses
        seconds += crosses / device.bandwidth(candidate.pipeline, stride=stride)
        seconds += 2 * micro * device.latency
    # States: hidden behind the backward as far as the device allows.
    ranks, stride = candidate.replicas, candidate.tensor
    hidden = 0.0
    if ranks > 1:
        if candidate.zero == 0:
            hidden += send("all_reduce", FP32 * learns, ranks, stride)
        else:
            gradient = FP32 if numerics == "fp32" or candidate.backend == "fsdp2" else c
            reductions = 1 if candidate.zero == 1 else micro
            gathers = psi if candidate.zero < 3 else micro * (root + 2 * (psi - root))
            calls = max(1, len(units))
            for op, nbytes, rounds in (
                ("reduce_scatter", gradient * learns, reductions),
                ("all_gather", c * psi, gathers / psi),
            ):
                hidden += send(op, nbytes / calls, ranks, stride, rounds * calls)
    measured = device.states.get(f"{'fp32' if numerics == 'fp32' else 'bf16'} {candidate.zero}")
    if measured is not None and candidate.backend == "flat":
        first, further = ((len(units) * unit + psi * element) for unit, element in measured)
        return seconds + first + (micro - 1) * further
    return seconds + max(0.0, hidden - device.overlap * backward)


def _update(
    inventory: Inventory, candidate: Candidate, device: Device, numerics: Numerics, traffic: dict[str, float]
) -> tuple[float, float]:
    """Seconds of the optimizer, and of moving states for it."""
    units = inventory.stage(candidate.pipeline)
    tensor, ranks = candidate.tensor, candidate.replicas if candidate.zero else 1
    mine = sum(unit.share(ranks, candidate.backend, tensor=tensor, trainable=True) for unit in units)
    if candidate.offload == "none" or (device.kind == "cpu" and candidate.offload == "host"):
        if device.update_rate:
            return mine / device.update_rate, 0.0
        return ADAM_TRAFFIC * mine / device.memory_bandwidth, 0.0
    c = Widths.of(numerics).compute
    moved = 0.0
    if device.kind == "cuda":
        traffic["host"] += 2 * c * mine
        moved += 2 * c * mine / (device.host_bandwidth or device.memory_bandwidth)
    if candidate.offload == "disk":
        traffic["disk"] += 2 * 12 * mine
        moved += 24 * mine / (device.disk_bandwidth or device.host_bandwidth or device.memory_bandwidth)
    update = HOST_TRAFFIC * mine / (device.host_memory_bandwidth or device.memory_bandwidth)
    return update, moved
