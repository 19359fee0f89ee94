"""Saving and loading a checkpoint, alone or over all ranks of a process group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_over_ranks
from torch.distributed.checkpoint.state_dict_saver import save as save_over_ranks
from torch.optim import Optimizer

from mainspring import parallel
from mainspring.errors import CheckpointError
from mainspring.train.checkpoint import folder as folders
from mainspring.train.checkpoint import shards, state
from mainspring.train.checkpoint.boxes import Leaf
from mainspring.train.checkpoint.manifest import DTYPES, Entry, Manifest
from mainspring.train.checkpoint.planning import Loading, Saving
from mainspring.train.checkpoint.storage import Reader, Writer


def save(
    folder: str | Path,
    step: int,
    tensors: Mapping[str, Leaf],
    run: Mapping[str, Any],
    *,
    group: dist.ProcessGroup | None = None,
    keep: int = 0,
) -> Path:
    """Write a checkpoint of `step` into a folder of checkpoints; every rank of `group` calls it.

    Args:
        folder: where the run keeps its checkpoints.
        step: optimizer steps done.
        tensors: by logical name: plain ones, DTensors, pieces of flat shards; replicated ones are written
            once.
        run: state that is not a tensor, as JSON values.
        group: a group with a CPU backend (None: this process alone).
        keep: delete all but so many newest ones after the save has succeeded (0: delete none).

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: on all ranks, if any failed; the previous checkpoints are as they were.
    """
    folder = Path(folder)
    writer = Writer(folder / folders.name(step), step, run)
    planner = Saving()
    try:
        if group is None:
            _save_alone(dict(tensors), writer, planner)
        else:
            save_over_ranks(dict(tensors), storage_writer=writer, planner=planner, process_group=group)
    except CheckpointException as failure:
        raise _first_cause(failure, f"saving {writer.target}") from failure
    finally:
        planner.close()
        if group is None or dist.get_rank(group) == 0:
            folders.discard(writer.staging)
    if group is None or dist.get_rank(group) == 0:
        folders.prune(folder, keep)
    return writer.target


def load(
    checkpoint: str | Path,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    group: dist.ProcessGroup | None = None,
) -> Manifest:
    """Read a checkpoint into a model, and its optimizer's state, sharded in whatever way; every rank calls
    it.

    Raises:
        CheckpointError: on all ranks: incomplete, damaged (with the newest older intact one), or of another
        model.
    """
    path = Path(checkpoint)
    try:
        content = Manifest.read(path)
        folders.check_files(path, content)
        if optimizer is not None:
            state.allocate_optimizer_state(model, optimizer, content)
        else:
            content = _models_part(content)
        named = state.run_state(model, optimizer, empty=True)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {folders.advice(path)}") from error
    state.check_fit(named, content, parallel.elsewhere(model))
    reader = Reader(path, content)
    planner = Loading()
    try:
        if group is None:
            _load_alone(named, reader, planner)
        else:
            load_over_ranks(named, storage_reader=reader, planner=planner, process_group=group)
    except (CheckpointException, CheckpointError) as failure:
        cause = failure if isinstance(failure, CheckpointError) else _first_cause(failure, f"loading {path}")
        raise CheckpointError(f"{cause}; {folders.advice(path)}") from failure
    finally:
        planner.close()
    parallel.settle(model)
    return content


def load_model_state(checkpoint: str | Path) -> dict[str, Tensor]:
    """Read the model's tensors of a checkpoint, whole and on the CPU, in a single process; every byte is
    checked.

    Raises:
        CheckpointError: incomplete or damaged; names the file, what was expected and what was found.
    """
    path = Path(checkpoint)
    content = _models_part(Manifest.read(path))
    folders.check_files(path, content)
    return {
        name.removeprefix(state.MODEL): read_whole(path, entry) for name, entry in content.tensors.items()
    }


def read_whole(checkpoint: Path, entry: Entry) -> Tensor:
    """Read a logical tensor of a checkpoint; every byte is checked.

    Raises:
        CheckpointError: damaged; names the file, what was expected and what was found.
    """
    if len(entry.slices) == 1 and entry.slices[0].sizes == entry.shape:
        return shards.read(checkpoint, entry.slices[0], entry.dtype)
    whole = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    for one in entry.slices:
        box = tuple(slice(o, o + s) for o, s in zip(one.offsets, one.sizes, strict=True))
        whole[box] = shards.read(checkpoint, one, entry.dtype)
    return whole


def _models_part(content: Manifest) -> Manifest:
    tensors = {n: e for n, e in content.tensors.items() if n.startswith(state.MODEL)}
    return Manifest(content.step, tensors, content.files, content.run)


# torch.distributed.checkpoint warns on every call without a process group; these are its steps for one
# process.
def _save_alone(tensors: dict[str, Leaf], writer: Writer, planner: Saving) -> None:
    planner.set_up_planner(tensors, is_coordinator=True)
    writer.set_up_storage_writer(True)
    plans, metadata = planner.create_global_plan([writer.prepare_local_plan(planner.create_local_plan())])
    plan = planner.finish_plan(writer.prepare_global_plan(plans)[0])
    writer.finish(metadata, [writer.write_data(plan, planner).wait()])


def _load_alone(tensors: dict[str, Leaf], reader: Reader, planner: Loading) -> None:
    planner.set_up_planner(tensors, reader.read_metadata(), is_coordinator=True)
    plans = planner.create_global_plan([planner.create_local_plan()])
    reader.read_data(planner.finish_plan(plans[0]), planner).wait()


def _first_cause(failure: CheckpointException, doing: str) -> CheckpointError:
    rank, (cause, _) = min(failure.failures.items())
    if isinstance(cause, CheckpointError):
        return CheckpointError(f"rank {rank}: {cause}")
    return CheckpointError(f"{doing}: rank {rank} failed: {type(cause).__name__}: {cause}")
