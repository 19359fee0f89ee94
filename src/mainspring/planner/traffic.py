"""What a rank sends in a step, by link, and the seconds of it that nothing hides.

Legend: t tensor ranks, n sequence ranks, e expert ranks, N replicas, m micro-batches; b rows of one, s
tokens, h width, c bytes of a number; v chunks of a stage; psi parameters of the rank.

    tensor      4 all-reduces of b s h c a layer and micro-batch, or as many pairs of gather and
                reduce-scatter where tokens are shared, and a gather more of a layer with experts
                (recomputation: `again_reduced`); 2 for the vocabulary's table and head, and where tokens
                are shared 2 gathers there
    sequence    heads: 8 exchanges (12) of b s/n h c a layer and micro-batch; ring: (n - 1) b s/n h times 4 c
                (6 c), and 2 of its gradients in fp32
    pipeline    b s h c each way for each of v chunks and micro-batch; / t where tokens are shared
    expert      4 exchanges (6) of k b s h c a layer with experts and micro-batch, (e - 1)/e of it leaving
    replicas    ZeRO 0: an all-reduce of 4 psi; 1, 2: psi scattered, psi gathered; 3: psi gathered twice, but
                the root once; scattered in each micro-batch from stage 2, gathered in each at 3. Experts over
                N / e. Compressed (after its warm-up): two exchanges of psi / 8 bytes in place of gradients;
                Adasum an exchange and a gather of 4 psi

Shoeybi et al. 2019 (arXiv 1909.08053); Korthikanti et al. 2022 (arXiv 2205.05198); Jacobs et al. 2023
(arXiv 2309.14509); Liu et al. 2023 (arXiv 2310.01889); Narayanan et al. 2021 (arXiv 2104.04473);
Rajbhandari et al. 2020 and 2022 (arXiv 1910.02054, section 7; 2201.05596).
"""

from __future__ import annotations

from typing import Literal

from mainspring.nn import TransformerConfig
from mainspring.planner.activations import Numerics, Widths
from mainspring.planner.candidate import Candidate
from mainspring.planner.device import Collective, Device
from mainspring.planner.inventory import Inventory, Stage
from mainspring.planner.states import FP32
from mainspring.planner.work import Work

LINKS = ("node", "network", "host", "disk")


