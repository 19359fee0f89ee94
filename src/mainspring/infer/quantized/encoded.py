"""Integers that `mainspring quantize` has chosen, multiplied as they are and not rounded anew."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mainspring.infer.quantized.convert import from_quantized, quantized_layers, set_quantized
from mainspring.infer.quantized.integers import BLOCK
from mainspring.infer.quantized.linear import QuantizedLinear
from mainspring.numerics import Encoded, Format, Integers


def keep_integers(model: nn.Module, encoded: Mapping[str, tuple[Encoded, Format]]) -> list[str]:
    """Give quantised layers the integers that their weights are stored in, where those are of a kind that the
    layers multiply; others keep what they were rounded to.

    Args:
        model: with quantised layers.
        encoded: bytes and formats by the names of parameters (`models.native.read_encoded`).

    Returns:
        Names of the layers that have them.
    """
    layers, kept = quantized_layers(model), []
    for name, (one, form) in encoded.items():
        layer = layers.get(name.removesuffix(".weight"))
        if layer is not None and isinstance(form, Integers) and one.dim == 1 and _suits(layer, form):
            values, scales = integers_of(one, form)
            new = from_quantized(
                values, scales, layer.bias, bits=form.element_bits, group=form.box, kernels=layer.kernels
            )
            set_quantized(model, name.removesuffix(".weight"), new)
            kept.append(name.removesuffix(".weight"))
    return kept


def integers_of(encoded: Encoded, form: Integers) -> tuple[Tensor, Tensor]:
    """A matrix's integers, int8 [N, K], and its scales, fp32 [N, groups of a row]."""
    ones = Encoded(encoded.codes, torch.ones_like(encoded.scales), encoded.shape, encoded.dim)
    return form.decode(ones).to(torch.int8), encoded.scales.float().view(encoded.shape[0], -1)


def _suits(layer: QuantizedLinear, form: Integers) -> bool:
    whole = form.box is None or form.box >= layer.in_features
    if layer.precision == "int4":
        return form.element_bits <= 4 and (whole or (form.box is not None and form.box % BLOCK == 0))
    return layer.precision == "int8" and form.element_bits > 4 and whole
