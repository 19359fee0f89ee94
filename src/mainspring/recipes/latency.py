"""Measured time of each layer's products in each format: a cost for choosing formats within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from mainspring.compress import linears
from mainspring.compress.linears import layer_of
from mainspring.errors import UsageError, suggest
from mainspring.infer.quantized import PRECISIONS, Kernels, precision_named
from mainspring.nn.linear import linear
from mainspring.nn.transformer import Transformer

RUN_AS: Mapping[str, str] = MappingProxyType(
    {
        "int8": "int8",
        "int4-g64": "int4",
        **{name: name for name in PRECISIONS if name.startswith(("msfp", "mx"))},
    }
)
"""Formats that an engine multiplies in, and what it calls them."""


class Milliseconds:
    """Time of a layer's products, in any format that an engine multiplies in; `sensitivities` takes it as a
    cost.

    Args:
        model: whose layers.
        rows: tokens that are multiplied at once.
        kernels: what multiplies.
        rounds: the least of so many times counts.
    """

    def __init__(self, model: Transformer, rows: int, kernels: Kernels, *, rounds: int = 5) -> None:
        self._shapes: dict[str, list[tuple[int, int]]] = {}
        for name, module in linears(model).items():
            shape = module.out_features, module.in_features
            self._shapes.setdefault(layer_of(name), []).append(shape)
        self._rows, self._kernels, self._rounds = rows, kernels, rounds
        self._known: dict[tuple[int, int, str], float] = {}

    def __call__(self, layer: str, form: str, size: int) -> float:
        """Milliseconds of a layer's products in a format; its bytes do not matter.

        Raises:
            UsageError: nothing multiplies in this format.
        """
        if form != "fp32" and form not in RUN_AS:
            raise UsageError(
                f"format {form!r} is stored and not multiplied in, so that it has no time; "
                f"{suggest(form, RUN_AS)}"
            )
        return sum(self._product(outputs, inputs, form) for outputs, inputs in self._shapes[layer])

    def _product(self, outputs: int, inputs: int, form: str) -> float:
        key = outputs, inputs, form
        if key not in self._known:
            draw = torch.Generator().manual_seed(0)
            weight = torch.randn(outputs, inputs, generator=draw)
            x = torch.randn(self._rows, inputs, generator=draw)
            self._known[key] = self._least(self._layer(weight, form), x)
        return self._known[key]

    def _layer(self, weight: Tensor, form: str) -> Callable[[Tensor], Tensor]:
        make = None if form == "fp32" else precision_named(RUN_AS[form]).make
        return (lambda x: linear(x, weight)) if make is None else make(weight, None, self._kernels)

    @torch.inference_mode()
    def _least(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> float:
        times = []
        for _ in range(self._rounds + 1):  # the first warms up
            began = time.perf_counter()
            layer(x)
            times.append(time.perf_counter() - began)
        return 1e3 * min(times[1:])
