"""`nn.Sequential` as a model that runs in parts: each of its children is a block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from torch import nn

from mainspring.nn.costs import multiply_adds
from mainspring.nn.part import Carried, Part, RunsInParts


class InParts:
    """Stands in for the forward of a sequence of modules."""

    def __init__(self, model: nn.Sequential) -> None:
        self._model = model

    def __call__(self, x: Any, *, part: Part | None = None, carried: Carried | None = None) -> Any:
        """The output; of a part before the last, what the next takes up."""
        x = x if carried is None else carried.x
        start, stop = (0, None) if part is None else (part.start, part.stop)
        for block in islice(self._model, start, stop):
            x = block(x)
        return x if part is None or part.last else Carried(x)

    def blocks(self) -> list[nn.Module]:
        """The children."""
        return list(self._model)

    def outside(self, part: Part) -> list[nn.Module]:
        """Nothing."""
        return []

    def costs(self) -> Sequence[float]:
        """Multiply-adds of each child for a row; one without weights counts as one."""
        return [max(multiply_adds(block), 1.0) for block in self._model]


def run_in_parts(model: nn.Sequential) -> RunsInParts:
    """Teach a sequence of modules to run in parts, in place."""
    found = InParts(model)
    model.__dict__["forward"] = found
    return found
