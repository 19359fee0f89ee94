"""A dynamic loss scale for fp16 (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2), out of sight.

Small gradients would be lost in fp16, so what flows back from the model's outputs is multiplied by a scale,
and reduced gradients are divided by it in fp32. The loop stays `loss.backward(); optimizer.step()`: a step
whose gradients overflowed changes nothing, and the scale is halved for the next.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mainspring import comm
from mainspring.errors import NonFiniteError

_log = logging.getLogger(__name__)


class LossScaler:
    """The scale of one model, the same on every rank.

    Args:
        scale: at first.
        growth_interval: steps in a row without overflow after which it is doubled.
    """

    def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.scale = scale
        """What gradients are multiplied by in backward."""
        self.growth_interval = growth_interval
        self.skipped = 0
        """Steps that changed nothing because a gradient overflowed."""
        self.culprit: str | None = None
        """The first parameter, in the order of backward, whose gradient overflowed in this step, if any."""
        self._good = 0
        self._stepped = False

    def begin(self) -> None:
        """A backward begins: if an optimizer has stepped since the last, choose the scale anew.

        Raises:
            NonFiniteError: there was an overflow at a scale of 1 already.
        """
        if not self._stepped:
            return
        self._stepped = False
        if self.culprit is None:
            self._good += 1
            if self._good >= self.growth_interval:
                self.scale, self._good = self.scale * 2, 0
            return
        said = f"the gradient of {self.culprit} overflowed fp16 at a loss scale of {self.scale:g}"
        if self.scale <= 1:
            raise NonFiniteError(
                f"{said}: no scale will help. The loss itself is not finite, or the model needs a range that "
                'fp16 has not: use precision = "bf16"'
            )
        self.skipped += 1
        self.scale, self._good, self.culprit = self.scale / 2, 0, None
        _log.warning("%s: the step was skipped, the scale is now %g", said, self.scale)

    def find(self, overflowed: Tensor, names: Sequence[str]) -> None:
        """Note the first of `names` that overflowed on some rank: [len(names)], above 0 where it did."""
        hits = torch.nonzero(overflowed)
        if len(hits) and self.culprit is None:
            name = names[int(hits[0])]
            module, _, leaf = name.rpartition(".")
            self.culprit = f"parameter {leaf!r} of module {module!r}"

    def agree(self, stages: dist.ProcessGroup, counter: comm.Counter, device: torch.device) -> None:
        """Take over what another stage of a pipeline found, the last stage's first: its backward is the
        first. Every rank of the pipeline calls it after a step's last backward."""
        found = torch.tensor(float(self.culprit is not None), device=device)
        comm.all_reduce(found, name="overflow", op="max", group=stages, counter=counter)
        if not found:
            return
        culprits: list[Any] = [None] * dist.get_world_size(stages)
        dist.all_gather_object(culprits, self.culprit, group=stages)
        self.culprit = next(one for one in reversed(culprits) if one is not None)

    def stepping(self) -> bool:
        """An optimizer is about to step; False where it may not."""
        self._stepped = True
        return self.culprit is None

    def state(self) -> dict[str, float | bool | str | None]:
        """What a checkpoint has to keep, as plain values."""
        return {"scale": self.scale, "good": self._good, "stepped": self._stepped, "culprit": self.culprit}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.scale, self._good = float(values["scale"]), int(values["good"])
        self._stepped, self.culprit = bool(values["stepped"]), values["culprit"]
