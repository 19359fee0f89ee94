"""A backward pass in two halves: towards the inputs now, towards the weights later (Qi et al. 2023, arXiv
2401.10241, section 2).

The first half stops where the paths to weights leave the paths to inputs, and keeps the gradients there; the
second goes on from them. Unlike PyTorch's own second half (`torch.distributed.pipelining._backward`, whose
walks through the graph are used here), ours lets gradients accumulate as in any backward, so that what
listens to parameters (reductions, shards) hears them, and counts weights once that meet inputs at several
places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.distributed.pipelining._backward import (
    _get_grad_fn_or_grad_acc,
    construct_reverse_graph,
    reverse_closure,
)

Half = Callable[[Callable[[bool], AbstractContextManager[Any]]], None]
"""The second half. It is given the context of each backward in it, which is told whether that is the last."""


def backward_inputs(
    outputs: Sequence[Tensor], gradients: Sequence[Tensor | None], inputs: Sequence[Tensor]
) -> Half:
    """Gradients of `inputs` (leaves) into their `.grad`; returns what does the same for all other leaves.

    Args:
        outputs: of a graph.
        gradients: theirs; None for a scalar's 1.
        inputs: leaves of the graph that want a gradient.
    """
    roots = [node for node in map(_get_grad_fn_or_grad_acc, outputs) if node is not None]
    ends = [node for node in map(_get_grad_fn_or_grad_acc, inputs) if node is not None]
    groups = _groups(roots, ends)
    handles = [
        node.register_prehook(_keeper(group.kept, place))
        for group in groups
        for place, node in enumerate(group.places)
    ]
    try:
        found = torch.autograd.grad(outputs, inputs, gradients, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    for leaf, gradient in zip(inputs, found, strict=True):
        leaf.grad = gradient

    def backward_weights(context: Callable[[bool], AbstractContextManager[Any]]) -> None:
        waiting = [group for group in groups if any(kept is not None for kept in group.kept)]
        for number, group in enumerate(waiting):
            with context(number == len(waiting) - 1):
                _go_on(group)
        groups.clear()

    return backward_weights


@dataclass
class _Group:
    """Weights whose paths leave those to inputs at the same places."""

    places: list[Node]
    weights: list[Any]
    """Their leaves in the graph."""
    kept: list[tuple[Tensor | None, ...] | None]
    """Gradients at the places."""


def _groups(roots: list[Node], ends: list[Node]) -> list[_Group]:
    reverse = construct_reverse_graph(roots)
    to_inputs, _ = reverse_closure(ends, set(), reverse)
    groups: list[_Group] = []
    for leaf in [node for node in reverse if node.name() == "torch::autograd::AccumulateGrad"]:
        if leaf in ends:
            continue
        _, met = reverse_closure([leaf], to_inputs, reverse)
        together = [group for group in groups if met & set(group.places)]
        places = list(dict.fromkeys(node for group in together for node in group.places))
        places += [node for node in met if node not in places]
        weights = [leaf, *(weight for group in together for weight in group.weights)]
        groups = [group for group in groups if group not in together]
        if places:
            groups.append(_Group(places, weights, [None] * len(places)))
    return groups


def _keeper(kept: list[tuple[Tensor | None, ...] | None], place: int) -> Callable[[Any], None]:
    def keep(gradients: tuple[Tensor | None, ...]) -> None:
        kept[place] = gradients

    return keep


def _go_on(group: _Group) -> None:
    """Backward from where a group's paths leave to its weights."""
    edges, gradients, handles = [], [], []
    for node, kept in zip(group.places, group.kept, strict=True):
        for output, gradient in enumerate(kept or ()):
            if gradient is not None:
                edges.append(GradientEdge(node, output))
                gradients.append(gradient)
        if len(group.places) > 1:
            # One such place may lie behind another: what arrives there has been counted.
            handles.append(node.register_prehook(lambda _, kept=kept: kept))
    try:
        # The graph goes when the last half lets go of it: groups may share nodes.
        torch.autograd.backward(
            edges, gradients, retain_graph=True, inputs=[leaf.variable for leaf in group.weights]
        )
    finally:
        for handle in handles:
            handle.remove()
