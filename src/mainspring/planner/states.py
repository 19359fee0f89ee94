"""Bytes of parameters, gradients, optimizer states and their buffers, on the fullest rank of a candidate.

Psi is the number of parameters on a model-parallel rank, N the number of ranks that ZeRO shards over, c the
bytes of a number in the computation (2 in 16 bits, else 4). Masters and the two moments of Adam are fp32.

    replicated    4 Psi (and 2 for each weight under autocast), gradients 4 Psi, moments 8 Psi
    flat, zero 1  c Psi gathered + c Psi gradients (4 Psi from a second micro-batch on) + 12 Psi / N
                  + a unit of gradients under way
    flat, zero 2  c Psi gathered + (12 + c) Psi / N                  + two units of gradients under way
    flat, zero 3  (12 + 2 c) Psi / N (in fp32, without a copy, 16 Psi / N) + the window: the root, two blocks,
                  and two units of gradients under way
    fsdp2         masters, gradients and moments of 4 Psi / N in whole rows, parameters gathered in c, and the
                  buffers of its collectives
    compressed    besides, what a rank owes as a worker 4 Psi and for its chunk 4 Psi / N, what directions
                  are made with 4 Psi (counted where momenta are sent, too), and at zero 1 the momenta of all,
                  4 Psi
    adasum        besides, this rank's step and the weights before it, 8 Psi

The stages are those of Rajbhandari et al. 2020 (arXiv 1910.02054), section 5. Offloading takes masters and
moments to the host or the disk (Ren et al. 2021, arXiv 2101.06840, and Rajbhandari et al. 2021,
arXiv 2104.07857). Psi is what a tensor rank and stage has of the model: cut parameters by their units (heads,
columns, rows of the vocabulary), all others whole; experts over the expert ranks, their states over the
replicas that have the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mainspring.parallel.disk.placement import BUFFER_BYTES, BUFFERS
from mainspring.planner.activations import Numerics
from mainspring.planner.candidate import Candidate
from mainspring.planner.inventory import Inventory, Stage

FP32 = 4
MOMENTS = 8
"""Bytes of Adam's two moments of a parameter."""
STAGED = 64 * 2**20
"""Bytes of the device through which gradients and parameters travel to and from the host."""


@dataclass
class States:
    """Bytes by kind, on the device, on the host and on disk."""

    device: dict[str, int] = field(default_factory=lambda: _kinds())
    host: dict[str, int] = field(default_factory=lambda: _kinds())
    disk: dict[str, int] = field(default_factory=lambda: _kinds())


def _kinds() -> dict[str, int]:
    return {"parameters": 0, "gradients": 0, "optimizer": 0, "activations": 0, "buffers": 0}


def state_bytes(
    inventory: Inventory, candidate: Candidate, numerics: Numerics, *, matrices: int = 0, stage: int = 0
) -> States:
    """Bytes of the fullest rank of a stage.

    Args:
        inventory: of the whole module.
        candidate: how it is spread.
        numerics: "autocast" is how 16 bits are used without shards, "bf16" with them.
        matrices: weights that autocast keeps a 16-bit copy of.
        stage: of a pipeline.
    """
    mine = inventory.stages(candidate.pipeline, candidate.chunks)[stage]
    tensor, expert = candidate.tensor, candidate.expert
    whole = mine.elements(tensor, expert)
    learns = mine.elements(tensor, expert, trainable=True)
    states = States()
    if candidate.zero == 0 or (candidate.replicas == 1 and candidate.offload == "none"):
        states.device["parameters"] = FP32 * whole
        states.device["gradients"] = FP32 * learns
        states.device["optimizer"] = MOMENTS * learns
        states.device["buffers"] = 2 * matrices // (tensor * candidate.pipeline)
    else:
        _sharded(states, mine, candidate, 2 if numerics == "bf16" else FP32, whole, learns)
    if candidate.communication == "compressed":
        states.device["optimizer"] += 2 * FP32 * learns + FP32 * -(-learns // candidate.replicas)
        states.device["optimizer"] += FP32 * learns if candidate.zero else 0
    elif candidate.communication == "adasum":
        states.device["buffers"] += 2 * FP32 * learns
    if candidate.gradient_dtype == "bf16" and candidate.replicas > 1:
        states.device["buffers"] += 2 * learns
    # What another stage keeps is here while it is used, with its gradient.
    states.device["buffers"] += 2 * FP32 * mine.borrowed.elements(tensor=tensor)
    states.device["buffers"] += inventory.buffers
    return states


def _sharded(states: States, mine: Stage, candidate: Candidate, c: int, whole: int, learns: int) -> None:
    tensor, expert = candidate.tensor, candidate.expert

    def share(trainable: bool | None) -> int:
        return mine.share(candidate.replicas, candidate.backend, tensor, expert, trainable=trainable)

    all_shard, shard = share(None), share(True)
    root, *sizes = mine.sizes(tensor, expert)
    sizes.sort(reverse=True)
    largest = max([root, *sizes])
    stage3 = candidate.zero == 3
    window = min(whole, root + sum(sizes[:2])) if stage3 else whole
    device, host, disk = states.device, states.host, states.disk
    masters = {"none": device, "host": host, "disk": disk}[candidate.offload]
    away = candidate.ratio if candidate.offload == "host" else 1.0
    masters["parameters"] += round(away * FP32 * all_shard)
    masters["optimizer"] += round(away * MOMENTS * shard)
    device["parameters"] += round((1 - away) * FP32 * all_shard)
    device["optimizer"] += round((1 - away) * MOMENTS * shard)
    device["parameters"] += c * window
    if candidate.backend == "fsdp2":
        if candidate.zero == 1 and candidate.accumulation > 1:
            device["gradients"] += FP32 * (shard + whole)
        else:
            device["gradients"] += FP32 * shard + c * largest
        device["buffers"] += (2 * FP32 + c) * largest
        return
    if c < FP32 and candidate.offload == "disk":
        disk["parameters"] += c * all_shard
    elif c < FP32 and stage3:
        device["parameters"] += c * all_shard  # what the optimizer writes beside the masters
    if candidate.zero == 1:
        summed = FP32 if candidate.accumulation > 1 else c
        device["gradients"] += summed * learns
        device["buffers"] += c * largest
    else:
        kept = FP32 if candidate.accumulation > 1 else c
        (device if candidate.offload == "none" else host)["gradients"] += round(away * kept * shard)
        device["gradients"] += round((1 - away) * kept * shard)
        device["buffers"] += c * (largest + max(sizes[:2], default=0))
    if candidate.zero == 1 and candidate.offload != "none":
        host["gradients"] += c * shard
    if candidate.offload == "host":
        device["buffers"] += min(STAGED, FP32 * shard)
    if candidate.offload == "disk":
        host["buffers"] += BUFFERS * BUFFER_BYTES
