"""A step through a pipeline: every rank runs the loss of every micro-batch, as far as its stages go.

A loss is a function of the model and a micro-batch that calls the model once. On a rank that has not the last
stage, the model hands what it computed to the next rank instead of coming back to the loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mainspring.comm import Counter
from mainspring.errors import PlanError
from mainspring.nn.part import Carried
from mainspring.parallel.pipedream.schedule import Op
from mainspring.parallel.pipeline.keep import Kept
from mainspring.parallel.pipeline.loans import Loans
from mainspring.parallel.pipeline.mail import Mail
from mainspring.parallel.pipeline.orders import make_schedule
from mainspring.parallel.pipeline.rounds import check_micro_batches
from mainspring.parallel.pipeline.stage import Stage
from mainspring.parallel.plan import Plan
from mainspring.parallel.zero.nested import tensors_of

if TYPE_CHECKING:
    from mainspring.parallel.strategy import Strategy

R = TypeVar("R")
Loss = Callable[[nn.Module, Any], Tensor]
"""Of a model and a micro-batch: a scalar to go backward from."""


class Done(NamedTuple):
    """An op that this rank has done."""

    op: Op
    start: float
    """Seconds on this rank's clock."""
    end: float


class Pipeline:
    """This rank's part in a pipeline.

    Args:
        model: of which it has its stages.
        kept: what it has.
        plan: with the schedule.
        group: the ranks of the pipeline.
        counter: told what is sent.
        strategy: how the states of its stages are spread.
    """

    def __init__(
        self,
        model: nn.Module,
        kept: Kept,
        plan: Plan,
        group: dist.ProcessGroup,
        counter: Counter,
        strategy: Strategy,
    ) -> None:
        self.model, self.kept, self.plan, self.group, self.counter = model, kept, plan, group, counter
        self.done: list[Done] = []
        """What the last step did, in this rank's order."""
        self._strategy, self._no_sync = strategy, strategy.no_sync
        self._through = _Through(self)
        self._schedules: dict[int, Any] = {}
        self._loss: Loss | None = None
        self._micro_batches: Sequence[Any] = ()
        self._left = 0
        self._now = 0, Carried()
        """The stage that computes, and what it takes up."""
        self._runs = 0
        """How often the loss under way has run the model."""
        model.register_forward_pre_hook(_refuse_whole, prepend=True, with_kwargs=True)

    def accumulate(self, micro_batches: Sequence[Any], loss: Loss) -> list[Tensor]:
        """Forward and backward of all micro-batches.

        Returns:
            Their losses on ranks that have the last stage, else [].
        """
        count = len(micro_batches)
        check_micro_batches(self.plan, count)
        self._begin(micro_batches, loss)
        if count not in self._schedules:
            stages = [Stage(self, number) for number in self.kept.mine]
            self._schedules[count] = make_schedule(self.plan, stages, count, _as_it_is)
        self._left = count * len(self.kept.mine)
        losses: list[Tensor] = []
        numbers = torch.arange(count)
        self._schedules[count].step(numbers, target=numbers, losses=losses, return_outputs=False)
        self.mail.settle()
        self._strategy.agree(self.group)
        return [value.detach() for value in losses]

    def measure(self, micro_batches: Sequence[Any], measure: Callable[[nn.Module, Any], R]) -> list[R]:
        """Forward alone, of one micro-batch after another, without gradients.

        Returns:
            What `measure` gave of each on ranks that have the last stage, else [].
        """
        results: list[R] = []

        def keep(model: nn.Module, micro_batch: Any) -> Tensor:
            results.append(measure(model, micro_batch))
            return torch.zeros(())

        self._begin(micro_batches, keep)
        stages = [Stage(self, number) for number in self.kept.mine]
        with torch.no_grad():
            for number in range(len(micro_batches)):
                for stage in stages:
                    self.mail.receive(stage.get_fwd_recv_ops(number))
                    stage.forward_one_chunk(number)
                    self.mail.send(stage.get_fwd_send_ops(number))
                    stage.clear_runtime_states()
        self.mail.settle()
        return results

    # What stages ask for

    def compute(self, stage: int, number: int, carried: Carried) -> list[Tensor | None]:
        """Run a stage on a micro-batch; of the last stage the loss, else what it hands on."""
        self.loans.borrow(stage)
        assert self._loss is not None
        self._now, self._runs = (stage, carried), 0
        handed: Carried | None = None
        value: Tensor | None = None
        try:
            value = self._loss(self._through, self._micro_batches[number])
        except _HandedOn as passed:
            handed = passed.carried
        if not self._runs:
            raise PlanError("the loss of a micro-batch did not run the model; in a pipeline it does so once")
        if number == 0:
            self.loans.lend(stage)
        if handed is None:
            return [value]
        if torch.is_grad_enabled() and number == len(self._micro_batches) - 1:
            return self.loans.join(stage, handed)
        return list(handed)

    def enter(self, *args: Any, **kwargs: Any) -> Any:
        """The loss runs the model."""
        self._runs += 1
        if self._runs > 1:
            raise PlanError(
                "the loss of a micro-batch runs the model more than once; in a pipeline it does so once: "
                "make a micro-batch of each run"
            )
        stage, carried = self._now
        part = self.kept.parts[stage]
        output = self.model(*args, part=part, carried=None if part.first else carried, **kwargs)
        if part.last:
            return output
        raise _HandedOn(output)

    def kind(self, number: int) -> Hashable:
        """What the shapes of all that a micro-batch becomes depend on."""
        shapes = tuple((tuple(t.shape), t.dtype) for t in tensors_of(self._micro_batches[number]))
        return shapes, torch.is_grad_enabled()

    def note(self, kind: Literal["F", "B", "W"], stage: int, number: int, began: float) -> None:
        """Keep what was done."""
        self.done.append(Done(Op(kind, number, stage), began, time.perf_counter()))

    def quiet(self) -> AbstractContextManager[None]:
        """The context of a backward that is not the step's last."""
        return self._no_sync()

    def syncing(self) -> AbstractContextManager[None]:
        """The context of the backward of a stage and micro-batch: the step's last reduces gradients."""
        self._left -= 1
        return self._no_sync() if self._left else nullcontext()

    def half_context(self) -> Callable[[bool], AbstractContextManager[None]]:
        """The contexts of the backwards that a second half is made of."""
        self._left -= 1
        final = self._left == 0
        return lambda last: nullcontext() if final and last else self._no_sync()

    def went_back(self, stage: int, number: int) -> None:
        """A stage's backward towards what it received and borrowed is over."""
        self.loans.collect()
        if number == len(self._micro_batches) - 1:
            self.loans.give_back(stage)

    def _begin(self, micro_batches: Sequence[Any], loss: Loss) -> None:
        parameter = next(self.model.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        if device != getattr(self, "device", None):
            self.device = device
            self.mail = Mail(self.group, self.counter, device)
            self.loans = Loans(self.kept, self.mail)
        self._micro_batches, self._loss = micro_batches, loss
        self.done = []
        self.loans.begin()


class _Through(nn.Module):
    """Stands for the whole model in a loss."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.__dict__["pipeline"] = pipeline

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run this rank's stage."""
        return self.__dict__["pipeline"].enter(*args, **kwargs)


class _HandedOn(Exception):
    """A stage before the last has computed: the rest of the loss is the last stage's."""

    def __init__(self, carried: Carried) -> None:
        super().__init__()
        self.carried = carried


def _refuse_whole(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    if "part" not in kwargs:
        raise PlanError(
            "this rank has some of the model's layers only: run it with parallel.accumulate or "
            "parallel.measure, which take it through all stages of the pipeline"
        )


def _as_it_is(output: Tensor, target: Any) -> Tensor:
    """A schedule's loss function: our last stage gives the loss already."""
    return output
