"""From an ONNX file to a trainable module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mainspring.errors import UsageError, few, suggest
from mainspring.models.onnx.cut import Section, cut_sections, sort_steps
from mainspring.models.onnx.graph import Step, read_step, run_steps
from mainspring.models.onnx.module import OnnxBlock, OnnxModule, detached, plain_name
from mainspring.models.onnx.operators.call import Value
from mainspring.models.onnx.proto import inlined, opsets_of, read_proto
from mainspring.models.onnx.types import NIBBLES, TYPES, tensor_of
from mainspring.models.onnx.weights import Source, find_weights

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

FOLDED = 1 << 22
"""Most elements of a result that is computed once, when the graph is read."""
CHANCE = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
"""Operators whose result differs each time."""
TYPED_BY = {"CastLike": (1, "to"), "QuantizeLinear": (2, "output_dtype")}
"""Operators that take a type from an input: which, and the attribute that says the same."""
WEIGHT_ATTRIBUTES = {
    "LinearClassifier": ("coefficients", "intercepts"),
    "LinearRegressor": ("coefficients", "intercepts"),
}
"""Operators that keep their weights in attributes."""


@dataclass(frozen=True)
class OnnxGraph:
    """A graph that was read, with its module and where its weights lie in the file."""

    module: OnnxModule
    places: Mapping[str, Source]
    """Where each weight is, by its name in the graph."""
    constant: tuple[str, ...]
    """Floating-point constants of more than one element that are not learnt."""


def read_onnx(
    source: str | Path | ModelProto,
    *,
    outputs: Sequence[str] | None = None,
    freeze: Sequence[str] = (),
    blocks: int = 32,
) -> OnnxGraph:
    """Make a trainable module of an ONNX graph, from whatever framework it comes.

    Args:
        source: the file, or the model (whose tensors are then not in other files).
        outputs: names of the outputs that are wanted; nodes that none of them needs are left out. None takes
            all that are tensors, without the labels of classifiers beside their scores.
        freeze: patterns of names (`*.bias`) of weights that are not trained.
        blocks: cut the graph into at most about so many blocks, which ZeRO and pipelines own.

    Returns:
        The module, on the CPU, and where its weights lie.

    Raises:
        UsageError: the file is no ONNX model, an operator or type is not supported (names the node), or a
            name is not the graph's.
        MissingExtraError: onnx is not installed.
    """
    if isinstance(source, str | Path):
        model, folder = read_proto(source), str(Path(source).resolve().parent)
    else:
        model, folder = source, ""
    opsets = opsets_of(model)
    chosen = _outputs(model, outputs)
    graph = inlined(model, opsets).graph
    sources = {t.name: Source(tensor_of(t, folder), "initializer") for t in graph.initializer}
    own = {name for node in model.graph.node for name in node.output}  # not those inside functions
    steps = []
    for node in _wanted([*graph.node], chosen):
        step = read_step(node, opsets, folder)
        steps.append(_with_weights(step, sources) if own & set(step.outputs) else step)
    steps = [s for s in steps if s.outputs and s.outputs[0] not in sources]
    types = {t.name: t.data_type for t in graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info)}
    steps = [_with_narrow_type(step, types) for step in steps]
    given = {v.name: v for v in graph.input if v.name not in sources}
    used = {name for step in steps for name in step.reads} | set(chosen)
    inputs = [name for name in given if name in used]
    real = [n for n in inputs if _is_float(given[n].type.tensor_type.elem_type)]
    weights = find_weights(steps, {n: s for n, s in sources.items() if n in used}, real)
    frozen = _frozen(weights, freeze)
    optional = {
        v.name: sources[v.name].tensor
        for v in graph.input
        if v.name in sources and v.name not in weights and v.name in used
    }
    constants: dict[str, Tensor] = {
        n: s.tensor for n, s in sources.items() if n in used and n not in weights and n not in optional
    }
    kinds = sort_steps(steps, weights, [*inputs, *optional])
    kinds = replace(kinds, ambient=_folded(kinds.ambient, constants, {*inputs, *optional}))
    sizes = {n: sources[n].tensor.numel() for n in weights}
    sections = cut_sections(kinds, chosen, sizes, [*constants], blocks)
    module = _module(
        sections, kinds.ambient, constants, sources, frozen, [*inputs, *optional], chosen, optional
    )
    module.sizes.update({name: _sizes(given[name]) for name in inputs})
    kept = tuple(n for n, t in constants.items() if t.is_floating_point() and t.numel() > 1 and n in sources)
    return OnnxGraph(module, {n: sources[n] for n in weights}, kept)


def _outputs(model: ModelProto, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The outputs to compute: those asked for, or all but labels.

    Raises:
        UsageError: the graph has no such value.
    """
    names = [v.name for v in model.graph.output]
    if wanted is not None:
        every = {*names, *(o for node in model.graph.node for o in node.output)}
        for name in wanted:
            if name not in every:
                raise UsageError(f"the graph computes no {name!r}; {suggest(name, names)}")
        if not wanted:
            raise UsageError(f"no output is asked for; the graph has {few(names)}")
        return tuple(dict.fromkeys(wanted))
    floats = [v.name for v in model.graph.output if _is_score(v)]
    return tuple(floats or names)


