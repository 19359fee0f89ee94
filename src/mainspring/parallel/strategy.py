"""What every way of spreading a model over ranks offers, and how a model remembers its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mainspring.comm import Counter
from mainspring.nn.span import Cut, cut_of, mark_cut
from mainspring.parallel.broadcast import broadcast_tensors
from mainspring.parallel.mesh import Axes, copies_of
from mainspring.parallel.plan import Plan
from mainspring.parallel.replicate import GradientReducer

if TYPE_CHECKING:
    from mainspring.parallel.pipeline.run import Pipeline

KEY = "_mainspring_strategy"
"""Where a model has its strategy, past `nn.Module.__setattr__`."""


class Strategy:
    """How one model is spread; this one: not at all (one process)."""

    def __init__(
        self, model: nn.Module, plan: Plan, group: dist.ProcessGroup | None, counter: Counter
    ) -> None:
        self.model, self.plan, self.group, self.counter = model, plan, group, counter
        self.axes: Axes | None = None
        """Where this rank stands in the plan's mesh; None of a model without a plan."""
        self.reduce: Literal["mean", "sum"] = "mean"
        """How gradients of ranks are joined."""
        self.reduces: Callable[[], bool] | None = None
        """Says whether the step that begins joins gradients; None where every one does."""
        self.local = False
        """Whether this step's gradients stay each rank's own."""
        self.pipeline: Pipeline | None = None
        """Its part in a pipeline; None where it has the whole model."""

    def no_sync(self) -> AbstractContextManager[None]:
        """A context for the backward passes of a step before its last."""
        return nullcontext()

    def materialize(
        self, device: torch.device | str, init: Callable[[nn.Module], None], *, equal: bool, whole: bool
    ) -> None:
        """Give the model storage and values: see `parallel.materialize`."""
        ties = _ties(self.model)
        cuts = {name: cut_of(p) for name, p in self.model.named_parameters(remove_duplicate=False)}
        self.model.to_empty(device=device)
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            mark_cut(parameter, cuts[name])
        for (owner, name), *others in ties:
            shared = owner._parameters[name]
            for module, other in others:
                module._parameters[other] = shared
        with torch.no_grad():
            if whole:
                self.model.apply(init)
            else:
                init(self.model)
        assert not on_meta([*self.model.parameters(), *self.model.buffers()])
        self.materialized(equal=equal)

    def materialized(self, *, equal: bool) -> None:
        """The model got storage; `equal` where every rank surely filled it with the same values."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Strategy:
        # A copy of a model (an average of weights, say) is a plain module; a process group cannot be copied.
        return self

    def agree(self, stages: dist.ProcessGroup) -> None:
        """All stages of a pipeline have gone backward: agree on what each found in its own gradients."""

    def own_gradients(self) -> list[tuple[Cut | None, Tensor]]:
        """This rank's gradients where they are `local`, each with the box of its parameter that it is of."""
        return [(cut_of(p), p.grad) for p in self.model.parameters() if p.grad is not None]

    def begin(self) -> None:
        """A step begins: ask whether its gradients are joined."""
        self.local = self.group is not None and self.reduces is not None and not self.reduces()

    def settle(self) -> None:
        """Drop gathered copies of parameters, so that a change of the shards is seen by the next forward."""


class Replicated(Strategy):
    """ZeRO stage 0: every rank holds all states and gradients are all-reduced."""

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        group: dist.ProcessGroup | None,
        counter: Counter,
        reduce: Any,
        expert_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(model, plan, group, counter)
        self.reduce = reduce
        self._groups = {"replicas": group, "expert_replicas": expert_group}
        self._reducers: list[GradientReducer] | None = None
        self._factors: list[Any] = []
        self._watched: list[tuple[nn.Parameter, bool]] = []
        if not on_meta(model.parameters()):
            self.materialized(equal=False)
        model.register_forward_pre_hook(self._before_forward)

    def materialized(self, *, equal: bool) -> None:
        for copies, group in self._groups.items():
            parameters = () if equal else self.model.parameters()
            tensors: list[Tensor] = [p for p in parameters if copies_of(p) == copies]
            if copies == "replicas":
                tensors += self.model.buffers()
            if group is not None:
                broadcast_tensors(tensors, name="start", group=group, counter=self.counter)
        self._attach()

    def no_sync(self) -> AbstractContextManager[None]:
        if self._reducers is None:
            self.materialized(equal=False)
        return self._quiet(self._reducers or [])

    @staticmethod
    @contextmanager
    def _quiet(reducers: list[GradientReducer]) -> Iterator[None]:
        with ExitStack() as together:
            for reducer in reducers:
                together.enter_context(reducer.no_sync())
            yield

    def _attach(self) -> None:
        for old in (*(self._reducers or ()), *self._factors):
            old.close() if isinstance(old, GradientReducer) else old.remove()
        self._watched = [(p, p.requires_grad) for p in self.model.parameters()]
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._reducers = []
        for copies, group in self._groups.items():
            some = {name: p for name, p in named.items() if copies_of(p) == copies}
            if some and group is not None:
                low = torch.bfloat16 if self.plan.gradient_dtype == "bf16" else None
                self._reducers.append(GradientReducer(some, group, self.reduce, self.counter, low=low))
        # A rank's experts have seen the rows of all ranks that have the others: of a mean, its share.
        factor = 1 / self.plan.expert if self.reduce == "mean" else 1.0
        spread: list[Any] = [p for p in named.values() if copies_of(p) == "expert_replicas"]
        self._factors = [p.register_hook(lambda g: g * factor) for p in spread if factor != 1.0]

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        # A forward inside a backward (recomputation of the whole model) belongs to the step under way.
        if not torch.is_grad_enabled() or torch._C._current_graph_task_id() != -1:
            return
        if self._reducers is None:
            self.materialized(equal=False)
        elif any(p.requires_grad is not was for p, was in self._watched):
            self._attach()  # a part was frozen or thawed
        else:
            for reducer in self._reducers:
                reducer.reset()
        self.begin()
        for reducer in self._reducers or ():
            reducer.local = self.local


def strategy_of(model: nn.Module) -> Strategy:
    """The strategy that `apply` gave to `model`; one of a single process where it gave none."""
    found = model.__dict__.get(KEY)
    return found if isinstance(found, Strategy) else Strategy(model, Plan(), None, Counter())


def remember(model: nn.Module, strategy: Strategy) -> None:
    """Tie `strategy` to `model`."""
    # Past nn.Module.__setattr__: a strategy is no submodule and no part of the state dict.
    model.__dict__[KEY] = strategy


def on_meta(tensors: Iterable[Tensor]) -> bool:
    """True where one of `tensors` has no storage yet."""
    return any((t.to_local() if isinstance(t, DTensor) else t).is_meta for t in tensors)


def _ties(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Places that share one parameter, for each parameter with more than one."""
    places: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places[id(parameter)].append((module, name))
    return [found for found in places.values() if len(found) > 1]
