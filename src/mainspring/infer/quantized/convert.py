"""Models with quantised layers: made from trained ones, as tensors for one file, and from such a file.

    model = quantize_model(model, "int8")
    safetensors.torch.save_file(packed_state(model), "int8.safetensors", packed_metadata(model))

and, with an untrained `model` that may lie on the meta device and tensors that may be a mapped file's:

    load_packed(model, tensors, metadata)

Nothing is converted or copied then: layers use the file's bytes as they are.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from mainspring.errors import WeightsError
from mainspring.infer.quantized.kernels import PORTABLE, Kernels
from mainspring.infer.quantized.linear import Int4Linear, Int8Linear, QuantizedLinear
from mainspring.infer.quantized.precision import precision_named
from mainspring.infer.quantized.table import QuantizedTable
from mainspring.nn.lookup import Table
from mainspring.nn.moe import list_experts

FEWEST_OUTPUTS = 16
"""Layers with fewer outputs (scores, classes) are small, and stay as they are."""
_KEY = "mainspring.precisions"
Model = TypeVar("Model", bound=nn.Module)


def quantize_model(
    model: Model, precision: str, *, kernels: Kernels = PORTABLE, by_name: Mapping[str, str] | None = None
) -> Model:
    """Replace a model's linear layers, those of its experts, and its table of tokens by quantised ones.

    Args:
        model: for inference; the module that goes in comes out.
        precision: a name of `PRECISIONS`.
        kernels: what multiplies.
        by_name: other precisions for modules by pattern of their names ("layers.0.*": "int8"); the first that
            matches counts.

    Returns:
        The model.

    Raises:
        ConfigError: there is no such precision.
    """
    chosen = precision_named(precision)
    list_experts(model)
    names = {name: precision for name, _ in _candidates(model)}
    for pattern, other in reversed(list((by_name or {}).items())):
        precision_named(other)
        names.update(dict.fromkeys(fnmatch.filter(names, pattern), other))
    model.to(chosen.dtype)
    return _replace(model, names, kernels)


def from_quantized(
    values: Tensor,
    scales: Tensor,
    bias: Tensor | None = None,
    *,
    bits: int = 8,
    group: int | None = None,
    kernels: Kernels = PORTABLE,
) -> QuantizedLinear:
    """A layer from integers that somebody else has chosen (`compress`).

    Args:
        values: int8 [N, K], within -127 to 127, or -8 to 7 for up to 4 bits.
        scales: [N] or [N, 1], or for up to 4 bits [N, ceil(K / group)].
        bias: [N], or none.
        bits: of a value, 2 to 8; up to 4 are stored in 4.
        group: columns that share a scale, a multiple of 64; None: whole rows.
        kernels: what multiplies.

    Raises:
        WeightsError: shapes do not fit, or values are out of range.
        UsageError: there is no kernel for such a group.
    """
    if bits <= 4:
        return Int4Linear.from_integers(values, scales, bias, kernels, group)
    if group is not None and group < values.shape[1]:
        raise WeightsError(
            f"groups of {group} with {bits} bits: only up to 4 bits go by groups; use group=None"
        )
    return Int8Linear.from_integers(values, scales, bias, kernels)


def set_quantized(model: nn.Module, name: str, layer: QuantizedLinear) -> None:
    """Put a layer (`from_quantized`) in the place of the linear layer or table of that name."""
    old = model.get_submodule(name)
    table = isinstance(old, nn.Embedding | QuantizedTable)
    model.set_submodule(name, QuantizedTable(layer) if table else layer)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantised layers of a model, by name (a table's is the table's name)."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    return {name.removesuffix(".rows"): layer for name, layer in layers.items()}


def packed_state(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a model as they are stored, each once; contiguous, as files want them."""
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def packed_metadata(model: nn.Module) -> dict[str, str]:
    """Which layers of `packed_state` are in which precision, as a file's metadata."""
    return {_KEY: json.dumps({name: layer.precision for name, layer in quantized_layers(model).items()})}


def load_packed(
    model: Model, state: Mapping[str, Tensor], metadata: Mapping[str, str], *, kernels: Kernels = PORTABLE
) -> Model:
    """Give a model, whose own parameters may lie on the meta device, what `packed_state` gave.

    Raises:
        WeightsError: the tensors do not fit the model.
    """
    if _KEY not in metadata:
        raise WeightsError(
            f"the file does not say which layers are quantised ({_KEY} is not in its metadata)"
        )
    list_experts(model)
    _replace(model, json.loads(metadata[_KEY]), kernels, empty=True)
    try:
        model.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        raise WeightsError(f"the packed tensors do not fit the model: {error}") from error
    return model.requires_grad_(False)


def use_kernels(model: nn.Module, kernels: Kernels) -> None:
    """Multiply with other kernels from now on."""
    for layer in quantized_layers(model).values():
        layer.kernels = kernels


def _candidates(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, Table)
        or (isinstance(module, nn.Linear) and module.out_features >= FEWEST_OUTPUTS)
    ]


@torch.no_grad()
def _replace(model: Model, names: Mapping[str, str], kernels: Kernels, *, empty: bool = False) -> Model:
    for name, precision in names.items():
        old, make = model.get_submodule(name), precision_named(precision).make
        if make is not None:
            assert isinstance(old, nn.Linear | nn.Embedding)
            bias = old.bias if isinstance(old, nn.Linear) else None
            weight = old.weight.to("meta") if empty else old.weight
            set_quantized(model, name, make(weight, bias, kernels))
    return model
