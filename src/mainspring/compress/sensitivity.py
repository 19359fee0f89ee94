"""What each layer loses in each format, alone; and formats for all layers within a budget.

Losses are taken to add up over layers, as is usual for mixed precision (Dong et al. 2019, HAWQ-V2, arXiv
1911.03852, section 3.2): which formats to take is then a multiple-choice knapsack, solved exactly by keeping,
layer after layer, the choices that no other one beats in both cost and loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from mainspring.compress.gptq import round_to_nearest
from mainspring.compress.linears import layer_of, linears
from mainspring.compress.measure import Measure
from mainspring.errors import UsageError
from mainspring.nn.transformer import Transformer
from mainspring.numerics import Format

WHOLE = "fp32"
"""Name of what is not narrowed."""


@dataclass(frozen=True)
class Option:
    """A format for a layer."""

    layer: str
    format: str
    cost: float
    """Bytes, or whatever else is to be saved."""
    loss: float
    """By which the model's loss rises if this layer alone is in this format."""


@dataclass(frozen=True)
class Choice:
    """A format for every layer."""

    formats: Mapping[str, str]
    """By layer."""
    cost: float
    loss: float
    """The layers' losses added up."""


@torch.no_grad()
def sensitivities(
    model: Transformer,
    measure: Measure,
    formats: Sequence[Format],
    *,
    cost: Callable[[str, str, int], float] = lambda layer, form, size: float(size),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Option]:
    """Options of every layer: each format, and the whole weights, which lose nothing.

    Args:
        model: left as it was.
        measure: of its loss.
        formats: to try, rounding to the nearest.
        cost: of a layer in a format, from its bytes.
        progress: is told trials done and their total.
    """
    layers: dict[str, list[str]] = {}
    maps = linears(model)
    for name in maps:
        layers.setdefault(layer_of(name), []).append(name)
    before = measure(model)
    options: list[Option] = []
    for number, (layer, names) in enumerate(layers.items()):
        kept = {name: maps[name].weight.clone() for name in names}
        size = sum(weight.nbytes for weight in kept.values())
        options.append(Option(layer, WHOLE, cost(layer, WHOLE, size), 0.0))
        for place, form in enumerate(formats):
            size = 0
            for name in names:
                rounded = round_to_nearest(kept[name], form)
                maps[name].weight.copy_(rounded.values)
                size += rounded.encoded.nbytes
            options.append(Option(layer, form.name, cost(layer, form.name, size), measure(model) - before))
            progress(number * len(formats) + place + 1, len(layers) * len(formats))
        for name in names:
            maps[name].weight.copy_(kept[name])
    return options


def choose(options: Iterable[Option], budget: float) -> Choice:
    """The choice of least loss whose cost is at most the budget.

    Raises:
        UsageError: the cheapest choice costs more; tells what it costs.
    """
    frontier = pareto(options)
    fitting = [choice for choice in frontier if choice.cost <= budget]
    if not fitting:
        raise UsageError(
            f"a budget of {budget:,.6g} is below {frontier[0].cost:,.6g}, which the cheapest formats cost; "
            "give at least that, or offer narrower formats"
        )
    return min(fitting, key=lambda choice: (choice.loss, choice.cost))


def pareto(options: Iterable[Option]) -> list[Choice]:
    """All choices that none beats in both cost and loss, the cheapest first."""
    found = [Choice({}, 0.0, 0.0)]
    for choices in _by_layer(options).values():
        merged = [
            Choice({**c.formats, o.layer: o.format}, c.cost + o.cost, c.loss + o.loss)
            for c in found
            for o in choices
        ]
        found, least = [], float("inf")
        for choice in sorted(merged, key=lambda c: (c.cost, c.loss)):
            if choice.loss < least:
                found.append(choice)
                least = choice.loss
    return found


def choose_greedily(options: Iterable[Option], budget: float) -> Choice:
    """A choice by the usual short cut: from the cheapest of all layers, again and again the change that saves
    most loss for its cost; for comparison with `choose`."""
    layers = _by_layer(options)
    taken = {layer: min(choices, key=lambda o: (o.cost, o.loss)) for layer, choices in layers.items()}
    while True:
        cost = sum(o.cost for o in taken.values())
        better = [
            (o.cost - taken[o.layer].cost, taken[o.layer].loss - o.loss, o)
            for choices in layers.values()
            for o in choices
            if o.loss < taken[o.layer].loss and cost + o.cost - taken[o.layer].cost <= budget
        ]
        if not better:
            break
        _, _, best = max(better, key=lambda b: b[1] / b[0] if b[0] > 0 else float("inf"))
        taken[best.layer] = best
    formats = {layer: option.format for layer, option in taken.items()}
    return Choice(formats, cost, sum(option.loss for option in taken.values()))


def _by_layer(options: Iterable[Option]) -> dict[str, list[Option]]:
    layers: dict[str, list[Option]] = {}
    for option in options:
        layers.setdefault(option.layer, []).append(option)
    return layers
