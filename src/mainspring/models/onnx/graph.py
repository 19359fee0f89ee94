"""A graph, ready to run: each node with its function, its values by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Function, Value
from mainspring.models.onnx.operators.table import resolve
from mainspring.models.onnx.proto import attributes_of
from mainspring.models.onnx.types import tensor_of

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


@dataclass(frozen=True, eq=False)
class Step:
    """A node, ready to run."""

    call: Call
    function: Function
    inputs: tuple[str, ...]
    """Names; "" where an input is left out."""
    bodies: Mapping[str, Graph] = field(default_factory=dict)
    """Its subgraphs."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives, without those that are not wanted."""
        return tuple(name for name in self.call.outputs if name)

    @property
    def reads(self) -> frozenset[str]:
        """All that it reads, also inside its subgraphs, of what is around it."""
        inner = {name for body in self.bodies.values() for name in body.reads}
        return frozenset({name for name in self.inputs if name} | inner)


@dataclass(frozen=True, eq=False)
class Graph:
    """A subgraph, ready to run among the values around it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, Tensor]
    """Its initialisers."""

    @property
    def reads(self) -> frozenset[str]:
        """What it reads of the values around it."""
        own = {*self.inputs, *self.constants, *(name for step in self.steps for name in step.outputs)}
        used = {name for step in self.steps for name in step.reads} | set(self.outputs)
        return frozenset(used - own)

    def run(self, around: Mapping[str, Value], *inputs: Value) -> list[Value]:
        """Its outputs for inputs, among the values around it."""
        values = {**around, **self.constants, **dict(zip(self.inputs, inputs, strict=False))}
        run_steps(self.steps, values)
        return [values[name] for name in self.outputs]


def read_graph(proto: GraphProto, opsets: Mapping[str, int], folder: str) -> Graph:
    """Make a graph ready to run.

    Raises:
        UsageError: an operator is not supported; names it and its node.
    """
    constants = {t.name: tensor_of(t, folder) for t in proto.initializer}
    return Graph(
        tuple(v.name for v in proto.input if v.name not in constants),
        tuple(v.name for v in proto.output),
        tuple(read_step(node, opsets, folder) for node in proto.node),
        constants,
    )


def read_step(node: NodeProto, opsets: Mapping[str, int], folder: str) -> Step:
    """Make a node ready to run."""
    name = node.name or next((o for o in node.output if o), node.op_type)
    domain = "" if node.domain == "ai.onnx" else node.domain
    opset = opsets.get(domain, 1)
    function = resolve(domain, node.op_type, opset, name)
    attributes, graphs = attributes_of(node, folder)
    return Step(
        Call(domain, node.op_type, name, opset, attributes, tuple(node.output)),
        function,
        tuple(node.input),
        {key: read_graph(graph, opsets, folder) for key, graph in graphs.items()},
    )


def run_steps(steps: Iterable[Step], values: MutableMapping[str, Value]) -> None:
    """Run nodes one after another, adding what they give to `values`."""
    for step in steps:
        call = step.call
        if step.bodies:
            bound = {key: partial(body.run, values) for key, body in step.bodies.items()}
            call = replace(call, bodies=bound)
        result = step.function(call, *(values[name] if name else None for name in step.inputs))
        if isinstance(result, tuple):
            for name, value in zip(call.outputs, result, strict=False):
                if name:
                    values[name] = value
        else:
            values[call.outputs[0]] = result
