"""What a candidate costs on a device: bytes, FLOPs, traffic, seconds, of the fullest rank.

Bytes that are counted: parameters, gradients, optimizer states, activations that autograd keeps, and buffers
of the passage (logits and their gradients, gathered units, rows of gradients under way); `fragmentation` is
the allocator's slack on what comes and goes, and `runtime` what is taken before any tensor.

Time follows Narayanan et al. 2021 (arXiv 2104.04473, sections 2 and 3): compute of the slowest stage, the
bubble of the pipeline (`schedule`), then what communication does not hide behind them (`traffic`).
"""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.parallel.precision import Precision
from mainspring.planner.activations import Numerics, Widths, kept_bytes, logit_bytes, working_bytes
from mainspring.planner.candidate import Candidate
from mainspring.planner.device import LARGE, Device
from mainspring.planner.inventory import Inventory, Stage
from mainspring.planner.schedule import bubble, in_flight
from mainspring.planner.states import FP32, States, state_bytes
from mainspring.planner.traffic import Traffic, exposed
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
    return "bf16" if sharded else "autocast"


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
    stages = inventory.stages(candidate.pipeline, candidate.chunks)
    ends = sorted({0, len(stages) - 1})  # between them a rank has less of everything
    held = [_bytes(inventory, work, candidate, device, numerics, stage) for stage in ends]
    states = max(held, key=lambda one: sum(one.device.values()))
    rows = candidate.data * candidate.micro_rows * candidate.accumulation
    compute = _Compute(work, candidate, device, precision, numerics, stages)
    traffic = Traffic(inventory, work, candidate, device, numerics)
    fullest = stages[ends[held.index(states)]]
    communication = exposed(traffic, fullest, candidate, device, numerics, backward=compute.backward)
    optimizer, offload = _update(fullest, candidate, device, numerics, traffic.sent)
    return Cost(
        device_bytes=states.device,
        host_bytes=states.host,
        disk_bytes=states.disk,
        flops=rows * work.flops(),
        flops_done=rows * work.flops(again=candidate.remat),
        traffic=traffic.sent,
        seconds={
            "matrix products": compute.products,
            "other compute": compute.between,
            "pipeline bubble": compute.bubble,
            "optimizer": optimizer,
            "communication": communication,
            "offload": offload,
        },
        tokens=rows * work.seq_len,
    )


def _bytes(
    inventory: Inventory, work: Work, candidate: Candidate, device: Device, numerics: Numerics, index: int
) -> States:
    """Of the ranks of a stage."""
    cuda = device.kind == "cuda"
    stage = inventory.stages(candidate.pipeline, candidate.chunks)[index]
    matrices = 0
    if numerics == "autocast":
        layers, head, _ = work.main.forward_flops
        matrices = round((layers + head / max(work.main.predicted, 1e-9)) / 2 / work.main.seq_len)
    states = state_bytes(inventory, candidate, numerics, matrices=matrices, stage=index)
    flying = in_flight(
        candidate.schedule, candidate.pipeline, candidate.chunks, candidate.accumulation, index
    )
    kept, passing = [], []
    for one in work.passes:
        tokens = candidate.micro_rows * one.seq_len / candidate.sequence
        size = kept_bytes(
            one.config,
            one.seq_len,
            numerics,
            kept=candidate.kept,
            tensor=candidate.tensor,
            tensor_sequence=candidate.tensor_sequence,
            blocks=None if candidate.pipeline == 1 else stage.blocks,
            ends=(stage.first + stage.last) / 2,
            in_flight=flying if candidate.pipeline > 1 else 1,
            cuda=cuda,
        )
        kept.append(tokens * size if one.backward else 0.0)
        logits = one.predicted * logit_bytes(one.config, numerics) / candidate.tensor if stage.last else 0.0
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
    """Seconds of the slowest stage's forward and backward passes of a step."""

    def __init__(
        self,
        work: Work,
        candidate: Candidate,
        device: Device,
        precision: Precision,
        numerics: Numerics,
        stages: tuple[Stage, ...],
    ) -> None:
        self.backward = 0.0
        rows = candidate.micro_rows * candidate.accumulation / (candidate.tensor * candidate.sequence)
        # (products, between) of all layers, and of what follows the last.
        layers, head = [0.0, 0.0], [0.0, 0.0]
        for one in work.passes:
            at_once = candidate.micro_rows * one.seq_len / candidate.sequence
            scale = rows * device.scale(precision, at_once)
            for where, found in (
                (layers, self._layers(one, candidate, device, precision, numerics)),
                (head, self._head(one, candidate, device, precision, numerics)),
            ):
                for index, seconds in enumerate(found):
                    where[index] += scale * seconds
        depth = sum(stage.blocks for stage in stages)
        parts = [
            tuple(
                a * (stage.blocks / depth if len(stages) > 1 else 1) + b * stage.last
                for a, b in zip(layers, head, strict=True)
            )
            for stage in stages
        ]
        slowest = max(parts, key=sum)
        self.products, self.between = slowest
        self.backward = 2 / 3 * sum(slowest)
        others = sum(map(sum, parts)) - sum(slowest)
        self.bubble = bubble(candidate.schedule, candidate.chunks, candidate.accumulation, others)

    @staticmethod
    def _layers(
        one: Pass, candidate: Candidate, device: Device, precision: Precision, numerics: Numerics
    ) -> tuple[float, float]:
        """Products, and what lies between, of a row."""
        layers, _, attention = one.forward_flops
        times = 1 if not one.backward else 4 if candidate.remat else 3
        rate = device.product_rate(precision, one.config.d_model)
        if candidate.kept == "selective":
            attention *= 4 / 3
        products = times * (layers / rate + attention / device.attention.get(precision, rate))
        kept = kept_bytes(one.config, one.seq_len, numerics, cuda=device.kind == "cuda")
        passes = PASSES * times / 3 * one.seq_len
        return products, passes * kept / (device.between_bandwidth or device.memory_bandwidth)

    @staticmethod
    def _head(
        one: Pass, candidate: Candidate, device: Device, precision: Precision, numerics: Numerics
    ) -> tuple[float, float]:
        """The same of the head and the loss."""
        _, head, _ = one.forward_flops
        products = (3 if one.backward else 1) * head / device.product_rate(precision, one.config.d_model)
        times = (1.0 if one.backward else 1 / 3) * one.seq_len
        logits = one.predicted * logit_bytes(one.config, numerics)
        if not device.logits_bandwidth:
            return products, times * PASSES * logits / (device.between_bandwidth or device.memory_bandwidth)
        at_once = candidate.micro_rows * one.seq_len * one.predicted * one.config.vocab_size * FP32
        large = at_once / candidate.tensor >= LARGE and device.large_logits_bandwidth > 0
        logits /= device.large_logits_bandwidth if large else device.logits_bandwidth
        if large and device.page_bandwidth:  # the product's result is paged in as well
            logits += one.predicted * one.config.vocab_size * FP32 / device.page_bandwidth
        return products, times * logits


def _update(
    stage: Stage, candidate: Candidate, device: Device, numerics: Numerics, traffic: dict[str, float]
) -> tuple[float, float]:
    """Seconds of the optimizer, and of moving states for it."""
    tensor, expert = candidate.tensor, candidate.expert
    if candidate.zero:
        mine = stage.share(candidate.replicas, candidate.backend, tensor, expert, trainable=True)
    else:
        mine = stage.elements(tensor, expert, trainable=True)
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
