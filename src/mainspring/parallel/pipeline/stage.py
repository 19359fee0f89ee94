"""A stage under PyTorch's pipeline schedules (`torch.distributed.pipelining`).

The schedules say when a stage receives, computes and sends; what it then does is ours. PyTorch's own stage
wants all micro-batches of one shape, passes by what listens to parameters in the second half of a split
backward, and knows none but PyTorch's ways of sharing states out over data ranks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage

from mainspring.nn.part import Carried
from mainspring.parallel.pipeline.halves import Half, backward_inputs
from mainspring.parallel.pipeline.mail import Sheet, Sheets, Tag, sheets_of

if TYPE_CHECKING:
    from mainspring.parallel.pipeline.run import Pipeline

ACTIVATIONS, GRADIENTS = "activations", "activation gradients"
"""Names of the traffic."""
PLACES = len(Carried._fields)

Tensors = Sequence[Tensor | None]


class Stage(PipelineStage):
    """One stage of this rank.

    Args:
        pipeline: whose stage it is.
        number: among all stages.
    """

    def __init__(self, pipeline: Pipeline, number: int) -> None:
        super().__init__(
            pipeline.model, number, len(pipeline.kept.parts), pipeline.device, group=pipeline.group
        )
        self._pipeline = pipeline
        self._ranks = dist.get_world_size(pipeline.group)
        self._inbox: dict[int, list[Tensor | None]] = {}
        self._returned: dict[int, list[Tensor | None]] = {}
        self._graphs: dict[int, tuple[list[Tensor | None], list[Tensor | None]]] = {}
        """What a micro-batch came in as and went out as, between its forward and its backward."""
        self._sheets: dict[int, Sheets] = {}
        """What comes back for what went out."""
        self._gradients: dict[int, list[Tensor | None]] = {}
        self._halves: dict[int, Half] = {}
        self._whole: set[int] = set()
        """Micro-batches whose second half is all of it."""

    # What a schedule asks for, in its words

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """What to start to receive a micro-batch from the stage before."""
        if self.is_first:
            return []
        mail, source = self._pipeline.mail, (self.stage_index - 1) % self._ranks
        sheets = mail.expect(Tag.FORWARD, self._key(self.stage_index, fwd_chunk_id), PLACES, source)
        ops, self._inbox[fwd_chunk_id] = mail.takes(Tag.FORWARD, sheets, source)
        for tensor, sheet in zip(self._inbox[fwd_chunk_id], sheets, strict=True):
            if tensor is not None and sheet is not None:
                tensor.requires_grad_(sheet.trained and torch.is_grad_enabled())
        return ops

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """What to start to send a micro-batch to the stage after."""
        if self.is_last:
            return []
        _, outputs = self._graphs[fwd_chunk_id]
        mail, to = self._pipeline.mail, (self.stage_index + 1) % self._ranks
        mail.describe(Tag.FORWARD, self._key(self.stage_index + 1, fwd_chunk_id), outputs, to)
        return mail.posts(ACTIVATIONS, Tag.FORWARD, outputs, to)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """What to start to receive the gradients of what was handed on."""
        if self.is_last:
            return []
        source, sheets = (self.stage_index + 1) % self._ranks, self._sheets.pop(bwd_chunk_id)
        ops, self._returned[bwd_chunk_id] = self._pipeline.mail.takes(Tag.BACKWARD, sheets, source)
        return ops

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """What to start to send the gradients of what was received."""
        if self.is_first:
            return []
        to, gradients = (self.stage_index - 1) % self._ranks, self._gradients.pop(bwd_chunk_id)
        return self._pipeline.mail.posts(GRADIENTS, Tag.BACKWARD, gradients, to)

    def forward_one_chunk(
        self, fwd_chunk_id: int, args: Any = (), kwargs: Any = None, save_forward_output: bool = True
    ) -> Any:
        """Compute a micro-batch; what is received is at hand."""
        received = self._inbox.pop(fwd_chunk_id, [None] * PLACES)
        began = time.perf_counter()
        outputs = self._pipeline.compute(self.stage_index, fwd_chunk_id, Carried(*received))
        self._note("F", fwd_chunk_id, began)
        self._graphs[fwd_chunk_id] = received, outputs
        self._sheets[fwd_chunk_id] = tuple(
            Sheet(s.shape, s.dtype, False) if s is not None and s.trained else None
            for s in sheets_of(outputs)
        )
        # The schedule keeps what it is given to the end of the step: the loss without its graph.
        return outputs[0].detach() if self.is_last and outputs[0] is not None else None

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        """Go backward, all the way or towards what was received alone."""
        received, outputs = self._graphs.pop(bwd_chunk_id)
        arrived = self._returned.pop(bwd_chunk_id, [None] * len(outputs))
        ends = [(t, g) for t, g in zip(outputs, arrived, strict=True) if t is not None and t.requires_grad]
        roots, gradients = [t for t, _ in ends], [g for _, g in ends]
        leaves = [t for t in received if t is not None and t.requires_grad]
        began = time.perf_counter()
        if full_backward:
            with self._pipeline.syncing():
                self._backward(roots, gradients)
        elif not leaves:
            # Nobody waits for gradients of this stage: it goes backward whole, later.
            self._halves[bwd_chunk_id] = lambda context: self._backward_in(context, roots, gradients)
            self._whole.add(bwd_chunk_id)
        else:
            inputs = [*leaves, *self._pipeline.loans.leaves()]
            with self._pipeline.quiet():
                self._halves[bwd_chunk_id] = backward_inputs(roots, gradients, inputs)
        self._gradients[bwd_chunk_id] = [
            (torch.zeros_like(t) if t.grad is None else t.grad) if t is not None and t.requires_grad else None
            for t in received
        ]
        self._note("B", bwd_chunk_id, began)
        if bwd_chunk_id not in self._whole:
            self._pipeline.went_back(self.stage_index, bwd_chunk_id)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        """The half that `backward_one_chunk` left."""
        began = time.perf_counter()
        self._halves.pop(bwd_chunk_id)(self._pipeline.half_context())
        self._note("W", bwd_chunk_id, began)
        if bwd_chunk_id in self._whole:
            self._whole.remove(bwd_chunk_id)
            self._pipeline.went_back(self.stage_index, bwd_chunk_id)

    def clear_runtime_states(self) -> None:
        """A step begins: forget one that an error ended."""
        for store in (self._inbox, self._returned, self._graphs, self._sheets, self._gradients, self._halves):
            store.clear()
        self._whole.clear()

    # What a schedule asks of PyTorch's stage to find shapes and reduce gradients, which goes without saying

    def _warmup_forward_vote(self, has_backward: bool, received_acc: Any = None) -> Tensor:
        return torch.ones(1, dtype=torch.int32)

    def _warmup_backward_result(self, received_result: Any = None) -> Tensor:
        return torch.ones(1, dtype=torch.int32)

    def _prepare_forward_infra(
        self, num_microbatches: int, args: Any, kwargs: Any = None, has_backward: bool = False
    ) -> None:
        self.args_recv_info = {0: ()}  # a schedule looks whether anything skips a stage: nothing does

    def _prepare_backward_infra(
        self,
        num_microbatches: int,
        loss_fn: Any = None,
        target: Any = None,
        received_grad_meta: Any = None,
        loss_kwargs: Any = None,
    ) -> None:
        return None

    # Ours

    def _key(self, stage: int, micro_batch: int) -> tuple[Literal["forward"], int, object]:
        return "forward", stage, self._pipeline.kind(micro_batch)

    def _note(self, kind: Literal["F", "B", "W"], micro_batch: int, began: float) -> None:
        self._pipeline.note(kind, self.stage_index, micro_batch, began)

    def _backward(self, roots: list[Tensor], gradients: list[Tensor | None]) -> None:
        if roots:
            torch.autograd.backward(roots, gradients)

    def _backward_in(self, context: Any, roots: list[Tensor], gradients: list[Tensor | None]) -> None:
        with context(True):
            self._backward(roots, gradients)
