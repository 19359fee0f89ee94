"""Cutting a graph into blocks that ZeRO and pipelines own: at points where one tensor alone goes on.

Nodes fall into three kinds. What depends on the inputs alone (masks, shapes) is computed wherever it is
needed; so is what depends on weights alone (a transposed matrix). The rest is the trunk, and it is the trunk
that is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mainspring.models.onnx.graph import Step


@dataclass(frozen=True)
class Section:
    """Consecutive nodes of the trunk, with what they need of weights."""

    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    """What goes on: one name between sections, two where an encoder's output goes beside."""
    weights: tuple[str, ...]
    """Constants that it computes with and that are learnt."""
    ambient: tuple[str, ...]
    """What it reads that depends on the inputs alone."""


@dataclass(frozen=True)
class Kinds:
    """The nodes of a graph by what they depend on."""

    ambient: tuple[Step, ...]
    """Inputs and constants alone."""
    prepared: tuple[Step, ...]
    """Weights and constants alone."""
    trunk: tuple[Step, ...]
    """Both."""


def sort_steps(steps: Sequence[Step], weights: Sequence[str], inputs: Sequence[str]) -> Kinds:
    """Tell the nodes of a graph apart."""
    learnt, given = set(weights), set(inputs)
    kinds: tuple[list[Step], list[Step], list[Step]] = ([], [], [])
    for step in steps:
        from_weights, from_inputs = bool(learnt & step.reads), bool(given & step.reads)
        if from_weights:
            learnt.update(step.outputs)
        if from_inputs:
            given.update(step.outputs)
        kinds[2 if from_weights and from_inputs else 1 if from_weights else 0].append(step)
    return Kinds(*(tuple(kind) for kind in kinds))


def cut_sections(
    kinds: Kinds, outputs: Sequence[str], sizes: Mapping[str, int], constants: Sequence[str], most: int
) -> list[Section]:
    """Cut the trunk into at most about `most` sections of like size.

    Args:
        kinds: the graph's nodes.
        outputs: the graph's.
        sizes: elements of each weight, by name.
        constants: names of what is neither learnt nor computed.
        most: sections; each but the last holds at least a share 1 / most of all elements.
    """
    trunk = kinds.trunk
    prepared = {name: step for step in kinds.prepared for name in step.outputs}
    made = {name for step in trunk for name in step.outputs}
    needs = [_weights_of(step, prepared, sizes) for step in trunk]
    singles, pairs = _points(trunk, outputs, made)
    share = sum(sizes.values()) / most
    stops, start, held = [], 0, 0
    for n in range(len(trunk) if most > 1 else 0):
        held += sum(sizes[w] for w in needs[n])
        if (n in singles and held >= share) or (n in pairs and held >= 4 * share):
            stops.append(n + 1)
            start, held = n + 1, 0
    # What follows the last cut without a weight of its own belongs to the section before it.
    if stops and (start >= len(trunk) or held == 0):
        stops.pop()
    stops.append(len(trunk))
    sections, start = [], 0
    for stop in stops:
        live = {**singles, **pairs}.get(stop - 1, ()) if stop < len(trunk) else ()
        out = (
            live
            if stop < len(trunk)
            else tuple(o for o in outputs if o in made or o in prepared or o in sizes)
        )
        sections.append(_section(trunk[start:stop], out, prepared, sizes, made, set(constants)))
        start = stop
    return sections


def _points(
    trunk: Sequence[Step], outputs: Sequence[str], made: set[str]
) -> tuple[dict[int, tuple[str, ...]], dict[int, tuple[str, ...]]]:
    """Nodes after which one value of the trunk goes on, and those after which two do; with the values."""
    last: dict[str, int] = {}
    for n, step in enumerate(trunk):
        for name in step.reads & made:
            last[name] = n
    last.update(dict.fromkeys((o for o in outputs if o in made), len(trunk)))
    live: dict[str, None] = {}
    singles, pairs = {}, {}
    for n, step in enumerate(trunk[:-1]):
        live.update(dict.fromkeys(name for name in step.outputs if last.get(name, -1) > n))
        for name in [name for name in live if last[name] <= n]:
            del live[name]
        if len(live) == 1:
            singles[n] = tuple(live)
        elif len(live) == 2:
            pairs[n] = tuple(live)
    return singles, pairs


def _weights_of(step: Step, prepared: Mapping[str, Step], sizes: Mapping[str, int]) -> set[str]:
    found = set()
    for name in step.reads:
        if name in sizes:
            found.add(name)
        elif name in prepared:
            found |= _weights_of(prepared[name], prepared, sizes)
    return found


def _section(
    steps: Sequence[Step],
    outputs: tuple[str, ...],
    prepared: Mapping[str, Step],
    sizes: Mapping[str, int],
    made: set[str],
    constants: set[str],
) -> Section:
    before: dict[int, Step] = {}

    def prepare(name: str) -> None:
        step = prepared[name]
        if id(step) not in before:
            for read in sorted(step.reads & prepared.keys()):
                prepare(read)
            before[id(step)] = step

    for step in steps:
        for name in sorted(step.reads & prepared.keys()):
            prepare(name)
    for name in outputs:
        if name in prepared:
            prepare(name)
    every = (*before.values(), *steps)
    reads = dict.fromkeys(name for step in every for name in (*step.inputs, *sorted(step.reads)) if name)
    reads.update(dict.fromkeys(o for o in outputs if o in sizes))
    weights = tuple(name for name in reads if name in sizes)
    own = {name for step in every for name in step.outputs}
    ambient = tuple(
        n for n in reads if n not in sizes and n not in own and n not in made and n not in constants
    )
    return Section(tuple(every), outputs, weights, ambient)
