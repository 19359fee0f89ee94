"""A graph as a module: weights are parameters, nodes run through the table, blocks are cut from the trunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.errors import UsageError, few, suggest
from mainspring.models.onnx.cut import Section
from mainspring.models.onnx.graph import Step, run_steps
from mainspring.models.onnx.operators.call import Value
from mainspring.nn.part import Carried, Part


class OnnxBlock(nn.Module):
    """A section of a graph, with its weights.

    Args:
        section: the nodes.
        names: the name in this module of each weight, by its name in the graph.
        parameters: the weights, by the name in the graph.
        constants: what its nodes read that is neither learnt nor computed.
    """

    def __init__(
        self,
        section: Section,
        names: Mapping[str, str],
        parameters: Mapping[str, nn.Parameter],
        constants: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.section = section
        self._weights = {name: names[name] for name in section.weights}
        for name, own in self._weights.items():
            self.register_parameter(own, parameters[name])
        self._constants = _Constants(constants)

    @property
    def cost(self) -> float:
        """Multiply-adds of a row or token with its matrices; tables that are looked up count nothing."""
        looked_up = {s.inputs[0] for s in self.section.steps if s.call.op == "Gather"}
        used = {name for s in self.section.steps if s.call.op != "Gather" for name in s.reads}
        return float(
            sum(
                getattr(self, own).numel()
                for name, own in self._weights.items()
                if getattr(self, own).ndim > 1 and (name in used or name not in looked_up)
            )
        )

    def forward(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Of what came from before and of the inputs: what goes on."""
        own = {name: getattr(self, attribute) for name, attribute in self._weights.items()}
        everything = {**values, **self._constants.values(), **own}
        run_steps(self.section.steps, everything)
        return {name: everything[name] for name in self.section.outputs}


