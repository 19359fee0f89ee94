"""Adam and its kin over long stretches of memory, with 16-bit gradients in and 16-bit weights out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.optim.compiled import compiled_update
from mainspring.optim.portable import step_all
from mainspring.optim.runs import Entry, merge
from mainspring.optim.states import allocate, computed_again, entry_of, parameters_of
from mainspring.optim.update import FORMULAS, RECTIFICATION, Kind, Rectification, numbers

COMPILE_FROM = 4 * 2**20
"""Elements from which a step is compiled where nothing was said. Beside the portable blocks that saves about
0.2 ns an element on one thread and 0.1 on two (Zen 5, 50 M elements): 0.4 to 0.8 ms a step from here on,
which pays for 1 s of compiling after some 2,000 steps."""
SHORT = 2**14
"""Elements below which a call of a compiled function costs more than it saves."""

Update = Callable[[], None]


class FlatAdam(torch.optim.Optimizer):
    """Adam's family in one pass over memory.

    Parameters that follow each other in memory, with their gradients, and share their settings are updated
    as one (a ZeRO shard is); their moments are laid out alike. It takes whole parameters, DTensors and the
    1-D pieces of sharded ones; gradients of the parameters' dtype or of 16 bits (`parameter.grad_dtype =
    None` lets one have them). States have torch's names: `step`, `exp_avg`, `exp_avg_sq`.

    Args:
        params: parameters or groups, as every torch optimizer takes them; `lr`, `betas`, `eps` and
            `weight_decay` may differ between groups and steps.
        lr: learning rate.
        betas: decay of the first and the second moment.
        eps: added to the square root of the second moment.
        weight_decay: of the weights themselves, or ("adam") added to gradients.
        kind: which of the family; the result is that of torch's `AdamW`, `Adam`, `RAdam` (with
            `decoupled_weight_decay`), `Adamax` (but for decay) to rounding.
        bias_correction: whether the moments, which begin at 0, are divided by the weight that gradients have
            in them; BERT's optimizer and XAdam do without.
        rectification: RAdam's choices.
        compiled: True compiles (1 s on a CPU, 5 to 9 s for a GPU), False never does; None where gradients
            or copies are in 16 bits and there are `COMPILE_FROM` elements or more, since else nothing is
            gained.
    """

    takes_low_gradients = True
    elementwise = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        kind: Kind = "adamw",
        bias_correction: bool = True,
        rectification: Rectification = RECTIFICATION,
        compiled: bool | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.kind: Kind = kind
        self.bias_correction, self.rectification = bias_correction, rectification
        self.compiled = compiled
        self.copies: dict[nn.Parameter, Tensor] = {}
        """Where to write the new weights of a parameter in another dtype as well, in the same pass."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, scale: float = 1.0) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: computes the loss again, as in torch.
            scale: factor of all gradients, which are left as they are: clipping without a pass of its own.
        """
        loss = computed_again(closure)
        self.prepare(scale=scale)()
        return loss

    @torch.no_grad()
    def prepare(self, *, scale: float = 1.0, only: Iterable[nn.Parameter] | None = None) -> Update:
        """The update with the gradients and settings of now, to be carried out once, perhaps in a thread.

        Args:
            scale: factor of all gradients.
            only: parameters to update; None for all.

        Until that is done, the parameters, their states and these gradients may not be changed, and no other
        update of them prepared.
        """
        chosen = None if only is None else {id(parameter) for parameter in only}
        groups = [
            (
                {key: value for key, value in group.items() if key != "params"},
                [p for p in group["params"] if p.grad is not None and (chosen is None or id(p) in chosen)],
            )
            for group in self.param_groups
        ]
        allocate(self.state, [parameter for _, parameters in groups for parameter in parameters])
        work: list[tuple[dict[str, Any], list[Entry]]] = []
        counts: list[Tensor] = []
        for settings, parameters in groups:
            entries = []
            for parameter in parameters:
                state = self.state[parameter]
                counts.append(state["step"])
                entry = entry_of(parameter, state, self.copies.get(parameter))
                if entry.p.numel():
                    entries.append(entry)
            work.append((settings, merge(entries)))
        total = sum(parameter.numel() for parameter in parameters_of(self))

        @torch.no_grad()
        def carry_out() -> None:
            for settings, entries in work:
                self._run(entries, settings, scale, total)
            if counts:
                torch._foreach_add_(counts, 1)

        return carry_out

    def _run(self, entries: list[Entry], settings: dict[str, Any], scale: float, total: int) -> None:
        alike: dict[Any, list[Entry]] = defaultdict(list)
        for entry in entries:
            alike[entry.kind].append(entry)
        lr, decay = float(settings["lr"]), float(settings["weight_decay"])
        for (device, dtype, gradient, out, step), same in alike.items():
            now = numbers(
                self.kind,
                step,
                lr=lr,
                betas=settings["betas"],
                eps=settings["eps"],
                weight_decay=decay,
                scale=scale,
                bias_correction=self.bias_correction,
                rectification=self.rectification,
            )
            lowered = gradient != dtype or out is not None
            wanted = lowered and total >= COMPILE_FROM if self.compiled is None else self.compiled
            long = [e for e in same if e.p.numel() >= SHORT] if wanted and dtype == torch.float32 else []
            kernel = compiled_update(FORMULAS[self.kind], device.type, gradient, out) if long else None
            if kernel is not None:
                h = now.as_tensor(device)
                for e in long:
                    kernel(e.p, e.m, e.v, e.g, e.out, h)
                same = [e for e in same if e.p.numel() < SHORT]
            if same:
                step_all(same, self.kind, now, lr, decay, self.bias_correction)
