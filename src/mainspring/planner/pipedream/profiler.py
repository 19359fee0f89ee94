"""Measure the parts of a model: seconds of both passes, bytes handed on, bytes of weights.

PipeDream (SOSP '19) section 3.1: the profile that the partitioner cuts. The parts are the blocks of the model
(`parallel.blocks.find_blocks`) with what precedes and what follows them as first and last node; of an
`nn.Sequential` they are its children.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mainspring.errors import PlanError
from mainspring.parallel.blocks import find_blocks
from mainspring.planner.pipedream.chain import Chain, Node
from mainspring.planner.processor import cpu_model

_FIRST, _LAST = "inputs", "head"


def profile(
    model: nn.Module, loss: Callable[[], Tensor], *, minibatches: int = 20, name: str = "", rows: int = 1
) -> Chain:
    """Measure the parts of a model on the device that it is on.

    Args:
        model: its gradients are used and left at None.
        loss: runs the model on a minibatch and gives a scalar; called again and again.
        minibatches: over how many the medians go; the paper takes about 1,000.
        name: of the model, for the file.
        rows: samples of the minibatch, for the file.

    Raises:
        PlanError: the model has fewer than two parts, or its parts do not follow one another.
    """
    chain = isinstance(model, nn.Sequential)
    parts = list(model.children()) if chain else find_blocks(model)
    if len(parts) < 2:
        raise PlanError(
            f"{type(model).__name__} has {len(parts)} parts and two are needed for a cut: give it a "
            "`blocks()` method, or make it an nn.Sequential"
        )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    seen = _Observed(parts, device)
    passes = []
    with seen.watching():
        before = seen.used_before(model, parts, loss)
        for _ in range(minibatches):
            passes.append(seen.minibatch(loss))
            model.zero_grad(set_to_none=True)
    forward = [median(p[0][i] for p in passes) for i in range(len(parts) + 2)]
    backward = [median(p[1][i] for p in passes) for i in range(len(parts) + 2)]
    inside = {id(p) for part in parts for p in part.parameters()}
    outside = [p for p in model.parameters() if id(p) not in inside]
    first = [p for p in outside if id(p) in before]
    weights = [
        _bytes(first),
        *(_bytes(part.parameters()) for part in parts),
        _bytes(p for p in outside if id(p) not in before),
    ]
    names = {id(module): label for label, module in model.named_modules()}
    labels = [_FIRST, *(f"{names.get(id(part)) or 'part'}: {type(part).__name__}" for part in parts), _LAST]
    nodes = [
        Node(name=n, forward=1e3 * f, backward=1e3 * b, activation_bytes=a, parameter_bytes=w)
        for n, f, b, a, w in zip(labels, forward, backward, seen.activations, weights, strict=True)
    ]
    if chain:  # nothing stands around the children but the loss
        nodes = [_joined(nodes[0], nodes[1], nodes[1].name), *nodes[2:-1]]
        tail = 1e3 * forward[-1], 1e3 * backward[-1]
        end = nodes[-1]
        nodes[-1] = end.model_copy(
            update={
                "forward": end.forward + tail[0],
                "backward": end.backward + tail[1],
                "activation_bytes": 0,
            }
        )
    where = cpu_model() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return Chain(model=name, device=where, rows=rows, minibatches=minibatches, nodes=tuple(nodes))


class _Observed:
    """Times at which a minibatch enters and leaves the parts, forward and backward."""

    def __init__(self, parts: list[nn.Module], device: torch.device) -> None:
        self._parts, self._device = parts, device
        many = len(parts)
        self._entered, self._left = [0.0] * many, [0.0] * many
        self._back = [0.0] * (many + 1)
        """When the gradient of a part's input, and of the last one's output, is there."""
        self.activations = [0] * (many + 2)
        self._order: list[int] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles: list[RemovableHandle] = []
        for i, part in enumerate(self._parts):
            handles.append(part.register_forward_pre_hook(self._enter(i), with_kwargs=True))
            handles.append(part.register_forward_hook(self._leave(i)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def used_before(self, model: nn.Module, parts: list[nn.Module], loss: Callable[[], Tensor]) -> set[int]:
        """Run once, for warming up: the parameters that are used before the first part, or by no module."""
        inside = {id(m) for part in parts for m in part.modules()}
        called: dict[int, bool] = {}

        def note(module: nn.Module, _: Any) -> None:
            called.setdefault(id(module), not self._order)

        around = [m for m in model.modules() if id(m) not in inside and m is not model]
        handles = [m.register_forward_pre_hook(note) for m in around]
        try:
            self.minibatch(loss)
            if self._order != list(range(len(parts))):
                raise PlanError(
                    f"the parts of {type(model).__name__} do not follow one another: a minibatch passes "
                    f"them in the order {self._order}"
                )
            self.minibatch(loss)
        finally:
            for handle in handles:
                handle.remove()
        own = (p for m in around if called.get(id(m), True) for p in m.parameters(recurse=False))
        return {id(p) for p in own} | {id(p) for p in model.parameters(recurse=False)}

    def minibatch(self, loss: Callable[[], Tensor]) -> tuple[list[float], list[float]]:
        """Seconds of the forward and the backward pass of each node."""
        self._order.clear()
        self._back = [0.0] * len(self._back)
        began = self._now()
        value = loss()
        ended = self._now()
        value.backward()  # type: ignore[no-untyped-call]
        finished = self._now()
        enter = [*self._entered, self._left[-1]]
        forward = [enter[0] - began, *(b - a for a, b in pairwise(enter))]
        # Where nothing before the first part learns, backward ends in that part.
        back = [finished, *(at or finished for at in self._back), ended]
        backward = [a - b for a, b in pairwise(back)]
        return [*forward, ended - enter[-1]], backward

    def _enter(self, i: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._order.append(i)
            tensors = _floating((args, kwargs))
            self._mark(i, tensors)
            if i == 0:
                self.activations[0] = _bytes(tensors[:1])
            self._entered[i] = self._now()

        return hook

    def _leave(self, i: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, out: Any) -> None:
            self._left[i] = self._now()
            tensors = _floating(out)
            self.activations[i + 1] = _bytes(tensors)
            if i == len(self._parts) - 1:
                self._mark(i + 1, tensors)

        return hook

    def _mark(self, place: int, tensors: list[Tensor]) -> None:
        def arrived(_: Tensor) -> None:
            self._back[place] = self._now()

        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(arrived)  # type: ignore[no-untyped-call]
                return

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _joined(a: Node, b: Node, name: str) -> Node:
    return Node(
        name=name,
        forward=a.forward + b.forward,
        backward=a.backward + b.backward,
        activation_bytes=b.activation_bytes,
        parameter_bytes=a.parameter_bytes + b.parameter_bytes,
    )


def _floating(value: Any) -> list[Tensor]:
    """Floating tensors in nested arguments, in order."""
    leaves = torch.utils._pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
