"""Operators that work on each element: arithmetic, comparison, logic and activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Function, Table, standard, widened


def unary(function: Callable[[Tensor], Tensor]) -> Function:
    """A function of one tensor that has no attributes."""

    def apply(call: Call, x: Tensor) -> Tensor:
        return function(x)

    return widened(apply)


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """A function of two tensors that broadcast."""

    def apply(call: Call, a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)

    return widened(apply)


def variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """A function of two tensors over any number of them."""

    def apply(call: Call, *inputs: Tensor) -> Tensor:
        return reduce(function, inputs)

    return widened(apply)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Quotient; of integers rounded towards zero, as in C."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """a^b in the type of a."""
    return torch.pow(a, b).to(a.dtype)


def modulo(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Remainder with the sign of the divisor, or with fmod = 1 of the dividend."""
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


def mean(call: Call, *inputs: Tensor) -> Tensor:
    """Mean of tensors that broadcast."""
    return reduce(torch.add, inputs) / len(inputs)


def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip to bounds; where they cross, to the upper one."""
    for bound, name, limit in ((low, "min", torch.maximum), (high, "max", torch.minimum)):
        if bound is not None:
            x = limit(x, bound.to(x.dtype))
        elif name in call.attributes:
            x = limit(x, x.new_tensor(call.attributes[name]))
    return x


def gelu(call: Call, x: Tensor) -> Tensor:
    """Gaussian error linear unit."""
    return F.gelu(x, approximate=call.get("approximate", "none"))


def celu(call: Call, x: Tensor) -> Tensor:
    """Continuously differentiable exponential linear unit."""
    return F.celu(x, alpha=call.get("alpha", 1.0))


def elu(call: Call, x: Tensor) -> Tensor:
    """Exponential linear unit."""
    return F.elu(x, alpha=call.get("alpha", 1.0))


def selu(call: Call, x: Tensor) -> Tensor:
    """Scaled exponential linear unit."""
    alpha, gamma = call.get("alpha", 1.67326319217681884765625), call.get("gamma", 1.05070102214813232421875)
    below = torch.expm1(torch.clamp(x, max=0)) * alpha
    return torch.where(x > 0, x, below).mul(gamma)


def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """Leaky rectified linear unit."""
    return F.leaky_relu(x, call.get("alpha", 0.01))


def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """Rectified linear unit with a learnt slope below zero."""
    return torch.where(x < 0, x * slope, x)


def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """x above alpha, else 0."""
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


def shrink(call: Call, x: Tensor) -> Tensor:
    """Soft or hard shrinkage."""
    bias, border = call.get("bias", 0.0), call.get("lambd", 0.5)
    zero = torch.zeros_like(x)
    return torch.where(x < -border, x + bias, torch.where(x > border, x - bias, zero)).to(x.dtype)


def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """max(0, min(1, alpha x + beta))."""
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0, 1)


def hard_swish(x: Tensor) -> Tensor:
    """x times the hard sigmoid of slope 1/6."""
    return x * torch.clamp(x / 6 + 0.5, 0, 1)


def swish(call: Call, x: Tensor) -> Tensor:
    """x sigmoid(alpha x)."""
    return x * torch.sigmoid(call.get("alpha", 1.0) * x)


def swiglu(call: Call, gate: Tensor, x: Tensor | None = None) -> Tensor:
    """Swish of one half, or tensor, times the other."""
    if x is None:
        gate, x = gate.chunk(2, dim=call.get("axis", -1))
    return gate * torch.sigmoid(call.get("alpha", 1.0) * gate) * x


def softmax(call: Call, x: Tensor) -> Tensor:
    """Softmax over one axis."""
    return torch.softmax(x, dim=call.get("axis", -1))


def log_softmax(call: Call, x: Tensor) -> Tensor:
    """Logarithm of the softmax over one axis."""
    return torch.log_softmax(x, dim=call.get("axis", -1))


def hardmax(call: Call, x: Tensor) -> Tensor:
    """1 at the first largest element of an axis, else 0."""
    axis = call.get("axis", -1)
    first = (x == x.amax(axis, keepdim=True)).int().argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1)


def flattened(function: Function) -> Function:
    """Before opset 13 the axis cuts a tensor in two, and the function is over all of the second half."""

    def apply(call: Call, x: Tensor) -> Tensor:
        axis = call.get("axis", 1) % max(x.ndim, 1)
        flat = x.reshape(math.prod(x.shape[:axis]), -1)
        last = Call(call.domain, call.op, call.name, call.opset, {"axis": 1}, call.outputs)
        result: Tensor = function(last, flat)
        return result.reshape(x.shape)

    return apply


def is_inf(call: Call, x: Tensor) -> Tensor:
    """Whether an element is infinite, of one or either sign."""
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.get("detect_positive", 1):
        found = found | torch.isposinf(x.float())
    if call.get("detect_negative", 1):
        found = found | torch.isneginf(x.float())
    return found


def bit_shift(call: Call, x: Tensor, by: Tensor) -> Tensor:
    """Shift bits to the left or right."""
    if call.get("direction") == "LEFT":
        return torch.bitwise_left_shift(x, by)
    return torch.bitwise_right_shift(x, by)


def is_nan(x: Tensor) -> Tensor:
    """Whether an element is not a number; of 8-bit types, too."""
    return torch.isnan(x.float())


def where(call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the condition holds, else b."""
    return torch.where(condition, a, b)


