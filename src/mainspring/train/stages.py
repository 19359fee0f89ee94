"""Checkpoints of a pipeline that PipeDream's runtime trains: one folder of checkpoints a stage.

A pipeline is empty between two calls of `Pipeline.train`, so the weights, the optimizer's states and, under
2BW, the weights one update older are all there is. Each stage's checkpoint is atomic; the newest that all
stages have is the one to go on from.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mainspring import comm
from mainspring.errors import CheckpointError
from mainspring.parallel.pipedream import Pipeline
from mainspring.train import checkpoint
from mainspring.train.checkpoint import folder as folders
from mainspring.train.checkpoint.manifest import Manifest


class _Kept(nn.Module):
    """A stage and, where it has them, its weights before the last update."""

    def __init__(self, stage: nn.Module, previous: list[Tensor] | None) -> None:
        super().__init__()
        self.stage = stage
        for number, tensor in enumerate(previous or ()):
            self.register_buffer(f"previous_{number}", tensor)


def save_stages(folder: str | Path, pipeline: Pipeline, *, keep: int = 2) -> None:
    """Save a pipeline between two calls of `train`; every rank calls it, the first replica of a stage writes.

    Args:
        folder: on storage that all ranks see; stage s writes into `stage-s`.
        pipeline: this rank's.
        keep: checkpoints of a stage that stay; at least 2, so that a save that stops half way leaves one
            that all stages have.
    """
    if keep < 2:
        raise CheckpointError(f"keep = {keep}: at least 2 checkpoints of a stage stay")
    if pipeline.replica == 0:
        state = pipeline.state()
        tensors = checkpoint.run_state(_Kept(pipeline.module, state["previous"]), pipeline.optimizer)
        facts = {
            "updates": state["updates"],
            "semantics": state["semantics"],
            "replicas": list(pipeline.layout.replicas),
            "previous": state["previous"] is not None,
        }
        own = _folder(folder, pipeline.stage)
        own.mkdir(parents=True, exist_ok=True)
        checkpoint.save(own, pipeline.minibatch, tensors, facts, keep=keep)
    comm.barrier(name="stages are saved")


def load_stages(folder: str | Path, pipeline: Pipeline) -> int:
    """Go on from the newest checkpoint that all stages have; every rank calls it.

    Returns:
        Minibatches trained; 0 where there is no checkpoint, and nothing was changed.

    Raises:
        CheckpointError: damaged, or of another pipeline.
    """
    stages = range(pipeline.layout.stages)
    found = [{path.name: path for path in folders.complete(_folder(folder, stage))} for stage in stages]
    common = set.intersection(*(set(names) for names in found))
    if not common:
        return 0
    path = found[pipeline.stage][max(common, key=lambda name: (len(name), name))]
    content = Manifest.read(path)
    replicas = tuple(content.run["replicas"])
    if replicas != pipeline.layout.replicas:
        raise CheckpointError(
            f"{path} is of a pipeline with {replicas} replicas of its stages; this one has "
            f"{pipeline.layout.replicas}"
        )
    previous = None
    if content.run["previous"]:
        previous = [torch.empty_like(p.detach()) for p in pipeline.module.parameters()]
    checkpoint.load(path, _Kept(pipeline.module, previous), pipeline.optimizer)
    pipeline.resume(content.step, content.run["updates"], content.run["semantics"], previous)
    return content.step


def _folder(folder: str | Path, stage: int) -> Path:
    return Path(folder) / f"stage-{stage}"