class _Constants(nn.Module):
    """Tensors that are not learnt; they move with the model and are not saved.

    Floating point ones are buffers, which tell mixed precision that they are there.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._others = {name: t for name, t in tensors.items() if not t.is_floating_point()}
        self._own: dict[str, str] = {}
        for number, (name, tensor) in enumerate(tensors.items()):
            if tensor.is_floating_point():
                self._own[name] = f"constant_{number}"
                self.register_buffer(self._own[name], tensor, persistent=False)

    def values(self) -> dict[str, Tensor]:
        """By their names in the graph."""
        return {**self._others, **{name: getattr(self, own) for name, own in self._own.items()}}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Constants:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._others = {name: fn(t) for name, t in self._others.items()}
        return self


class OnnxModule(nn.Module):
    """A trainable module made of an ONNX graph (`mainspring.models.onnx.read_onnx` makes one).

    Args:
        blocks: the trunk in order.
        ambient: nodes that depend on inputs and constants alone.
        constants: which those read.
        inputs: names of the graph's inputs, in order; those after `required` may be left out.
        outputs: names of its outputs.
        parameter_names: name in the graph of each parameter, by its name in this module.
        defaults: values of inputs that may be left out.
    """

    def __init__(
        self,
        blocks: Sequence[OnnxBlock],
        ambient: Sequence[Step],
        constants: Mapping[str, Tensor],
        inputs: Sequence[str],
        outputs: Sequence[str],
        parameter_names: Mapping[str, str],
        defaults: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.sections = nn.ModuleList(blocks)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.parameter_names = dict(parameter_names)
        self.sizes: dict[str, tuple[int, ...]] = {}
        """Sizes of inputs that the graph states, 0 where it leaves them free."""
        self._ambient = tuple(ambient)
        self._constants = _Constants(constants)
        self._defaults = _Constants(defaults)
        self._ends = [block.section.outputs for block in blocks]
        self._reads = [block.section.ambient for block in blocks]
        self._needed = [_needed(self._ambient, set(block.section.ambient)) for block in blocks]
        every = {name for block in blocks for name in block.section.outputs}
        self._aside = tuple(name for name in self.outputs if name not in every)
        """Outputs that no weight has part in."""

    def blocks(self) -> list[nn.Module]:
        """The sections, in the order of computation."""
        return list(self.sections)

    def outside(self, part: Part) -> list[nn.Module]:
        """Nothing: every weight belongs to the sections that use it."""
        return []

    def costs(self) -> Sequence[float]:
        """Multiply-adds of each section."""
        return [max(b.cost, 1.0) if isinstance(b, OnnxBlock) else 1.0 for b in self.sections]

    def forward(
        self, *args: Value, part: Part | None = None, carried: Carried | None = None, **named: Value
    ) -> Any:
        """Run the graph.

        Args:
            args: inputs in the graph's order.
            part: which blocks to run (None: all).
            carried: what the part before handed on.
            named: inputs by name.

        Returns:
            Outputs by name, of which the tensors are as the graph has them; of a part before the last, what
            the next takes up.

        Raises:
            UsageError: an input is missing, unknown, or given twice, or a graph that was exported for some
                sizes alone cannot compute others.
        """
        given = self._given(args, named)
        try:
            return self._run(given, part, carried)
        except (IndexError, RuntimeError) as error:
            if other := self._other_sizes(given):
                raise UsageError(
                    f"{other}, and cannot compute with others ({error}); export it with free sizes "
                    "(dynamic axes), or give it rows of that size (train.micro_rows)"
                ) from error
            raise

    def _run(self, values: dict[str, Value], part: Part | None, carried: Carried | None) -> Any:
        here = Part(0, len(self.sections), len(self.sections)) if part is None else part
        values.update(self._constants.values())
        wanted = dict.fromkeys(step for n in range(here.start, here.stop) for step in self._needed[n])
        if here.last:
            wanted.update(dict.fromkeys(_needed(self._ambient, set(self._aside))))
        run_steps(wanted, values)
        live: dict[str, Value] = {}
        if carried is not None:
            live = dict(zip(self._ends[here.start - 1], carried, strict=False))
        for block, section in zip(
            list(self.sections)[here.start : here.stop], self._reads[here.start : here.stop], strict=True
        ):
            live = block({**live, **{name: values[name] for name in section}})
        if not here.last:
            return Carried(*live.values())
        return {name: live[name] if name in live else values[name] for name in self.outputs}

    def _other_sizes(self, values: Mapping[str, Value]) -> str:
        """Which input has other sizes than the graph was exported for; empty where none has."""
        for name, sizes in self.sizes.items():
            value = values[name]
            if isinstance(value, Tensor) and len(sizes) == value.ndim:
                pairs = zip(sizes, value.shape, strict=True)
                if any(stated not in (0, size) for stated, size in pairs):
                    return f"input {name!r} is {list(value.shape)}; the graph was exported for {list(sizes)}"
        return ""

    def _given(self, args: Sequence[Value], named: Mapping[str, Value]) -> dict[str, Value]:
        if len(args) > len(self.inputs):
            raise UsageError(f"{len(args)} inputs for a graph of {len(self.inputs)}: {few(self.inputs)}")
        values = dict(zip(self.inputs, args, strict=False))
        for name, value in named.items():
            if name not in self.inputs:
                raise UsageError(f"the graph has no input {name!r}; {suggest(name, self.inputs)}")
            if name in values:
                raise UsageError(f"input {name!r} is given twice")
            values[name] = value
        values = {**self._defaults.values(), **values}
        missing = [name for name in self.inputs if name not in values]
        if missing:
            raise UsageError(f"the graph wants {few(missing)} as well; its inputs are {few(self.inputs)}")
        return values


def _needed(steps: Sequence[Step], names: set[str]) -> tuple[Step, ...]:
    """The steps that compute `names`, in order."""
    found: list[Step] = []
    wanted = set(names)
    for step in reversed(steps):
        if wanted & set(step.outputs):
            found.append(step)
            wanted |= step.reads
    return tuple(reversed(found))


def plain_name(name: str, taken: set[str]) -> str:
    """A name that a module may give a parameter, for a name of the graph."""
    base = "".join(c if c.isalnum() or c in "_-" else "/" for c in name) or "weight"
    chosen, number = base, 1
    while chosen in taken or hasattr(nn.Module, chosen):
        number += 1
        chosen = f"{base}~{number}"
    taken.add(chosen)
    return chosen


def detached(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own, contiguous."""
    return torch.clone(tensor.detach(), memory_format=torch.contiguous_format)