class Traffic:
    """Of the rank that sends most.

    Args:
        inventory: of the module that is trained.
        work: what a row is put through.
        candidate: how the run is spread and cut.
        device: what a rank computes on.
        numerics: how 16 bits are used.
    """

    def __init__(
        self, inventory: Inventory, work: Work, candidate: Candidate, device: Device, numerics: Numerics
    ) -> None:
        self.sent = dict.fromkeys(LINKS, 0.0)
        """Bytes by link."""
        self.waits = 0.0
        """Seconds for which computation waits."""
        self.beside = 0.0
        """Seconds that a backward pass may hide."""
        self._candidate, self._device = candidate, device
        self._c = Widths.of(numerics).compute
        stages = inventory.stages(candidate.pipeline, candidate.chunks)
        stage = max(stages, key=lambda one: one.elements(candidate.tensor, candidate.expert))
        config = work.main.config
        self._stream = float(candidate.micro_rows * work.main.seq_len * config.d_model * self._c)
        self._stream /= candidate.sequence
        self._again = 1.5 if candidate.remat else 1.0
        layers = max(one.blocks for one in stages) * candidate.accumulation
        self._within(layers, config, stage)
        self._between_stages(stage)
        self._states(stage, numerics)

    def _send(
        self,
        op: Collective,
        nbytes: float,
        ranks: int,
        stride: int,
        times: float = 1.0,
        *,
        waits: bool = True,
    ) -> None:
        if ranks == 1:
            return
        rounds = 2 if op == "all_reduce" else 1
        link = "node" if ranks * stride <= self._device.ranks_per_node else "network"
        self.sent[link] += times * rounds * (ranks - 1) / ranks * nbytes
        seconds = times * self._device.collective(op, nbytes, ranks, stride=stride)
        if waits:
            self.waits += seconds
        else:
            self.beside += seconds

    def _within(self, layers: float, config: TransformerConfig, stage: Stage) -> None:
        """Within layers every micro-batch waits for others."""
        c, stream, again = self._candidate, self._stream, self._again
        reduced = 4 + c.remat * again_reduced(config.norm_place, shared=c.tensor_sequence)
        self._send("all_reduce", stream, c.tensor, 1, reduced * layers)
        ends = (stage.first + stage.last) * c.accumulation
        self._send("all_reduce", stream, c.tensor, 1, ends)
        if c.tensor_sequence:
            self._send("all_gather", stream, c.tensor, 1, ends)
        if c.attention == "heads":
            self._send("all_to_all", stream / c.tensor, c.sequence, c.tensor, 8 * again * layers)
        else:  # keys and values forward, and back with their gradients; nothing is divided
            rounds = (4 + 2 * c.remat + 2 * FP32 / self._c) * c.sequence * layers
            self._send("all_to_all", stream / c.tensor, c.sequence, c.tensor, rounds)
        if c.expert > 1 and config.experts is not None:
            having = sum(any(part.expert for part in unit.parts) for unit in stage.units[1:])
            room = min(config.experts.capacity_factor or 1.0, 1.0)  # rows travel without padding
            rows = config.experts.top_k * room * stream
            if c.tensor_sequence:  # each rank's gate decides about all tokens
                self._send("all_gather", stream, c.tensor, 1, having * c.accumulation)
            stride = c.tensor * c.sequence
            self._send("all_to_all", rows, c.expert, stride, 4 * again * having * c.accumulation)

    def _between_stages(self, stage: Stage) -> None:
        c, device = self._candidate, self._device
        if c.pipeline == 1:
            return
        stride = c.tensor * c.sequence * c.data
        crosses = 2 * c.chunks * c.accumulation * self._stream / (c.tensor if c.tensor_sequence else 1)
        lent = 2 * self._c * sum(part.numel for part in stage.borrowed.parts) / c.tensor
        link = "node" if stride * c.pipeline <= device.ranks_per_node else "network"
        self.sent[link] += crosses + lent
        self.waits += (crosses + lent) / device.bandwidth(c.pipeline, stride=stride)
        self.waits += 2 * c.chunks * c.accumulation * device.latency

    def _states(self, stage: Stage, numerics: Numerics) -> None:
        """Gradients and parameters between those that hold the same ones."""
        c, micro = self._candidate, self._candidate.accumulation
        for experts, ranks, stride in (
            (False, c.replicas, c.tensor),
            (True, c.replicas // c.expert, c.tensor * c.expert),
        ):
            units = stage.sizes(c.tensor, c.expert, experts=experts)
            learns = stage.elements(c.tensor, c.expert, trainable=True, experts=experts)
            psi = float(sum(units))
            if not psi or ranks == 1:
                continue
            if c.communication == "compressed":
                for op in ("all_to_all", "all_gather"):
                    self._send(op, learns / 8, ranks, stride)
                if c.zero:
                    count = sum(size > 0 for size in units)
                    self._send("all_gather", self._c * psi / count, ranks, stride, count, waits=False)
                continue
            if c.communication == "adasum":
                self._send("all_to_all", FP32 * learns, ranks, stride)
                self._send("all_gather", FP32 * learns, ranks, stride)
                continue
            if c.zero == 0:
                width = FP32 if c.gradient_dtype == "fp32" else 2
                self._send("all_reduce", width * learns, ranks, stride, waits=False)
                continue
            wide = numerics == "fp32" or c.backend == "fsdp2"
            reductions = 1 if c.zero == 1 else micro
            gathers = psi if c.zero < 3 else micro * (units[0] + 2 * (psi - units[0]))
            calls = sum(size > 0 for size in units)
            scattered = (FP32 if wide else self._c) * learns
            self._send("reduce_scatter", scattered / calls, ranks, stride, reductions * calls, waits=False)
            gathered = self._c * psi / calls
            self._send("all_gather", gathered, ranks, stride, gathers / psi * calls, waits=False)


def again_reduced(norm_place: Literal["pre", "post"], *, shared: bool) -> float:
    """All-reduces of a layer that is computed again: two leave a forward pass, but what nothing in backward
    needs is left out.

    With norms before the sublayers that is the last sum, which only the next layer reads (its half of a pair
    where tokens are shared, since the gather before it is needed); with norms after them it is none.
    """
    if norm_place == "post":
        return 2.0
    return 1.5 if shared else 1.0


def exposed(
    traffic: Traffic,
    stage: Stage,
    candidate: Candidate,
    device: Device,
    numerics: Numerics,
    *,
    backward: float,
) -> float:
    """Seconds of communication that a step is longer for; where the device's are measured, with all else that
    states take (`Device.states`).

    Args:
        traffic: of the candidate.
        stage: whose states are counted.
        candidate: how the run is spread and cut.
        device: what a rank computes on.
        numerics: how 16 bits are used.
        backward: seconds of backward passes in a step.
    """
    measured = device.states.get(f"{'fp32' if numerics == 'fp32' else 'bf16'} {candidate.zero}")
    if measured is None or candidate.backend != "flat" or candidate.communication != "exact":
        return traffic.waits + max(0.0, traffic.beside - device.overlap * backward)
    psi = stage.elements(candidate.tensor, candidate.expert)
    calls = len(stage.units) * (4 / 3 if candidate.remat else 1)  # recomputation goes forward once more
    first, further = (calls * unit + psi * element for unit, element in measured)
    return traffic.waits + first + (candidate.accumulation - 1) * further
