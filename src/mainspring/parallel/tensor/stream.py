"""Modules on a stream that is cut over tokens: a rank's gradient of their parameters is of its tokens."""

from __future__ import annotations

from typing import Any

from torch import nn

from mainspring.parallel.tensor.ranks import Ranks


def put_on_stream(module: nn.Module, ranks: Ranks) -> None:
    """Have the gradients of a module's own parameters added up over ranks; names stay as they are."""
    module.forward = _Shared(module, ranks)


class _Shared:
    """Stands in for a module's `forward`."""

    def __init__(self, module: nn.Module, ranks: Ranks) -> None:
        self._module, self._ranks = module, ranks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self._module
        own = {name: p for name, p in module._parameters.items() if p is not None}
        module._parameters.update(zip(own, self._ranks.share(*own.values()), strict=True))
        try:
            return type(module).forward(module, *args, **kwargs)
        finally:
            module._parameters.update(own)
