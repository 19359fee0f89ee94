"""The host tier: fp32 masters, moments and the update on the host, while parameters are on the device.

Gradients go to the host shard by shard during backward; the host updates a shard while the new parameters of
the one before go back (Ren et al. 2021, arXiv 2101.06840). On a CPU device and host are one: the same code,
without copies.

With a delay, step t's update runs in a thread while step t + 1 computes with the parameters from before it:
`theta_{t+1} = Adam(theta_t, g(theta_{t-1}))` (section 5.2 there). What the model computes with is then a
copy that the update does not touch; it is made anew when the next step, or a checkpoint, has waited for the
update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mainspring.errors import PlanError
from mainspring.optim import FlatAdam
from mainspring.parallel.offload.copies import Copies, host_empty
from mainspring.parallel.zero.placement import Shard, added_up


@dataclass(eq=False)
class _Held:
    """What the host has of one shard beside its masters."""

    fresh: Tensor | None = None
    """[numel], host, dtype of computation: written by the optimizer with the masters. None: cast them."""
    shown: Tensor | None = None
    """[numel], device, dtype of computation: what the model computes with. None: `fresh`, or the masters."""


@dataclass(eq=False)
class _Pending:
    """Updates under way in the thread."""

    future: Future[None]
    stepped: dict[Shard, list[slice]] = field(default_factory=dict)
    """Where in each shard there will be new values."""


class HostPlacement:
    """Keeps masters and moments on the host and updates them there; a `parallel.zero.Placement`.

    Args:
        ratio: of all elements, the least part that is offloaded, in (0, 1]; the rest stays on the device. A
            shard goes as a whole.
        delay: steps before updates are delayed by one; None never delays. Counted by the optimizer's own
            `step`, so that a run that goes on from a checkpoint goes on alike. A delayed update uses up the
            gradients: they are None after the step.
    """

    resident = False

    def __init__(self, ratio: float = 1.0, delay: int | None = None) -> None:
        if not 0 < ratio <= 1:
            raise PlanError(f"offload_ratio = {ratio}: it should be above 0 and at most 1")
        if delay is not None and (delay < 0 or ratio < 1):
            raise PlanError(
                f"offload_delay = {delay} with offload_ratio = {ratio}: a delay is at least 0 and needs "
                "ratio 1, since what is on the device is updated in the step itself"
            )
        self.ratio, self.delay = ratio, delay
        self._held: dict[str, _Held] = {}
        self._shards: list[Shard] = []
        self._here: dict[str, bool] = {}
        self._sizes = [0, 0]
        self._copies = Copies()
        self._thread = ThreadPoolExecutor(1, "host update") if delay is not None else None
        self._pending: dict[int, _Pending] = {}
        self._kept: list[tuple[nn.Parameter, Tensor]] = []
        self._watched: set[int] = set()

    def offloads(self, shard: Shard) -> bool:
        """Whether this shard is on the host."""
        return self._here.get(shard.name, False)

    def adopt(self, shard: Shard) -> None:
        """Take the masters to the host, if the ratio says so, and show their values."""
        self.drain()
        if shard.name not in self._here:
            chosen = self._sizes[0] < self.ratio * (self._sizes[1] + shard.numel)
            self._here[shard.name] = chosen
            self._sizes[0] += shard.numel if chosen else 0
            self._sizes[1] += shard.numel
        if not self._here[shard.name]:
            return
        if shard.flat.device.type != "cpu":
            shard.attach(host_empty(shard.numel, shard.dtype, shard.device).copy_(shard.flat))
        if shard.name not in self._held:
            self._held[shard.name] = self._room(shard)
            self._shards.append(shard)
        self._show_all(shard)

    def before_gather(self, shard: Shard, out: Tensor) -> None:
        """Copy what the model computes with."""
        held = self._held.get(shard.name)
        if held is None:
            out.copy_(shard.flat)
            return
        self._copies.wait(held, host=False)
        source = held.shown if held.shown is not None else held.fresh
        out.copy_(shard.flat if source is None else source)

    def prefetch(self, shard: Shard) -> None:
        """What is shown is on the device already."""

    def keep(self, shard: Shard, gradient: Tensor, before: Tensor | None) -> Tensor:
        """Take the gradient to the host; a second is added there, in fp32."""
        if self.offloads(shard) and gradient.device.type != "cpu":
            there = host_empty(shard.numel, gradient.dtype, gradient.device)
            self._copies.start(there, gradient, gradient.device, there)
            if before is not None or torch._C._current_graph_task_id() == -1:
                self._copies.wait(there, host=True)
            else:  # whoever reads gradients does so after backward
                torch.autograd.Variable._execution_engine.queue_callback(self._copies.wait_all)
            gradient = there
        return added_up(gradient, before)

    def before_step(self, shards: Sequence[Shard], optimizer: torch.optim.Optimizer) -> None:
        """Update the shards on the host, one after the other, or start to; the rest is the optimizer's."""
        self._watch(optimizer)
        self._drain(optimizer)
        late = self.delay is not None and _steps(optimizer, shards) >= self.delay
        if not isinstance(optimizer, FlatAdam):
            if late:
                raise PlanError(
                    f"offload_delay wants an update that can run beside the computation and "
                    f"{type(optimizer).__name__} has none: use mainspring.optim.FlatAdam (optim.build makes "
                    "it), or leave offload_delay out"
                )
            return
        self._copies.wait_all()
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        work = []
        for shard in shards:
            stepped = [p for p in shard.pieces if id(p) in mine and p.grad is not None]
            if not self.offloads(shard) or not stepped:
                continue
            fresh = self._held[shard.name].fresh
            if fresh is not None:
                places = zip(shard.pieces, shard.places, strict=True)
                optimizer.copies.update((piece, fresh[place]) for piece, place in places)
            chosen = {id(p) for p in stepped}
            where = [s for p, s in zip(shard.pieces, shard.places, strict=True) if id(p) in chosen]
            work.append((shard, where, optimizer.prepare(only=stepped)))
            self._kept += [(p, p.grad) for p in stepped if p.grad is not None and not late]
            for piece in stepped:
                piece.grad = None
        if not late:
            for shard, where, update in work:
                update()
                self._show(shard, where)
            return

        def carry_out() -> None:
            for _, _, update in work:
                update()

        assert self._thread is not None
        pending = _Pending(self._thread.submit(carry_out), {shard: where for shard, where, _ in work})
        self._pending[id(optimizer)] = pending

    def after_step(self, shards: Sequence[Shard], optimizer: torch.optim.Optimizer) -> None:
        """Give pieces their gradients back; show what another optimizer than ours has made."""
        for piece, gradient in self._kept:
            piece.grad = gradient
        self._kept = []
        if not isinstance(optimizer, FlatAdam):
            for shard in shards:
                if self.offloads(shard):
                    self._show_all(shard)

    @contextmanager
    def opened(
        self, shard: Shard, optimizer: torch.optim.Optimizer | None = None, *, write: bool = True
    ) -> Iterator[None]:
        """Masters and states as of all updates so far, which the model computes with from now on."""
        self.drain()
        yield
        if write and self.offloads(shard):
            self._show_all(shard)

    def drain(self) -> None:
        """Wait for updates under way, and show their results."""
        while self._pending:
            self._finish(next(iter(self._pending)))
        self._copies.wait_all()

    def settle(self) -> None:
        """`drain`, and show the masters as they are: somebody may have changed them."""
        self.drain()
        for shard in self._shards:
            self._show_all(shard)

    def _drain(self, optimizer: torch.optim.Optimizer) -> None:
        if id(optimizer) in self._pending:
            self._finish(id(optimizer))

    def _finish(self, key: int) -> None:
        pending = self._pending.pop(key)
        pending.future.result()
        for shard, places in pending.stepped.items():
            self._show(shard, places)

    def _room(self, shard: Shard) -> _Held:
        apart = self.delay is not None or shard.device.type != "cpu"
        lowered = shard.compute_dtype != shard.dtype
        # Where nothing is cast and device and host are one, the masters themselves are shown.
        held = _Held()
        if lowered or self.delay is not None:
            held.fresh = host_empty(shard.numel, shard.compute_dtype, shard.device)
        if apart:
            held.shown = torch.empty(shard.numel, dtype=shard.compute_dtype, device=shard.device)
        return held

    def _show(self, shard: Shard, places: Sequence[slice]) -> None:
        """The optimizer has written `places` of the masters, and of `fresh`."""
        held = self._held[shard.name]
        if held.shown is None:
            return
        source = shard.flat if held.fresh is None else held.fresh
        if shard.device.type != "cpu":
            self._copies.start(held.shown, source, shard.device, held)  # in one piece: the rest is as it was
            return
        for place in places:
            held.shown[place] = source[place]

    @torch.no_grad()
    def _show_all(self, shard: Shard) -> None:
        """Show the masters as they are."""
        held = self._held[shard.name]
        if held.fresh is not None:
            held.fresh.copy_(shard.flat)
        if held.shown is not None:
            held.shown.copy_(shard.flat if held.fresh is None else held.fresh)

    def _watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Have `optimizer.state_dict()` wait for its update."""
        if id(optimizer) not in self._watched:
            self._watched.add(id(optimizer))
            optimizer.register_state_dict_pre_hook(lambda _: self.drain())


def _steps(optimizer: torch.optim.Optimizer, shards: Sequence[Shard]) -> int:
    """Updates that were made of these shards."""
    counts = [
        int(optimizer.state[piece]["step"])
        for shard in shards
        for piece in shard.pieces
        if piece in optimizer.state and "step" in optimizer.state[piece]
    ]
    return max(counts, default=0)
