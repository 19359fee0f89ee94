"""One optimizer step's gradients of a graph, over all ranks: one division by the global count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mainspring import comm, parallel
from mainspring.train.graph.data import GraphBatch
from mainspring.train.graph.losses import count_of, sum_of
from mainspring.train.graph.recipe import LossConfig
from mainspring.train.step import Outcome


class GraphStep:
    """Computes the gradients of a global batch.

    Args:
        model: spread by `parallel.apply(..., reduce="sum")`.
        config: the loss.
        output: which output it is of.
        clip: largest global gradient norm (0: any).
        device: where the model is.
    """

    def __init__(
        self, model: nn.Module, config: LossConfig, output: str, clip: float, device: torch.device
    ) -> None:
        self.model = model
        self._config = config
        self._output = output
        self._clip = clip
        self._device = device
        self._axes = parallel.axes_of(model)

    def gradients(self, micro_batches: Sequence[GraphBatch], stop: Callable[[], bool]) -> Outcome:
        """Fill the gradients from this rank's share of the batch; every rank has as many micro-batches."""
        count = max(self._count(micro_batches), 1)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        sum_ = sum_of(self._config)

        def loss(model: nn.Module, batch: GraphBatch) -> Tensor:
            here = batch.to(self._device)
            value = sum_(model(**here.inputs)[self._output], here.target)
            total.add_(value.detach().double())
            return value / count

        parallel.accumulate(self.model, micro_batches, loss)
        norm = parallel.clip_grad_norm(self.model, self._clip)
        packed = torch.stack([total / count, torch.full_like(total, float(stop()))])
        comm.all_reduce(packed, name="losses", counter=parallel.traffic(self.model))
        mean, stops = packed.tolist()
        return Outcome(mean, {self._config.kind: mean}, norm, stops > 0)

    def _count(self, micro_batches: Sequence[GraphBatch]) -> int:
        local = sum(count_of(self._config, batch.target) for batch in micro_batches)
        packed = torch.tensor([local], dtype=torch.int64, device=self._device)
        if (group := self._axes.group("replicas")) is not None:
            comm.all_reduce(packed, name="counts", group=group, counter=parallel.traffic(self.model))
        return int(packed)
