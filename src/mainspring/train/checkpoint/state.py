"""Logical names of all tensors of a training run: `model.<parameter>`, `optimizer.<parameter>.<state>`.

The names say nothing of ranks or of positions in an optimizer's groups, so any plan loads any checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mainspring.errors import CheckpointError
from mainspring.nn.span import logical_shape, mark, span_of
from mainspring.train.checkpoint.manifest import DTYPES, Manifest

MODEL = "model."
OPTIMIZER = "optimizer."


COUNTERS = frozenset({"step", "mu_product", "mu", "eta"})
"""States of an optimizer that are one number for a parameter, whatever its shape."""


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers under their logical names; a shared tensor once, under its first
    name. What of a parameter is only a piece is marked as that (`mainspring.nn.span`)."""
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in _tensors(model).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            named[MODEL + name] = _marked_as(tensor, tensor.detach())
    return named


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Tensors of the optimizer's state under their logical names; those of a piece are pieces as well."""
    return {
        f"{OPTIMIZER}{name}.{key}": _marked_as(parameter, value.detach())
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
        counter = not entry.shape and key in COUNTERS
        if tuple(logical_shape(parameter)) == entry.shape and not counter:
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
        f"{name}: checkpoint {list(content.tensors[name].shape)}, model {list(logical_shape(tensor))}"
        for name, tensor in sorted(state.items())
        if name in content.tensors and content.tensors[name].shape != tuple(logical_shape(tensor))
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


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """What `model.state_dict` would name, which refuses where parameters are pieces."""
    if all(span_of(p) is None for p in model.parameters()):
        return dict(model.state_dict(keep_vars=True))
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and name not in module._non_persistent_buffers_set:
                found[f"{prefix}.{name}" if prefix else name] = tensor
    return found


def _marked_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Mark a value that has an element for each of a parameter's as the piece that the parameter is."""
    span = span_of(parameter)
    if span is not None and value.shape == parameter.shape:
        mark(value, span)
    return value