def _is_score(value: ValueInfoProto) -> bool:
    """Whether an output is floating point, a sequence (of mappings from labels to scores), or untyped."""
    kind = value.type
    return not kind.HasField("tensor_type") or _is_float(kind.tensor_type.elem_type)


def _sizes(value: ValueInfoProto) -> tuple[int, ...]:
    """Sizes of an input, 0 where it is free; empty where none are stated."""
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)


def _is_float(number: int) -> bool:
    return number == 0 or (number in TYPES and TYPES[number].is_floating_point)


def _wanted(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> list[NodeProto]:
    """The nodes that outputs need."""
    needed, found = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            found.append(node)
            needed |= _reads(node)
    return found[::-1]


def _reads(node: NodeProto) -> set[str]:
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                found |= _reads(inner)
            found |= {o.name for o in attribute.g.output}
    return found


def _with_weights(step: Step, sources: dict[str, Source]) -> Step:
    """Make constants of what a node holds in attributes: a Constant's value, a linear model's weights."""
    op = step.call.op
    value = step.call.attributes.get("value")
    if op == "Constant" and isinstance(value, Tensor):
        sources[step.outputs[0]] = Source(value, "value", step.outputs[0])
        return step
    names = [a for a in WEIGHT_ATTRIBUTES.get(op, ()) if a in step.call.attributes]
    if not names:
        return step
    made = []
    for attribute in names:
        name = f"{step.call.name}.{attribute}"
        sources[name] = Source(torch.tensor(step.call.attributes[attribute]), attribute, step.outputs[0])
        made.append(name)
    return replace(step, inputs=(*step.inputs, *made))


def _with_narrow_type(step: Step, types: Mapping[str, int]) -> Step:
    """Tell an operator that takes a type from one of its inputs of a type of few bits, which its tensor does
    not show."""
    if step.call.op not in TYPED_BY:
        return step
    place, attribute = TYPED_BY[step.call.op]
    number = types.get(step.inputs[place], 0) if len(step.inputs) > place else 0
    if number not in NIBBLES:
        return step
    return replace(step, call=replace(step.call, attributes={**step.call.attributes, attribute: number}))


def _frozen(weights: Sequence[str], patterns: Sequence[str]) -> set[str]:
    frozen = set()
    for pattern in patterns:
        found = {name for name in weights if fnmatchcase(name, pattern)}
        if not found:
            raise UsageError(f"freeze: no weight is called {pattern!r}; {suggest(pattern, weights)}")
        frozen |= found
    return frozen


def _folded(steps: Sequence[Step], constants: dict[str, Tensor], inputs: set[str]) -> tuple[Step, ...]:
    """Compute once what depends on constants alone, adding it to them; the steps that are left."""
    left: list[Step] = []
    unknown = set(inputs)
    for step in steps:
        if step.call.op in CHANCE or step.bodies or unknown & step.reads:
            left.append(step)
            unknown.update(step.outputs)
            continue
        values: dict[str, Value] = dict(constants)
        with torch.no_grad():
            run_steps([step], values)
        made = {name: values[name] for name in step.outputs if name in values}
        if all(isinstance(v, Tensor) and v.numel() <= FOLDED for v in made.values()):
            constants.update({name: detached(v) for name, v in made.items()})
        else:
            left.append(step)
            unknown.update(step.outputs)
    return tuple(left)


def _module(
    sections: Sequence[Section],
    ambient: Sequence[Step],
    constants: Mapping[str, Tensor],
    sources: Mapping[str, Source],
    frozen: set[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    optional: Mapping[str, Tensor],
) -> OnnxModule:
    taken: set[str] = set()
    weights = list(dict.fromkeys(name for section in sections for name in section.weights))
    names = {name: plain_name(name, taken) for name in weights}
    parameters = {
        name: nn.Parameter(detached(sources[name].tensor), requires_grad=name not in frozen)
        for name in weights
    }
    built = []
    for section in sections:
        read = {name for step in section.steps for name in step.reads} | set(section.outputs)
        built.append(OnnxBlock(section, names, parameters, {n: t for n, t in constants.items() if n in read}))
    first: dict[str, str] = {}
    for number, section in enumerate(sections):
        for name in section.weights:
            first.setdefault(name, f"sections.{number}.{names[name]}")
    around = {name for step in ambient for name in step.reads} | set(outputs)
    return OnnxModule(
        built,
        ambient,
        {n: t for n, t in constants.items() if n in around},
        inputs,
        outputs,
        {own: name for name, own in first.items()},
        optional,
    )
