"""A network beside the teacher that it learns from, as one module to train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch
from mainspring.nn.assign import assign
from mainspring.nn.config import TransformerConfig
from mainspring.nn.head import Columns
from mainspring.nn.transformer import Output, Transformer
from mainspring.objectives.around import AroundNetwork

TEACHER = "teacher."
"""Where the teacher's parameters stand in the names of the whole."""


class TaughtNetwork(AroundNetwork):
    """Both networks; each forward runs one of them. The teacher is frozen and drops nothing.

    Args:
        network: the student.
        teacher: configuration of the teacher.
        layer: the teacher's layer that is learnt from, counted from 1.
    """

    def __init__(self, network: Transformer, teacher: TransformerConfig, layer: int) -> None:
        super().__init__(network)
        self.teacher = Transformer(teacher).requires_grad_(False)
        self.teacher_layer = layer

    def forward(
        self,
        batch: TokenBatch,
        *,
        part: Literal["network", "teacher"] = "network",
        select: Tensor | None = None,
        columns: Columns = "all",
    ) -> Output:
        """Run one of the networks; what its layer projects is in the output."""
        if part == "network":
            last = self.network.config.n_layers - 1
            student: Output = self.network(batch, select=select, columns=columns, expose=(last,))
            return student
        with torch.no_grad():
            given: Output = self.teacher(batch, select=select, expose=(self.teacher_layer - 1,))
            return given

    def train(self, mode: bool = True) -> Self:
        """Set the student's mode; the teacher always evaluates."""
        super().train(mode)
        self.teacher.eval()
        return self

    def blocks(self) -> list[torch.nn.Module]:
        """The layers of both."""
        return [*self.teacher.blocks(), *self.network.blocks()]

    def teach(self, weights: Mapping[str, Tensor]) -> None:
        """Give the teacher its weights; every rank calls it, and keeps what part it has."""
        for name, parameter in self.teacher.named_parameters():
            assign(parameter, weights[name])
