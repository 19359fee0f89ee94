"""What the optimizers that send signs keep in flat buffers, and how that is saved and taken up again.

Once the variance is frozen, momenta of all parameters lie in one buffer, as `Replicas` deals it out, and the
states of parameters (`exp_avg`, ...) are views of it. A rank that steps a shard only (ZeRO 1) still has the
momenta of all, for they go into its next message.

What a rank owes (`comm.compressed`) is its own. `settle` puts it together into one vector that all ranks owe
in common, the state `error` of each parameter, and the run goes on from there as one that is taken up again
will, on however many ranks: nothing is dropped.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.optim.replicas import Compressed, Replicas, shaped
from mainspring.optim.states import parameters_of

Masks = Mapping[nn.Parameter, Tensor]
"""0 where a coordinate never moves, 1 elsewhere, of a parameter's shape (of a piece: of its elements)."""


class Buffers:
    """Momentum, mask and debts of one optimizer.

    Args:
        optimizer: whose states are kept in line with the buffers.
        replicas: the ranks.
        masks: coordinates that are held still, besides those that never had a gradient.
        compressed: what sends the buffer.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, replicas: Replicas, masks: Masks, compressed: Compressed
    ) -> None:
        self._optimizer, self._replicas, self._masks = optimizer, replicas, masks
        self.compressed = compressed
        device = parameters_of(optimizer)[0].device
        self.momentum = torch.zeros(replicas.total, device=device)
        """Of everything [total], equal on all ranks after a step."""
        self.mask: Tensor | None = None
        """uint8 [total], 0 where nothing moves; None where everything does."""
        self._flat: dict[str, Tensor] = {"exp_avg": self.momentum[replicas.own]}
        self._views: dict[tuple[nn.Parameter, str], Tensor] = {}

    def own(self, name: str) -> Tensor:
        """The state `name` of everything that is stepped here, flat [own]."""
        if name not in self._flat:
            self._flat[name] = torch.zeros_like(self.momentum[self._replicas.own])
        return self._flat[name]

    def view(self, name: str, parameter: nn.Parameter) -> Tensor:
        """A parameter's part of `own(name)`, flat."""
        return self.own(name)[self._replicas.place(parameter)]

    def adopt(self, names: tuple[str, ...], *, fresh: bool = False) -> bool:
        """Make the states `names` views of the buffers, with the values they have; True where they were not,
        since the variance has just been frozen or a checkpoint was loaded.

        Args:
            names: `exp_avg`, `exp_avg_sq` and what else has an element for each of a parameter.
            fresh: the variance has just been frozen: nothing is owed yet.
        """
        states = self._optimizer.state
        changed = False
        for parameter in parameters_of(self._optimizer):
            for name in names:
                here = states[parameter][name]
                # By object: a rank whose shard is empty has to notice, too.
                if here is self._views.get((parameter, name)):
                    continue
                there = shaped(self.view(name, parameter), parameter)
                there.copy_(here)
                states[parameter][name] = self._views[parameter, name] = there
                changed = True
        if changed or fresh:
            self._rebuild(fresh)
        for parameter in parameters_of(self._optimizer):
            states[parameter].pop("error", None)
        return changed

    def hold_still(self) -> None:
        """Set to 0 the momenta of what does not move: signs have none."""
        if self.mask is not None:
            self.momentum.mul_(self.mask)

    def widths(self) -> Tensor:
        """What makes a direction of a momentum, sqrt(v) + eps of everything [total]; every rank calls it."""
        return self._replicas.gather(self.own("exp_avg_sq").sqrt().add_(one_setting(self._optimizer, "eps")))

    def settle(self) -> None:
        """Owe in common, and show it as states; every rank calls it."""
        owed = self.compressed.share()[self._replicas.own]
        for parameter in parameters_of(self._optimizer):
            part = owed[self._replicas.place(parameter)]
            self._optimizer.state[parameter]["error"] = shaped(part, parameter)

    def _rebuild(self, fresh: bool) -> None:
        self.momentum.copy_(self._replicas.gather(self.own("exp_avg")))
        moves = torch.ones_like(self.own("exp_avg"), dtype=torch.uint8)
        for parameter in parameters_of(self._optimizer):
            part = moves[self._replicas.place(parameter)]
            part.copy_(self.view("exp_avg_sq", parameter) != 0)
            if parameter in self._masks:
                shaped(part, parameter).mul_(self._masks[parameter].to(part))
        moves = self._replicas.gather(moves)
        self.mask = None if bool(moves.all()) else moves
        self.compressed.reset()
        if not fresh:
            self._restore()

    def _restore(self) -> None:
        states = self._optimizer.state
        owed = torch.zeros_like(self.own("exp_avg"))
        missing = 0
        for parameter in parameters_of(self._optimizer):
            error = states[parameter].get("error")
            if error is None:
                missing += parameter.numel()
            else:
                part = owed[self._replicas.place(parameter)]
                shaped(part, parameter).copy_(error)
        if missing:
            warnings.warn(
                f"the states hold no `error` for {missing:,} elements: what ranks owed there when they were "
                "saved is dropped (DeepSpeed drops it always). Save with train.checkpoint, or call "
                "optimizer.settle() on every rank before optimizer.state_dict()",
                RuntimeWarning,
                stacklevel=2,
            )
        self.compressed.restore(owed)


def count(optimizer: torch.optim.Optimizer, key: str) -> int:
    """A number that the states of all parameters share: the most that one has."""
    return max(int(optimizer.state[p][key].item()) for p in parameters_of(optimizer))


def one_setting(optimizer: torch.optim.Optimizer, key: str) -> Any:
    """A setting that all groups have to share, since one buffer serves them.

    Raises:
        ValueError: they differ.
    """
    found = [group[key] for group in optimizer.param_groups]
    if any(value != found[0] for value in found):
        raise ValueError(f"groups differ in {key} ({found}): one buffer of momenta serves them all; give one")
    return found[0]
