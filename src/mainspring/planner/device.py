"""Devices as data: what a plan's bytes are held against and its seconds are worked out from.

The catalogue is `devices.toml` beside this file, each entry with its sources; `load_devices` reads more from
a file of the same form.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mainspring.config import Section, parse
from mainspring.errors import ConfigError, suggest

LARGE = 2**25
"""Bytes from which the C library returns memory to the system when it is freed: it is paged in at every
use."""
Collective = Literal["all_reduce", "reduce_scatter", "all_gather", "all_to_all"]


class Device(Section):
    """A rank's device, its host's share for it, and the links between ranks. Bandwidths go one way."""

    name: str
    kind: Literal["cpu", "cuda"] = "cuda"
    """A "cpu" computes in the memory of its host."""
    flops: dict[str, float]
    """Peak FLOP/s of dense matrix products, by "fp32", "bf16" and "fp16"."""
    efficiency: float = Field(0.5, gt=0, le=1)
    """Part of the peak that the products of a large model reach."""
    memory: int
    """Bytes a rank may use."""
    memory_bandwidth: float
    """Bytes/s of a streaming read and write."""
    between_bandwidth: float = 0.0
    """Bytes/s of what lies between matrix products (0: as `memory_bandwidth`)."""
    reserved: int = 0
    """Bytes that are taken before any tensor: a CUDA context and the buffers of its collectives, or an
    interpreter and its libraries."""
    fragmentation: float = Field(0.1, ge=0)
    """Slack of the allocator, as a part of what comes and goes (activations, buffers)."""
    ranks_per_node: int = Field(8, ge=1)
    """Ranks that `link_bandwidth` joins."""
    link_bandwidth: float
    """Bytes/s between ranks of a node."""
    network_bandwidth: float
    """Bytes/s of a rank to other nodes."""
    latency: float = 1e-5
    """Seconds that a step of a collective takes however little it moves."""
    overlap: float = Field(0.7, ge=0, le=1)
    """Part of the backward's time behind which the collectives of ZeRO can hide."""
    host_memory: int = 0
    """Bytes of its node's memory for each rank (a "cpu" has no other than `memory`)."""
    host_bandwidth: float = 0.0
    """Bytes/s between device and host."""
    host_memory_bandwidth: float = 0.0
    """Bytes/s of a rank's share of its host's memory: what an update there is bound by."""
    disk: int = 0
    """Bytes of its node's fast disks for each rank."""
    disk_bandwidth: float = 0.0
    """Bytes/s of a rank's share of them."""
    sources: tuple[str, ...] = ()
    """Where the figures come from."""
    gemm: dict[str, tuple[tuple[float, float], ...]] = Field(default_factory=dict)
    """Measured (width, FLOP/s) of a layer's forward and backward products, by precision; in place of
    `flops` and `efficiency`."""
    attention: dict[str, float] = Field(default_factory=dict)
    """Measured FLOP/s of attention, forward and backward, by precision; else as matrix products."""
    logits_bandwidth: float = 0.0
    """Measured bytes/s of a cross entropy, by the bytes that `logit_bytes` counts."""
    large_logits_bandwidth: float = 0.0
    """The same where logits take `LARGE` bytes or more at once."""
    page_bandwidth: float = 0.0
    """Measured bytes/s at which memory that was given back is taken again (0: at once)."""
    compute_scale: dict[str, tuple[tuple[float, float], ...]] = Field(default_factory=dict)
    """Measured (tokens at once, seconds of a small reference model over those worked out from the rates), by
    precision. What caches hold and what calls cost depends on the tokens of a micro-batch; and on a processor
    whose threads share cores, what ranks do at a moment decides how much they take from each other."""
    update_rate: float = 0.0
    """Measured parameters/s of an Adam update with its clipping (0: from `memory_bandwidth`)."""
    collectives: dict[Collective, tuple[float, float]] = Field(default_factory=dict)
    """Measured (seconds, bytes/s of the whole tensor) of each collective, in place of links and latency."""
    states: dict[str, tuple[tuple[float, float], tuple[float, float]]] = Field(default_factory=dict)
    """Measured seconds (of a unit, of a parameter) that states add to a step's first micro-batch and to a
    further one however few the tokens, by precision and ZeRO stage ("bf16 2"): gathering, adding up, reducing
    and their calls; in place of what collectives and fresh pages come to."""

    def rate(self, precision: str) -> float:
        """Peak FLOP/s; where the device lacks one 16-bit format the other stands for it."""
        other = {"bf16": "fp16", "fp16": "bf16"}.get(precision, precision)
        return self.flops.get(precision) or self.flops.get(other) or self.flops["fp32"]

    def product_rate(self, precision: str, width: float) -> float:
        """FLOP/s that a layer of a width reaches."""
        points = self.gemm.get(precision, ())
        return _between(points, width) if points else self.rate(precision) * self.efficiency

    def scale(self, precision: str, tokens: float) -> float:
        """What computation of a micro-batch of so many tokens takes over what the rates make of it."""
        points = self.compute_scale.get(precision, ())
        return _between(points, tokens) if points else 1.0

    def bandwidth(self, ranks: int, *, stride: int = 1) -> float:
        """Bytes/s of a rank in a group of `ranks` that are `stride` apart."""
        within = ranks * stride <= self.ranks_per_node
        return self.link_bandwidth if within else self.network_bandwidth

    def collective(self, op: Collective, nbytes: float, ranks: int, *, stride: int = 1) -> float:
        """Seconds of a ring collective on a tensor of `nbytes` (of the whole), over `ranks` ranks."""
        if ranks == 1 or nbytes <= 0:
            return 0.0
        rounds = 2 if op == "all_reduce" else 1
        if op in self.collectives:
            seconds, rate = self.collectives[op]
            return seconds + nbytes / rate
        moved = rounds * (ranks - 1) / ranks * nbytes
        steps = rounds * min(ranks - 1, self.ranks_per_node + ranks // self.ranks_per_node)
        return moved / self.bandwidth(ranks, stride=stride) + steps * self.latency


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value at a place from those at measured ones, on a line between their logarithms; level outside."""
    points = sorted(points)
    if at <= points[0][0]:
        return points[0][1]
    for (low, first), (high, second) in pairwise(points):
        if at <= high:
            part = math.log(at / low) / math.log(high / low)
            return first * math.exp(part * math.log(second / first))
    return points[-1][1]


def devices(*more: Path) -> dict[str, Device]:
    """The catalogue, with the entries of further files; a later one of the same name counts.

    Raises:
        ConfigError: a file is missing or does not fit.
    """
    text = (files(__package__) / "devices.toml").read_text(encoding="utf-8")
    found = _read(tomllib.loads(text), "the catalogue")
    for path in more:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: no table of devices can be read: {error}") from error
        found |= _read(values, str(path))
    return found


def device(name: str, *more: Path) -> Device:
    """A device of the catalogue by its name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    known = devices(*more)
    if name not in known:
        raise ConfigError(f"device {name!r}: not in the catalogue; {suggest(name, known)}")
    return known[name]


def _read(values: Mapping[str, Any], source: str) -> dict[str, Device]:
    result = {}
    for name, entry in values.items():
        if not isinstance(entry, dict):
            raise ConfigError(f"{source}: [{name}] should be a table of a device's fields")
        try:
            result[name] = parse(Device, {"name": name, **entry})
        except ConfigError as error:
            raise ConfigError(f"{source}: [{name}]: {error}") from error
    return result
