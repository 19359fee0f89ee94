"""ZeRO stages 1 to 3 on flat shards (Rajbhandari et al. 2020, arXiv 1910.02054), for any module.

A unit is a block of the model, or the rest of it. Between steps a rank holds its part of each unit's flat row
in fp32: the pieces, which are the model's parameters as optimizers see them. Around computation the whole
parameters stand in their place:

- stage 1: gathered in the forward, kept to the end of the step's last backward; gradients add up whole and
  are reduced once.
- stage 2: gathered alike; gradients are reduced after each backward, and only the part of a rank is kept.
- stage 3: also parameters are gathered unit by unit, and freed after use in the forward and in the backward.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mainspring.comm import Counter
from mainspring.nn.part import Carried
from mainspring.nn.span import Cut, mark, mark_cut
from mainspring.optim.pages import trim, zeros
from mainspring.parallel.broadcast import broadcast_tensors
from mainspring.parallel.mesh import copies_of
from mainspring.parallel.plan import Plan
from mainspring.parallel.precision import COMPUTE, Autocast, Precision
from mainspring.parallel.strategy import Strategy, on_meta
from mainspring.parallel.zero.gather import Gatherer, free_rows
from mainspring.parallel.zero.gradients import plain
from mainspring.parallel.zero.nested import map_tensors, tensors_of
from mainspring.parallel.zero.optimizers import cast_gradients, watch_steps
from mainspring.parallel.zero.placement import Placement, Resident, Shard
from mainspring.parallel.zero.reduce import Reducer
from mainspring.parallel.zero.scale import LossScaler
from mainspring.parallel.zero.state import guard
from mainspring.parallel.zero.unit import (
    Row,
    Sharers,
    Slot,
    Unit,
    find_units,
    give_pieces,
    put,
    trainable_rows,
)


class Flat(Strategy):
    """A model whose states are flat shards over the ranks of `group`.

    Args:
        model: any module, with storage or on meta.
        plan: its stage is `plan.zero` (1 where that is 0: an offloading plan of one rank).
        group: the ranks; None for one process.
        counter: told the traffic.
        precision: of forward and backward; masters are fp32.
        reduce: how gradients of ranks are joined.
        expert_group: the ranks that hold the same experts, where experts are spread over ranks.
        tensor_group: the ranks that hold the other parts of the model's layers, where these are cut.
        placement: where masters live.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        group: dist.ProcessGroup | None,
        counter: Counter,
        *,
        precision: Precision,
        reduce: Literal["mean", "sum"],
        expert_group: dist.ProcessGroup | None = None,
        tensor_group: dist.ProcessGroup | None = None,
        placement: Placement | None = None,
    ) -> None:
        super().__init__(model, plan, group, counter)
        self.rank = dist.get_rank(group) if group is not None else 0
        self.world = dist.get_world_size(group) if group is not None else 1
        self.placement = Resident() if placement is None else placement
        self.precision = precision
        # A rank's experts have seen the rows of all ranks that have the others: of a mean, its share.
        factor = 1 / plan.expert if reduce == "mean" else 1.0
        sharers = {"replicas": Sharers.of(group)}
        if plan.expert > 1:
            sharers["expert_replicas"] = Sharers.of(expert_group, factor)
        self.units = find_units(model, lambda p: sharers[copies_of(p)], precision)
        self._lower = COMPUTE[precision] if precision != "fp32" else None
        self._stage = max(plan.zero, 1)
        self.reduce = reduce
        self._sync = True
        self._in_backward = False
        self._task = -1
        self._entered: Unit | None = None
        self._gatherer = Gatherer(self.units, self.placement, counter, again=self._stage == 3)
        rows = trainable_rows(self.units)
        self.scaler = LossScaler() if precision == "fp16" else None
        self._reducer = Reducer(
            rows, group, reduce, self.placement, counter, self.scaler, tensor_group, strategy=self
        )
        self.handles: list[Any] = []
        if on_meta(model.parameters()):
            for row in self.rows:
                self._give(row, torch.empty(row.layout.part, dtype=row.shard.dtype, device="meta"))
        else:
            broadcast_tensors(model.buffers(), name="start", group=group, counter=counter)
            self._cut()
        if precision != "fp32" and any(b.is_floating_point() for b in model.buffers()):
            Autocast(model, COMPUTE[precision])  # so that fp32 buffers may meet 16-bit activations
        self._hook()
        guard(self)
        watch_steps(self)

    # What the rest of the package asks

    @property
    def rows(self) -> list[Row]:
        """The rows of all units, in their order."""
        return [row for unit in self.units for row in unit.rows]

    @property
    def shards(self) -> list[Shard]:
        """This rank's shards, in the order of units."""
        return [row.shard for row in self.rows]

    @property
    def trainable(self) -> list[Row]:
        """Rows that bring gradients, in the order of their reduction."""
        return [row for _, row in self._reducer.rows]

    def own_gradient(self, row: Row) -> Tensor | None:
        """This rank's gradient of a whole row [padded] where it is `local`; None where there is none."""
        return self._reducer.own_sum(row)

    def own_gradients(self) -> list[tuple[Cut | None, Tensor]]:
        sums = [(row, self._reducer.own_sum(row)) for row in self.trainable]
        return [(slot.cut, row.view(s, slot)) for row, s in sums if s is not None for slot in row.slots]

    def no_sync(self) -> AbstractContextManager[None]:
        return nullcontext() if self._stage == 3 else self._quiet()

    def agree(self, stages: dist.ProcessGroup) -> None:
        if self.scaler is not None:
            self.scaler.agree(stages, self.counter, self.rows[0].device)

    def settle(self) -> None:
        for unit in self.units:
            self._close(unit)
        for shard in self.shards:
            shard.copied = False
        self.placement.settle()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        before, self._sync = self._sync, False
        try:
            yield
        finally:
            self._sync = before

    def before_step(self, shards: list[Shard], optimizer: torch.optim.Optimizer) -> None:
        """An optimizer is about to step pieces of these shards."""
        self._gatherer.settle()
        for shard in shards:
            shard.copied = False
            for piece in shard.pieces:
                piece.grad = None if piece.grad is None else plain(piece.grad)
        if self.scaler is not None and not self.scaler.stepping():
            for shard in shards:
                for piece in shard.pieces:
                    piece.grad = None
        self.placement.before_step(shards, optimizer)
        if not getattr(optimizer, "takes_low_gradients", False):
            cast_gradients(shards)

    def after_step(self, shards: list[Shard], optimizer: torch.optim.Optimizer) -> None:
        """It has: what is gathered is stale."""
        self.placement.after_step(shards, optimizer)
        if self.local:
            self._reducer.abandon()  # they have been used
        for unit in self.units:
            if unit.ready:
                self._close(unit)

    # Storage

    @torch.no_grad()
    def _cut(self) -> None:
        """Cut whole parameters into pieces, unit by unit; rank 0's values are everyone's."""
        for row in self.rows:
            self._keep_own(row, torch.zeros(row.layout.padded, dtype=row.shard.dtype, device=row.device))
            self._ready(row)

    def _keep_own(self, row: Row, whole: Tensor) -> None:
        """Join what the model has in place of a row's parameters in `whole` [padded], and keep this rank's
        part of rank 0's."""
        for slot in row.slots:
            module, leaf = slot.places[0]
            parameter = module._parameters[leaf]
            assert parameter is not None
            row.view(whole, slot).copy_(parameter)
        if row.sharers.world > 1:
            broadcast_tensors([whole], name="start", group=row.sharers.group, counter=self.counter)
        self._give(row, row.own(whole).clone())

    def materialize(
        self, device: torch.device | str, init: Callable[[nn.Module], None], *, equal: bool, whole: bool
    ) -> None:
        device = torch.device(device)
        for module in self.model.modules():
            for leaf, buffer in module._buffers.items():
                if buffer is not None and buffer.is_meta:
                    module._buffers[leaf] = torch.empty_like(buffer, device=device)
        resident = self.placement.resident
        with torch.no_grad():
            for unit in self.units:
                for row in unit.rows:
                    row.device = row.shard.device = device
                    if whole:
                        self._fill_whole(row, init)
                    else:
                        self._give(row, zeros(row.layout.part, row.shard.dtype, device))
                    if not (resident or whole):
                        init(self.model)  # the rest is on meta, where nothing happens
                        self._ready(row)
                        self._stand_in(row)
            if whole:
                for module in self.model.modules():
                    if not any(True for _ in module.parameters(recurse=False)):
                        init(module)
            elif resident:
                init(self.model)
        for row in self.rows:
            if resident or whole:
                self._ready(row)
            else:
                for slot in row.slots:
                    for module, leaf in slot.places:
                        put(module, leaf, slot.piece)
        broadcast_tensors(self.model.buffers(), name="start", group=self.group, counter=self.counter)

    def _fill_whole(self, row: Row, init: Callable[[nn.Module], None]) -> None:
        """Run `init` on the modules of a row with whole parameters, and keep this rank's part."""
        whole = torch.zeros(row.layout.padded, dtype=row.shard.dtype, device=row.device)
        modules = []
        for slot in row.slots:
            for module, leaf in slot.places:
                put(module, leaf, nn.Parameter(row.view(whole, slot), requires_grad=False))
                modules.append(module)
        for module in dict.fromkeys(modules):
            init(module)
        self._keep_own(row, whole)  # an init may have set another tensor in place of the one it was given

    def _stand_in(self, row: Row) -> None:
        """Show pieces on meta in place of those that are done."""
        for slot, span in zip(row.slots, row.shard.spans, strict=True):
            piece = nn.Parameter(torch.empty(span.numel, device="meta"), requires_grad=False)
            mark(mark_cut(piece, slot.cut), span)
            for module, leaf in slot.places:
                put(module, leaf, piece)

    def _give(self, row: Row, flat: Tensor) -> None:
        give_pieces(row, flat)

    def _ready(self, row: Row) -> None:
        """A row has its values."""
        self._arm(row)
        self.placement.adopt(row.shard)

    def _arm(self, row: Row) -> None:
        """Make the whole parameters, without memory yet, and listen to their gradients."""
        row.region = None
        row.open()
        for slot in row.slots:
            full: Any = slot.full
            if full.dtype.is_floating_point or full.dtype.is_complex:
                full.requires_grad_(True)  # a hook wants it; `show` sets what the piece says
                full.register_post_accumulate_grad_hook(self._listener(row, slot))

    def _listener(self, row: Row, slot: Slot) -> Any:
        # Weakly: Python's collector does not see through these hooks, so what they hold would never go.
        seen, of_row, of_slot = weakref.ref(self), weakref.ref(row), weakref.ref(slot)

        def arrived(_: Tensor) -> None:
            engine, row, slot = seen(), of_row(), of_slot()
            assert engine is not None and row is not None and slot is not None
            engine._begin()
            engine._reducer.arrive(row, slot, torch._C._current_graph_task_id() != engine._task)

        return arrived

    # Hooks

    def _hook(self) -> None:
        self.handles += [
            self.model.register_forward_pre_hook(self._before_model, prepend=True, with_kwargs=True),
            self.model.register_forward_hook(self._after_model, always_call=True),
        ]
        for unit in self.units[1:]:
            before, after = self._around(unit)
            self.handles.append(unit.module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            self.handles.append(unit.module.register_forward_hook(after, with_kwargs=True))

    def _around(self, unit: Unit) -> tuple[Any, Any]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if module is not unit.module:
                return None
            self._open(unit)
            if not self._in_backward:
                self._gatherer.prefetch()
            return None if self._lower is None else self._cast(args, kwargs)

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if module is not unit.module:
                return
            if self._stage == 3 and torch._C._current_graph_task_id() == -1:
                self._close(unit)
            # What only passes through is another's output: T5's blocks hand on the first one's position bias.
            self._watch(unit, output, {id(tensor) for tensor in tensors_of((args, kwargs))})

        return before, after

    def _before_model(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if module is not self.model:
            return None
        root, *blocks = self.units
        if torch._C._current_graph_task_id() == -1:
            if self._in_backward:  # an error ended it
                self._reducer.abandon()
                self._in_backward = False
                self.settle()
            if not all(unit.ready for unit in (self.units if self._stage < 3 else [root])):
                self._gatherer.begin(self.units, "forward")
            elif self._stage == 3:
                self._gatherer.begin(blocks, "forward")
        self._open(root)
        self._gatherer.prefetch()
        return None if self._lower is None else self._cast(args, kwargs, deep=True)

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> Any:
        if module is not self.model or torch._C._current_graph_task_id() != -1:
            return None
        ends = not isinstance(output, Carried)
        if self.scaler is not None and ends:
            # A loss in fp32 has gradients that fp16 would lose before they are scaled.
            output = map_tensors(lambda t: t.float() if t.dtype == torch.float16 else t, output)
        watched = self._watch(self.units[0], output, scaled=ends)
        self._gatherer.end(self._discard, last=not watched)
        if not watched:
            for unit in self.units:
                self._close(unit)
        elif self._stage == 3:
            trim()  # memory is highest where backward begins: what the forward left free should not count
        return output

    def _cast(self, args: Any, kwargs: Any, deep: bool = False) -> Any:
        """Floating-point inputs in the dtype of computation."""
        lower = self._lower
        assert lower is not None

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(lower) if tensor.is_floating_point() else tensor

        if deep:
            # What another stage of a pipeline computed has its dtypes.
            rest = {k: v if isinstance(v, Carried) else map_tensors(cast, v) for k, v in kwargs.items()}
            return map_tensors(cast, args), rest
        flat = tuple(cast(a) if isinstance(a, Tensor) else a for a in args)
        return flat, {k: cast(v) if isinstance(v, Tensor) else v for k, v in kwargs.items()}

    def _watch(self, unit: Unit, output: Any, passed: Collection[int] = (), *, scaled: bool = False) -> bool:
        """Have `_enter` called when backward reaches the output of `unit`; False where it never will.

        With `scaled` the model ends here: what a stage of a pipeline hands on has its gradient scaled
        already.
        """
        if not torch.is_grad_enabled():
            return False
        found = False
        for tensor in tensors_of(output):
            if tensor.requires_grad and id(tensor) not in passed:
                any_tensor: Any = tensor  # torch leaves the type of hooks out
                any_tensor.register_hook(lambda gradient: self._enter(unit, gradient, scaled))
                found = True
        return found

    # Gathered parameters

    def _open(self, unit: Unit) -> None:
        for other in self._gatherer.need(unit):
            self._discard(other)
        if not unit.shown:
            unit.show()

    def _discard(self, unit: Unit) -> None:
        """What a rank had to gather for others: stages 1 and 2 keep it, for its turn may come."""
        if self._stage == 3 and not unit.shown:
            free_rows(unit)

    def _close(self, unit: Unit) -> None:
        if unit.shown:
            unit.hide()
        free_rows(unit)

    # Backward

    def _enter(self, unit: Unit, gradient: Tensor, scaled: bool) -> Tensor | None:
        """Backward has reached the output of `unit`; returns the gradient if it is to be another."""
        self._begin()
        self._make_ready(unit)
        return gradient * self.scaler.scale if self.scaler is not None and scaled else None

    def _make_ready(self, unit: Unit) -> None:
        """Gather what the backward of `unit` needs, and free what the one before it needed."""
        if self._stage < 3:
            for one in self.units:
                self._open(one)
            return
        # Backward goes through modules in the reverse order of the forward: what it entered before is done.
        before, self._entered = self._entered, unit if unit.index else self._entered
        if before is None and unit.index:
            trim()  # of the gradients of the loss
        if before is not None and before is not unit and unit.index:
            self._close(before)
        self._open(unit)
        if unit.index:
            self._gatherer.prefetch()

    def _begin(self) -> None:
        if self._in_backward:
            return
        self._in_backward = True
        self._task = torch._C._current_graph_task_id()
        torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        if self.scaler is not None:
            self.scaler.begin()
        self.begin()
        if self.local:
            self._reducer.forget_stepped()
        self._reducer.begin(send=(self._sync or self._stage > 1) and not self.local)
        root, *blocks = self.units
        if self._stage == 3:
            missing = [] if root.ready else [root]
            self._gatherer.begin([*missing, *reversed(blocks)], "backward")
        elif not all(unit.ready for unit in self.units):
            self._gatherer.begin(self.units, "backward")

    def _finish(self) -> None:
        """At the end of backward."""
        self._gatherer.end(self._discard)
        self._entered = None
        if self._sync or self._stage == 3:
            for unit in self.units:
                self._close(unit)
        self._reducer.finish(show=self.local)
        self._in_backward = False
