"""Sequences and optionals, and the operators that run subgraphs."""

from __future__ import annotations

import torch
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Table, Value, ints, standard


def sequence_construct(call: Call, *inputs: Tensor) -> list[Tensor]:
    """A sequence of tensors."""
    return list(inputs)


def sequence_empty(call: Call) -> list[Tensor]:
    """A sequence of none."""
    return []


def sequence_at(call: Call, sequence: list[Tensor], position: Tensor) -> Tensor:
    """The tensor at a position."""
    return sequence[int(position)]


def sequence_insert(
    call: Call, sequence: list[Tensor], x: Tensor, position: Tensor | None = None
) -> list[Tensor]:
    """The sequence with one more tensor."""
    at = len(sequence) if position is None else int(position)
    at = at + len(sequence) if at < 0 else at
    return [*sequence[:at], x, *sequence[at:]]


def sequence_erase(call: Call, sequence: list[Tensor], position: Tensor | None = None) -> list[Tensor]:
    """The sequence without one of its tensors."""
    at = (len(sequence) - 1 if position is None else int(position)) % len(sequence)
    return [*sequence[:at], *sequence[at + 1 :]]


def sequence_length(call: Call, sequence: list[Tensor]) -> Tensor:
    """Number of tensors, int64 []."""
    return torch.tensor(len(sequence), dtype=torch.int64)


def concat_from_sequence(call: Call, sequence: list[Tensor]) -> Tensor:
    """The tensors of a sequence along an axis, or a new one."""
    axis = call.attributes["axis"]
    return torch.stack(sequence, axis) if call.get("new_axis", 0) else torch.cat(sequence, axis)


def split_to_sequence(call: Call, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    """Parts of a tensor along an axis."""
    axis = call.get("axis", 0)
    if sizes is None:
        parts = list(torch.split(x, 1, axis))
        return parts if call.get("keepdims", 1) else [p.squeeze(axis) for p in parts]
    return list(torch.split(x, int(sizes) if sizes.ndim == 0 else ints(sizes) or [], axis))


def sequence_map(call: Call, *inputs: Value) -> Value:
    """A subgraph of every element of sequences; what is no sequence goes to all."""
    first = inputs[0]
    rows = [
        call.bodies["body"](*(value[n] if isinstance(value, list) else value for value in inputs))
        for n in range(len(first))
    ]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in call.outputs]
    return columns[0] if len(columns) == 1 else tuple(columns)


def optional(call: Call, x: Value = None) -> Value:
    """A value, or that there is none."""
    return x


def optional_has(call: Call, x: Value = None) -> Tensor:
    """Whether there is a value, bool []."""
    return torch.tensor(x is not None)


def if_(call: Call, condition: Tensor) -> Value:
    """One subgraph or the other."""
    found = call.bodies["then_branch" if bool(condition) else "else_branch"]()
    return found[0] if len(found) == 1 else tuple(found)


def loop(call: Call, most: Tensor | None, condition: Tensor | None, *carried: Value) -> Value:
    """A subgraph again and again: as often as is said, or as long as its condition holds."""
    body, state, device = call.bodies["body"], list(carried), None
    stacked: list[list[Value]] = [[] for _ in range(len(call.outputs) - len(state))]
    going = condition is None or bool(condition)
    step, end = 0, None if most is None else int(most)
    device = next((v.device for v in carried if isinstance(v, Tensor)), None)
    while going and (end is None or step < end):
        again, *values = body(
            torch.tensor(step, dtype=torch.int64, device=device), torch.tensor(True, device=device), *state
        )
        state, extra = values[: len(state)], values[len(state) :]
        for store, value in zip(stacked, extra, strict=True):
            store.append(value)
        going, step = bool(again), step + 1
    outputs = [*state, *(torch.stack(s) if s else torch.zeros(0) for s in stacked)]
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def scan(call: Call, *inputs: Value) -> Value:
    """A subgraph over the slices of its inputs, with a state that goes on."""
    count = call.attributes["num_scan_inputs"]
    state, scanned = list(inputs[:-count]), inputs[-count:]
    in_axes = call.get("scan_input_axes") or [0] * count
    in_back = call.get("scan_input_directions") or [0] * count
    produced = len(call.outputs) - len(state)
    out_axes = call.get("scan_output_axes") or [0] * produced
    out_back = call.get("scan_output_directions") or [0] * produced
    slices = [x.unbind(axis) for x, axis in zip(scanned, in_axes, strict=True)]
    slices = [s[::-1] if back else s for s, back in zip(slices, in_back, strict=True)]
    stacked: list[list[Tensor]] = [[] for _ in range(produced)]
    for parts in zip(*slices, strict=True):
        values = call.bodies["body"](*state, *parts)
        state = values[: len(state)]
        for store, value in zip(stacked, values[len(state) :], strict=True):
            store.append(value)
    made = [
        torch.stack(s[::-1] if back else s, axis)
        for s, axis, back in zip(stacked, out_axes, out_back, strict=True)
    ]
    outputs = [*state, *made]
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def scan_batched(call: Call, lengths: Tensor | None, *inputs: Value) -> Value:
    """Scan as opset 8 has it: all inputs have a batch axis before the scanned one."""
    plain = Call(
        call.domain,
        call.op,
        call.name,
        9,
        {
            "num_scan_inputs": call.attributes["num_scan_inputs"],
            "scan_input_directions": call.get("directions") or [],
        },
        call.outputs,
        call.bodies,
    )
    rows = []
    for n in range(inputs[-1].shape[0]):
        row = scan(plain, *(x[n] for x in inputs))
        rows.append(row if isinstance(row, tuple) else (row,))
    made = [torch.stack(column) for column in zip(*rows, strict=True)]
    return made[0] if len(made) == 1 else tuple(made)


SEQUENCES: Table = standard(
    {
        ("ConcatFromSequence", 11): concat_from_sequence,
        ("If", 1): if_,
        ("Loop", 1): loop,
        ("Optional", 15): optional,
        ("OptionalGetElement", 15): optional,
        ("OptionalHasElement", 15): optional_has,
        ("Scan", 8): scan_batched,
        ("Scan", 9): scan,
        ("SequenceAt", 11): sequence_at,
        ("SequenceConstruct", 11): sequence_construct,
        ("SequenceEmpty", 11): sequence_empty,
        ("SequenceErase", 11): sequence_erase,
        ("SequenceInsert", 11): sequence_insert,
        ("SequenceLength", 11): sequence_length,
        ("SequenceMap", 17): sequence_map,
        ("SplitToSequence", 11): split_to_sequence,
    }
)
