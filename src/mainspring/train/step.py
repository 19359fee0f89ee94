"""One optimizer step over all ranks: micro-batches, one division by the global count, one decision.

The loss is sum_k weight_k * total_k / count_k with the counts of the whole global batch, known before any
backward: how rows are spread over ranks and micro-batches does not change it. The losses travel in the same
small reduction in which the ranks agree whether to stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mainspring import comm, parallel
from mainspring.nn.config import ExpertLayers
from mainspring.objectives import Evolves, Loss, Objective, Views, passes, with_auxiliary
from mainspring.parallel.strategy import strategy_of


@dataclass(frozen=True)
class Outcome:
    """What a step gave; the same on every rank."""

    loss: float
    """Weighted sum of the mean losses."""
    losses: dict[str, float]
    """Mean of each loss."""
    grad_norm: float
    """Global norm of the gradients before clipping."""
    stop: bool
    """Whether some rank has been asked to stop."""

    @property
    def finite(self) -> bool:
        """Whether the gradients may be applied."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Step:
    """Computes the gradients of a global batch.

    Args:
        model: spread by `parallel.apply(..., reduce="sum")`.
        objective: what it is trained to do.
        clip: largest global gradient norm (0: any).
        device: where the model is.
        experts: the model's layers of experts, whose losses are added.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        clip: float,
        device: torch.device,
        experts: ExpertLayers | None = None,
    ) -> None:
        self.model = model
        self.objective = objective
        self._trained = with_auxiliary(objective, experts)
        self.clip = clip
        self.device = device
        self._axes = parallel.axes_of(model)

    def gradients(self, micro_batches: Sequence[Views], stop: Callable[[], bool]) -> Outcome:
        """Fill the gradients from this rank's share of the batch; every rank has as many micro-batches."""
        counts = self._global_counts(micro_batches)
        sums = self._backward(micro_batches, counts)
        norm = parallel.clip_grad_norm(self.model, self.clip)
        asked = torch.tensor(float(stop()), dtype=torch.float64, device=self.device)
        # Over all ranks, so that all of them decide alike: those of a tensor group have the same losses, and
        # of a pipeline's the last alone has any.
        none = torch.zeros_like(asked)
        shares = [weight * total / max(counts[name], 1) for name, (weight, total) in sums.items()]
        totals = [sums[name][1] if name in sums else none for name in counts]
        packed = torch.stack([*totals, sum(shares, none)]) / self._axes.size("tensor")
        packed = torch.cat([packed, asked[None]])
        comm.all_reduce(packed, name="losses", counter=parallel.traffic(self.model))
        *joined, loss, stops = packed.tolist()
        means = {name: total / max(counts[name], 1) for name, total in zip(counts, joined, strict=True)}
        return Outcome(loss, means, norm, stops > 0)

    def finish(self, applied: bool) -> None:
        """Let the objective's own state go on after an optimizer step, if it was `applied`."""
        if isinstance(self.objective, Evolves):
            parallel.settle(self.model)  # what was gathered for the forward is not what was stepped
            self.objective.after_step(self.model, self._gather, applied)

    def _gather(self, part: Tensor) -> Tensor:
        """Parts [n, ...] of all data ranks, joined in their order; n may differ from rank to rank."""
        if self._axes.group("data") is None:
            return part
        lengths = self._gather_equal(torch.tensor([len(part)], device=part.device)).tolist()
        longest = part.new_zeros(max(lengths), *part.shape[1:])
        longest[: len(part)] = part
        whole = torch.split(self._gather_equal(longest), max(lengths))
        return torch.cat([rows[:length] for rows, length in zip(whole, lengths, strict=True)])

    def _gather_equal(self, part: Tensor) -> Tensor:
        shape = (self._axes.size("data") * part.shape[0], *part.shape[1:])
        whole = torch.empty(shape, dtype=part.dtype, device=part.device)
        group, counter = self._axes.group("data"), parallel.traffic(self.model)
        for work in comm.all_gather(whole, part.contiguous(), name="objective", group=group, counter=counter):
            work.wait()
        return whole

    def rerun(self, micro_batches: Sequence[Views]) -> Callable[[], None]:
        """Forward and backward once more, for a diagnosis."""

        def run() -> None:
            self._backward(micro_batches, self._global_counts(micro_batches))

        return run

    def _global_counts(self, micro_batches: Sequence[Views]) -> dict[str, int]:
        local: dict[str, int] = {}
        for views in micro_batches:
            for name, count in self._trained.counts(views).items():
                local[name] = local.get(name, 0) + count
        names = sorted(local)
        packed = torch.tensor([local[n] for n in names], dtype=torch.int64, device=self.device)
        if (group := self._axes.group("replicas")) is not None:
            comm.all_reduce(packed, name="counts", group=group, counter=parallel.traffic(self.model))
        return dict(zip(names, packed.tolist(), strict=True))

    def _backward(
        self, micro_batches: Sequence[Views], counts: dict[str, int]
    ) -> dict[str, tuple[float, Tensor]]:
        """Accumulate gradients; returns the weight of each loss and its sum on this rank (fp64)."""
        sums: dict[str, tuple[float, Tensor]] = {}
        runs: list[Callable[[], dict[str, Loss]]] = []
        staged = self._axes.size("pipeline") > 1

        def loss(model: nn.Module, run: tuple[Views, int]) -> Tensor:
            views, number = run
            if number == 0 or staged:  # stages take micro-batches in an order of their own
                runs[:] = self._passes(model, {k: v.to(self.device) for k, v in views.items()})
            losses = runs[number]()
            for name, one in losses.items():
                before = sums[name][1] if name in sums else 0.0
                sums[name] = one.weight, before + one.total.detach().double()
            parts = [one.total * (one.weight / max(counts[name], 1)) for name, one in losses.items()]
            return torch.stack(parts).sum()

        every = [(v, n) for v in micro_batches for n in range(len(self._passes(self.model, v)))]
        parallel.accumulate(self.model, every, loss)
        return sums

    def _passes(self, model: nn.Module, views: Views) -> Sequence[Callable[[], dict[str, Loss]]]:
        """What goes backward one after another.

        Under FSDP2's ZeRO 1 all goes at once, with the same gradients: where it adds up gradients without
        reducing them, it wants every unit to have been gathered before the first backward.
        """
        plan = strategy_of(self.model).plan
        if plan.zero == 1 and plan.backend == "fsdp2":
            return [lambda: self._trained.loss(model, views)]
        return passes(self._trained, model, views)
