"""Post-training quantisation: a trained model's weight matrices in narrow formats, with calibration text.

Three methods. `rtn` rounds to the nearest, and needs no text. `smooth` first moves outlying inputs into the
weights, exactly (`compress.smooth`), for machines that narrow activations too. `gptq` rounds column by column
so that products with the text's inputs change least (`compress.gptq`). Each layer sees what the layers before
it give after they were narrowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mainspring.compress.calibrate import Seen, by_layer
from mainspring.compress.gptq import change_of, gptq, round_to_nearest
from mainspring.compress.linears import linears, tables
from mainspring.compress.smooth import smooth_layer
from mainspring.data.batch import TokenBatch
from mainspring.errors import UsageError, suggest
from mainspring.nn.block import Block
from mainspring.nn.transformer import Transformer
from mainspring.numerics import Encoded, Format

Method = Literal["rtn", "smooth", "gptq"]
"""How weights are rounded."""


@dataclass(frozen=True)
class Change:
    """What narrowing did to one matrix."""

    name: str
    format: str
    bytes_before: int
    bytes_after: int
    error: float
    """Squared change of its products with the inputs that were seen, over their squares; without text, of the
    weights over theirs."""


@dataclass
class Narrowed:
    """A model whose matrices are in narrow formats."""

    encoded: dict[str, Encoded] = field(default_factory=dict)
    """Bytes of each narrowed parameter, by its name."""
    formats: dict[str, str] = field(default_factory=dict)
    """Format of each."""
    input_scales: dict[str, float] = field(default_factory=dict)
    """Static scales of inputs, by the name of the map: max |x| / 127 over the text."""
    changes: list[Change] = field(default_factory=list)
    """What was done, in the order of computation."""


@torch.no_grad()
def quantize(
    model: Transformer,
    formats: Mapping[str, Format],
    *,
    method: Method = "rtn",
    batches: Sequence[TokenBatch] = (),
    strength: float = 0.5,
    activations: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Narrowed:
    """Narrow the matrices of a model in place: its parameters become the values that their bytes say.

    Args:
        model: in evaluation, in fp32, on the CPU.
        formats: of each parameter to narrow, by its name; `formats_for` makes them.
        method: how.
        batches: calibration text (`rtn` without `activations` needs none).
        strength: of a migration.
        activations: also find static scales of inputs.
        progress: is told layers done and their total.

    Raises:
        UsageError: there is no such method or parameter, or no text for a method that needs it.
    """
    if method not in get_args(Method):
        raise UsageError(f"method {method!r}: {suggest(method, get_args(Method))}")
    if not batches and (method != "rtn" or activations):
        raise UsageError(
            f"method {method!r} with activations = {activations} needs calibration text: give some, or round "
            "to the nearest (method rtn) without static scales of activations"
        )
    parameters = dict(model.named_parameters())
    if unknown := sorted(set(formats) - set(parameters)):
        raise UsageError(f"{unknown[0]}: no such parameter; {suggest(unknown[0], parameters)}")
    result = Narrowed()
    maps = linears(model)
    blocks = {id(block): name for name, block in model.named_modules() if isinstance(block, Block)}

    def change(number: int, seen: dict[str, Seen]) -> None:
        block = model.blocks()[number]
        prefix = blocks[id(block)] + "."
        if method == "smooth":
            inside = {name.removeprefix(prefix): one for name, one in seen.items()}
            assert isinstance(block, Block)
            for name, s in smooth_layer(block, inside, strength).items():
                one = seen[prefix + name]
                one.largest /= s
                one.hessian /= (s[:, None] * s[None, :]).double()
        for name in (n for n in maps if n.startswith(prefix)):
            if activations and name in seen:
                result.input_scales[name] = float(seen[name].largest.max()) / 127
            if name + ".weight" in formats:
                _narrow(result, name, maps[name], formats[name + ".weight"], seen.get(name), method)

    if batches:
        if len(model.config.stacks) > 1:
            raise UsageError(
                "calibration runs a single stack; of an encoder-decoder only method rtn is done, without text"
            )
        by_layer(model, batches, change, progress)
    else:
        for number in range(len(model.blocks())):
            change(number, {})
            progress(number + 1, len(model.blocks()))
    for name, table in tables(model).items():
        if name + ".weight" in formats:
            _narrow(result, name, table, formats[name + ".weight"], None, "rtn")
    return result


def formats_for(
    model: Transformer,
    form: Format,
    *,
    layers: Mapping[str, Format] | None = None,
    embeddings: Format | None = None,
) -> dict[str, Format]:
    """Formats of the parameters: one for all linear maps, others for the layers or maps named.

    Args:
        model: whose.
        form: of maps that nothing else is said of.
        layers: by the beginning of their names: "layers.0", "layers.3.attention".
        embeddings: of the tables of tokens (None: they stay).

    Raises:
        UsageError: a name begins no map's.
    """
    maps = linears(model)
    chosen = dict.fromkeys((f"{name}.weight" for name in maps), form)
    for start, other in (layers or {}).items():
        found = [name for name in maps if name == start or name.startswith(start + ".")]
        if not found:
            raise UsageError(f"{start}: no layer or linear map is called so; {suggest(start, maps)}")
        chosen |= dict.fromkeys((f"{name}.weight" for name in found), other)
    if embeddings is not None:
        chosen |= dict.fromkeys((f"{name}.weight" for name in tables(model)), embeddings)
    return chosen


def _narrow(
    result: Narrowed, name: str, module: nn.Module, form: Format, seen: Seen | None, method: Method
) -> None:
    """Narrow a module's weight, and note it."""
    weight: Tensor = module.get_parameter("weight")
    hessian = None if seen is None else seen.mean
    if method == "gptq" and hessian is not None:
        rounded = gptq(weight, hessian, form)
    else:
        rounded = round_to_nearest(weight, form, hessian)
    whole = change_of(torch.zeros_like(weight), weight, hessian).sum()
    error = float(rounded.error.sum() / whole.clamp(min=torch.finfo(torch.float64).tiny))
    key = f"{name}.weight"
    result.encoded[key], result.formats[key] = rounded.encoded, form.name
    result.changes.append(Change(key, form.name, weight.nbytes, rounded.encoded.nbytes, error))
    weight.copy_(rounded.values)
