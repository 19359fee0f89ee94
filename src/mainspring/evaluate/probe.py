"""Proof that a saved model is the trained one: logits of fixed tokens, before saving and after loading.

When training ends, the weights that the ranks hold in memory are gathered on rank 0, put into a model of
their own and asked for the logits of a fixed batch, which are kept beside the checkpoint. Whoever loads the
checkpoint later asks the loaded model the same: equal to the last bit, or the checkpoint is not the model
    that was trained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mainspring import parallel
from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch
from mainspring.errors import CheckpointError
from mainspring.nn.config import TransformerConfig
from mainspring.nn.span import logical_shape
from mainspring.nn.transformer import Transformer
from mainspring.objectives import Objective, network_state
from mainspring.objectives.around import AroundNetwork
from mainspring.parallel.world import World
from mainspring.train.run import Run

ROWS, TOKENS = 2, 64
LARGEST = 2**30
"""Bytes of the largest model that is gathered for a probe."""


@dataclass(frozen=True)
class Agreement:
    """Logits of the trained model beside those of the loaded one."""

    step: int
    """Optimizer steps of the trained model."""
    logits: int
    """Numbers compared."""
    identical: bool
    """Whether all are equal to the last bit."""
    largest_difference: float


def probe_file(run: Run) -> Path:
    """Where a run keeps the trained model's logits."""
    return run.dir / "probe.safetensors"


def record(model: nn.Module, run: Run, step: int, world: World, objective: Objective | None = None) -> None:
    """Keep the logits of the model in memory, unless it is too large for one rank; every rank calls it, for
    the weights may be spread over all of them.

    Args:
        model: the trained model, sharded or not.
        run: where the logits go.
        step: optimizer steps done.
        world: the ranks; rank 0 writes.
        objective: what it was trained for, where that put something around the network.
    """
    if 4 * sum(logical_shape(p).numel() for p in model.parameters()) > LARGEST:
        return
    network = model.network if isinstance(model, AroundNetwork) else model
    config: TransformerConfig = network.config  # type: ignore[assignment]
    whole = parallel.full_state(model)
    if world.is_main:
        whole = whole if objective is None else network_state(objective, whole)
        logits = probe_logits(whole, config)
        target = probe_file(run)
        beside = target.with_suffix(".tmp")
        save_file({"logits": logits}, beside, metadata={"step": json.dumps(step)})
        beside.replace(target)


def verify(state: dict[str, Tensor], config: TransformerConfig, run: Run) -> Agreement:
    """Compare a loaded model's logits with those kept when it was trained.

    Args:
        state: the loaded weights, by our names.
        config: the model's configuration.
        run: where the trained model's logits are.

    Raises:
        CheckpointError: the run kept none.
    """
    path = probe_file(run)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: the run kept no logits to compare with; it writes them when training ends"
        )
    with safe_open(path, framework="pt") as kept:
        before, step = kept.get_tensor("logits"), int(json.loads(kept.metadata()["step"]))
    after = probe_logits(state, config)
    return Agreement(step, before.numel(), torch.equal(before, after), float((before - after).abs().max()))


def probe_logits(state: dict[str, Tensor], config: TransformerConfig) -> Tensor:
    """Logits [ROWS, TOKENS, V] of a fixed batch under these weights, in fp32 on one thread of the CPU."""
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(state, assign=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            logits: Tensor = model.eval()(probe_batch(config)).logits
            return logits.contiguous()
    finally:
        torch.set_num_threads(threads)


def probe_batch(config: TransformerConfig) -> TokenBatch:
    """The fixed batch: tokens all over the vocabulary."""
    length = min(TOKENS, config.max_positions)
    ids = (torch.arange(ROWS * length) * 7919 % config.vocab_size).reshape(ROWS, length)
    return bidirectional_batch(ids) if config.norm_place == "post" else causal_batch(ids)
