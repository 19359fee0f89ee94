"""Logical names of all tensors of a training run: `model.<parameter>`, `optimizer.<parameter>.<state>`.

The names say nothing of ranks or of positions in an optimizer's groups, so any plan loads any checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mainspring.errors import CheckpointError
from mainspring.train.checkpoint.manifest import DTYPES, Manifest

MODEL = "model."
OPTIMIZER = "optimizer."


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers under their logical names; a shared tensor once, under its first
    name."""
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            named[MODEL + name] = tensor.detach()
    return named


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Tensors of the optimizer's state under their logical names."""
    return {
        f"{OPTIMIZER}{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def allocate_optimizer_state(model: nn.Module, optimizer: Optimizer, content: Manifest) -> None:
    """Give the optimizer the tensors that a checkpoint has values for, sharded as the parameters are."""
    parameters = dict(model.named_parameters())
    # torch keeps the step count of fused and capturable optimizers beside the parameter, else on the CPU.
    fused = {p for g in optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]}
    for name, entry in content.tensors.items():
        if not name.startswith(OPTIMIZER):
            continue
        owner, _, key = name.removeprefix(OPTIMIZER).rpartition(".")
        if owner not in parameters:
            raise CheckpointError(f"{name}: the checkpoint is of another model, which has this parameter")
        parameter, dtype = parameters[owner], DTYPES[entry.dtype]
        if entry.shape and tuple(parameter.shape) == entry.shape:
            value = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        else:
            device = parameter.device if parameter in fused else "cpu"
            value = torch.zeros(entry.shape, dtype=dtype, device=device)
        optimizer.state[parameter][key] = value


def check_fit(state: dict[str, Tensor], content: Manifest) -> None:
    """Compare names and shapes with those of a checkpoint.

    Raises:
        CheckpointError: lists what is missing, what is left over and what has another shape.
    """
    missing = sorted(set(state) - set(content.tensors))
    surplus = sorted(n for n in set(content.tensors) - set(state))
    shapes = [
        f"{name}: checkpoint {list(content.tensors[name].shape)}, model {list(tensor.shape)}"
        for name, tensor in sorted(state.items())
        if name in content.tensors and content.tensors[name].shape != tuple(tensor.shape)
    ]
    faults = [
        f"{label}: {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
        for label, names in (
            ("not in the checkpoint", missing),
            ("only in the checkpoint", surplus),
            ("of another shape", shapes),
        )
        if names
    ]
    if faults:
        raise CheckpointError("the checkpoint is of another model: " + "; ".join(faults))
