"""Recurrent layers: RNN, GRU and LSTM with every option that ONNX gives them.

Legend: T steps, B rows, I inputs, H hidden units, D directions (2 if bidirectional).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.errors import UsageError, suggest
from mainspring.models.onnx.operators.call import Call, Table, standard

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State], State]
"""Of the input of a step [B, gates * H] and the state before it: the state after it, hidden units first."""

_ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "relu": lambda x, a, b: torch.relu(x),
    "tanh": lambda x, a, b: torch.tanh(x),
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "affine": lambda x, a, b: a * x + b,
    "leakyrelu": lambda x, a, b: F.leaky_relu(x, a),
    "thresholdedrelu": lambda x, a, b: torch.where(x > a, x, torch.zeros_like(x)),
    "scaledtanh": lambda x, a, b: a * torch.tanh(b * x),
    "hardsigmoid": lambda x, a, b: torch.clamp(a * x + b, 0, 1),
    "elu": lambda x, a, b: F.elu(x, a),
    "softsign": lambda x, a, b: F.softsign(x),
    "softplus": lambda x, a, b: F.softplus(x),
}
_DEFAULTS = {
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01, 0.0),
    "thresholdedrelu": (1.0, 0.0),
    "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, 0.0),
}


def rnn(
    call: Call,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Elman's network: h = f(x W' + h R' + b)."""

    def cell(direction: int, f: list[Activation]) -> Cell:
        r = recurrence[direction]

        def step(inner: Tensor, state: State) -> State:
            return (f[0](_clipped(call, inner + state[0] @ r.T)),)

        return step

    return _layer(
        call, x, weight, _bias(bias), cell, [initial], ["tanh"], lengths, units=recurrence.shape[-1]
    )


def gru(
    call: Call,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gated recurrent unit (Cho et al. 2014, arXiv 1406.1078); gates in the order update, reset, hidden."""
    units, after = recurrence.shape[-1], bool(call.get("linear_before_reset", 0))
    zero = x.new_zeros(recurrence.shape[0], 3 * units)
    inner, outer = (zero, zero) if bias is None else (bias[:, : 3 * units], bias[:, 3 * units :])

    def cell(direction: int, f: list[Activation]) -> Cell:
        rz, rr, rh = recurrence[direction].chunk(3)
        bz, br, bh = outer[direction].chunk(3)

        def step(gates: Tensor, state: State) -> State:
            (h,), (z, r, n) = state, gates.chunk(3, -1)
            z = f[0](_clipped(call, z + h @ rz.T + bz))
            r = f[0](_clipped(call, r + h @ rr.T + br))
            n = n + (r * (h @ rh.T + bh) if after else (r * h) @ rh.T + bh)
            return ((1 - z) * f[1](_clipped(call, n)) + z * h,)

        return step

    return _layer(call, x, weight, inner, cell, [initial], ["sigmoid", "tanh"], lengths, units=units)


def lstm(
    call: Call,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial: Tensor | None = None,
    initial_cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Long short-term memory; gates in the order input, output, forget, cell."""
    units, coupled = recurrence.shape[-1], bool(call.get("input_forget", 0))

    def cell(direction: int, f: list[Activation]) -> Cell:
        r = recurrence[direction]
        zero = x.new_zeros(units)
        pi, po, pf = (zero,) * 3 if peepholes is None else peepholes[direction].chunk(3)

        def step(gates: Tensor, state: State) -> State:
            h, c = state
            i, o, g, n = (gates + h @ r.T).chunk(4, -1)
            i = f[0](_clipped(call, i + pi * c))
            g = 1 - i if coupled else f[0](_clipped(call, g + pf * c))
            c = g * c + i * f[1](_clipped(call, n))
            return f[0](_clipped(call, o + po * c)) * f[2](c), c

        return step

    states = [initial, initial_cell]
    kinds = ["sigmoid", "tanh", "tanh"]
    return _layer(call, x, weight, _bias(bias), cell, states, kinds, lengths, units=units)


def _layer(
    call: Call,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cell: Callable[[int, list[Activation]], Cell],
    initial: Sequence[Tensor | None],
    defaults: list[str],
    lengths: Tensor | None,
    *,
    units: int,
) -> tuple[Tensor, ...]:
    """Run each direction over the steps; hidden units of all steps, then the states after the last."""
    batch_first = bool(call.get("layout", 0))
    if batch_first:
        x = x.transpose(0, 1)
        initial = [None if s is None else s.transpose(0, 1) for s in initial]
    batch = x.shape[1]
    order = call.get("direction", "forward")
    directions = 2 if order == "bidirectional" else 1
    every = _activations(call, defaults, directions)
    outputs, finals = [], []
    for d in range(directions):
        back = order == "reverse" or d == 1
        inner = x @ weight[d].T
        inner = inner if bias is None else inner + bias[d]
        state = tuple(x.new_zeros(batch, units) if s is None else s[d] for s in initial)
        made, state = _run(cell(d, every[d]), inner, state, lengths, back)
        outputs.append(made)
        finals.append(state)
    y = torch.stack(outputs, 1)  # [T, D, B, H]
    last = [torch.stack(states) for states in zip(*finals, strict=True)]  # each [D, B, H]
    if batch_first:
        y, last = y.permute(2, 0, 1, 3), [s.transpose(0, 1) for s in last]
    values: tuple[Tensor, ...] = (y, *last)
    return values[: max(len(call.outputs), 1)] if len(call.outputs) > 1 else (y,)


def _run(cell: Cell, inner: Tensor, state: State, lengths: Tensor | None, back: bool) -> tuple[Tensor, State]:
    steps = inner.shape[0]
    outputs: list[Tensor] = [inner.new_zeros(0)] * steps
    for t in reversed(range(steps)) if back else range(steps):
        after = cell(inner[t], state)
        if lengths is not None:
            live = (t < lengths).to(inner.device)[:, None]
            outputs[t] = torch.where(live, after[0], torch.zeros_like(after[0]))
            after = tuple(torch.where(live, new, old) for new, old in zip(after, state, strict=True))
        else:
            outputs[t] = after[0]
        state = after
    return torch.stack(outputs), state


def _bias(bias: Tensor | None) -> Tensor | None:
    """Both halves of a layer's bias, which are only ever added."""
    if bias is None:
        return None
    first, second = bias.chunk(2, -1)
    return first + second


def _clipped(call: Call, x: Tensor) -> Tensor:
    limit = call.get("clip")
    return x if not limit else x.clamp(-limit, limit)


def _activations(call: Call, defaults: list[str], directions: int) -> list[list[Activation]]:
    names = [n.lower() for n in call.get("activations") or defaults * directions]
    alphas, betas = list(call.get("activation_alpha") or []), list(call.get("activation_beta") or [])
    chosen: list[Activation] = []
    for name in names:
        if name not in _ACTIVATIONS:
            raise UsageError(f"node {call.name!r}: activation {name!r}; {suggest(name, _ACTIVATIONS)}")
        alpha, beta = _DEFAULTS.get(name, (0.0, 0.0))
        if name in _DEFAULTS and alphas:
            alpha = alphas.pop(0)
        if name in ("affine", "scaledtanh", "hardsigmoid") and betas:
            beta = betas.pop(0)
        chosen.append(lambda x, f=_ACTIVATIONS[name], a=alpha, b=beta: f(x, a, b))  # type: ignore[misc]
    each = len(defaults)
    return [chosen[d * each : (d + 1) * each] for d in range(directions)]


RECURRENT: Table = standard({("GRU", 7): gru, ("LSTM", 7): lstm, ("RNN", 7): rnn})
