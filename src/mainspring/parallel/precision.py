"""Computation in 16 bits over fp32 master weights, with the user's loop left alone."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16", "fp16"]

COMPUTE: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What forward and backward compute in."""


class Autocast:
    """Hooks that run a module's forward under autocast to `dtype`."""

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
        self._dtype = dtype
        self._entered: list[torch.autocast] = []
        model.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True)
        # always_call: autocast must end also where the forward raises.
        model.register_forward_hook(self._leave, always_call=True)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parameter = next(module.parameters(), None)
        context = torch.autocast("cpu" if parameter is None else parameter.device.type, self._dtype)
        context.__enter__()  # type: ignore[no-untyped-call]
        self._entered.append(context)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._entered:
            self._entered.pop().__exit__(None, None, None)