ELEMENTWISE: Table = standard(
    {
        ("Abs", 6): unary(torch.abs),
        ("Acos", 7): unary(torch.acos),
        ("Acosh", 9): unary(torch.acosh),
        ("Add", 7): binary(torch.add),
        ("And", 7): binary(torch.logical_and),
        ("Asin", 7): unary(torch.asin),
        ("Asinh", 9): unary(torch.asinh),
        ("Atan", 7): unary(torch.atan),
        ("Atanh", 9): unary(torch.atanh),
        ("BitShift", 11): widened(bit_shift),
        ("BitwiseAnd", 18): binary(torch.bitwise_and),
        ("BitwiseNot", 18): unary(torch.bitwise_not),
        ("BitwiseOr", 18): binary(torch.bitwise_or),
        ("BitwiseXor", 18): binary(torch.bitwise_xor),
        ("Ceil", 6): unary(torch.ceil),
        ("Celu", 12): celu,
        ("Clip", 6): widened(clip),
        ("Cos", 7): unary(torch.cos),
        ("Cosh", 9): unary(torch.cosh),
        ("Div", 7): binary(divide),
        ("Elu", 6): elu,
        ("Equal", 7): binary(torch.eq),
        ("Erf", 9): unary(torch.erf),
        ("Exp", 6): unary(torch.exp),
        ("Floor", 6): unary(torch.floor),
        ("Gelu", 20): gelu,
        ("Greater", 7): binary(torch.gt),
        ("GreaterOrEqual", 12): binary(torch.ge),
        ("HardSigmoid", 6): hard_sigmoid,
        ("HardSwish", 14): unary(hard_swish),
        ("Hardmax", 1): flattened(hardmax),
        ("Hardmax", 13): hardmax,
        ("IsInf", 10): is_inf,
        ("IsNaN", 9): unary(is_nan),
        ("LeakyRelu", 6): leaky_relu,
        ("Less", 7): binary(torch.lt),
        ("LessOrEqual", 12): binary(torch.le),
        ("Log", 6): unary(torch.log),
        ("LogSoftmax", 1): flattened(log_softmax),
        ("LogSoftmax", 13): log_softmax,
        ("Max", 6): variadic(torch.maximum),
        ("Mean", 6): mean,
        ("Min", 6): variadic(torch.minimum),
        ("Mish", 18): unary(F.mish),
        ("Mod", 10): widened(modulo),
        ("Mul", 7): binary(torch.mul),
        ("Neg", 6): unary(torch.neg),
        ("Not", 1): unary(torch.logical_not),
        ("Or", 7): binary(torch.logical_or),
        ("PRelu", 7): widened(prelu),
        ("Pow", 7): widened(power),
        ("Reciprocal", 6): unary(torch.reciprocal),
        ("Relu", 6): unary(torch.relu),
        ("Round", 11): unary(torch.round),
        ("Selu", 6): selu,
        ("Shrink", 9): shrink,
        ("Sigmoid", 6): unary(torch.sigmoid),
        ("Sign", 9): unary(torch.sign),
        ("Sin", 7): unary(torch.sin),
        ("Sinh", 9): unary(torch.sinh),
        ("Softmax", 1): flattened(softmax),
        ("Softmax", 13): softmax,
        ("Softplus", 1): unary(F.softplus),
        ("Softsign", 1): unary(F.softsign),
        ("Sqrt", 6): unary(torch.sqrt),
        ("Sub", 7): binary(torch.sub),
        ("Sum", 6): variadic(torch.add),
        ("SwiGLU", 28): swiglu,
        ("Swish", 24): swish,
        ("Tan", 7): unary(torch.tan),
        ("Tanh", 6): unary(torch.tanh),
        ("ThresholdedRelu", 10): thresholded_relu,
        ("Where", 9): widened(where),
        ("Xor", 7): binary(torch.logical_xor),
    }
)
