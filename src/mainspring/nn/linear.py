"""Linear layers whose fp32 products on CPU go through oneDNN in both directions.

PyTorch multiplies fp32 matrices on CPU with MKL, which does not use AVX-512 on every processor that has it;
oneDNN, in every x86 build of PyTorch, does (on an AMD EPYC 220 against 105 GFLOP/s on one thread, both true
fp32). With AVX2 alone the two are level for matrices as they lie, and MKL is up to twice as fast for
transposed ones, which gradients need. Other devices and dtypes, autocast and small products take PyTorch's
own path. A compiler sees one operator, which it calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.nn.peers import ALONE, Peers

WIDE = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
"""Whether oneDNN is ahead of MKL by its instructions."""
SMALLEST = 1 << 20
"""Multiplications from which a call's fixed cost is worth it."""
FEWEST_ROWS = 16
"""Rows of the input from which oneDNN is ahead with a transposed matrix too, as gradients need it."""


class Narrowing(Protocol):
    """What a product sees of its operands while a model is trained for narrow number formats."""

    def weight(self, weight: Tensor) -> Tensor:
        """In place of the weight [out, in], with a gradient for it."""
        ...

    def input(self, input: Tensor) -> Tensor:
        """In place of the input [..., in], with a gradient for it."""
        ...


class LinearMap:
    """What a linear layer of any number format offers beside its forward; feed-forwards ask for it."""

    narrowing: Narrowing | None = None
    """Set while a model is trained for narrow formats; None: operands are seen as they are."""

    def product(self, input: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's product with a bias [out] of the caller's: [..., in] -> [..., out]."""
        raise AssertionError(f"{type(self).__name__} does not say how it multiplies")

    def activated(self, input: Tensor, activation: str) -> Tensor | None:
        """The layer and a pointwise function of its result in one step: [..., in] -> [..., out].

        None where it has to be done in two.
        """
        return None

    def seen_weight(self) -> Tensor:
        """The weight as products see it, [out, in]."""
        weight: Tensor = self.weight  # type: ignore[attr-defined]
        return weight if self.narrowing is None else self.narrowing.weight(weight)

    def seen_input(self, input: Tensor) -> Tensor:
        """An input as the product sees it."""
        return input if self.narrowing is None else self.narrowing.input(input)


class Linear(nn.Linear, LinearMap):
    """torch's linear layer with `linear` for its product."""

    def forward(self, input: Tensor) -> Tensor:
        """input [..., in] -> [..., out]."""
        return self.product(input, self.bias)

    def product(self, input: Tensor, bias: Tensor | None) -> Tensor:
        """See `LinearMap.product`."""
        return linear(self.seen_input(input), self.seen_weight(), bias)

    def activated(self, input: Tensor, activation: str) -> Tensor | None:
        """`linear_activated` of this layer."""
        if type(self) is not Linear or self.narrowing is not None:
            return None
        return linear_activated(input, self.weight, self.bias, activation)


class Closing(Linear):
    """The last map of a region that is cut over ranks: their products are added up, and the bias once."""

    peers: Peers = ALONE

    def forward(self, input: Tensor) -> Tensor:
        """input [..., in], or what part of its last dimension is here -> [..., out]."""
        bias = None if self.bias is None else self.peers.once(self.bias)
        return self.peers.leave(self.product(input, bias))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias, as `torch.nn.functional.linear`, by the fastest path that gives true fp32.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out], or none.

    Returns:
        [..., out].
    """
    if torch.compiler.is_compiling() and not torch.is_grad_enabled():
        # A compiler that sees the product can fuse what follows it.
        return F.linear(x, weight, bias)
    if _suits(x, weight, bias):
        if torch.compiler.is_compiling():
            compiled: Tensor = _linear(x, weight, bias)
            return compiled
        if not torch.is_grad_enabled():
            return _product(x, weight, bias)
        product: Tensor = _OneDnnLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return product
    return F.linear(x, weight, bias)


def linear_activated(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor | None:
    """`linear` and a pointwise function of its result in one operator, for inference on CPU.

    oneDNN applies the function to sums that it still has in registers: a pass over memory less, and in
    16 bits a rounding less.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out], or none.
        activation: a name of `mainspring.nn.config.Activation`.

    Returns:
        [..., out]; None where there is no such operator, or a gradient is wanted.
    """
    post = _ACTIVATED.get(activation)
    if post is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    sixteen = x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not _suits(x, weight, bias, torch.bfloat16 if sixteen else torch.float32):
        return None
    name, algorithm = post
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    return result


_ACTIVATED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", "")}
"""oneDNN's names of activations, and of their algorithms."""


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32) -> bool:
    if x.numel() * weight.shape[0] < SMALLEST:
        return False
    operands = (x, weight) if bias is None else (x, weight, bias)
    # Subclasses (sharded, fake) know torch's own operators only.
    plain = all(type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" for t in operands)
    return (
        plain
        and all(t.dtype == dtype for t in operands)
        and bool(torch.backends.mkldnn.enabled)
        and torch._C._has_mkldnn
        and not torch.is_autocast_enabled("cpu")
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not (WIDE or (x.is_contiguous() and weight.is_contiguous())):
        return F.linear(x, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    # The operator's result is a view of a matrix; FSDP warns of views among a module's outputs.
    plain: Tensor = torch.ops.aten._unsafe_view(result, list(result.shape))
    return plain


def _gradients(
    ctx: Any, grad: Tensor, multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients by the input, the weight and the bias, where needed, by products of the given kind."""
    x, weight = ctx.saved_tensors
    by_x, by_weight, by_bias = ctx.needs_input_grad
    flat_grad, flat_x = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    if flat_x.shape[0] < FEWEST_ROWS:
        multiply = F.linear
    grad_x = multiply(flat_grad, weight.t(), None).view(x.shape) if by_x else None
    grad_weight = multiply(flat_grad.t(), flat_x.t(), None) if by_weight else None
    return grad_x, grad_weight, flat_grad.sum(0) if by_bias else None


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (grad,) = outputs
        # Where a gradient of this gradient is wanted, the operators must have one.
        return _gradients(ctx, grad, F.linear if torch.is_grad_enabled() else _product)


@torch.library.custom_op("mainspring::linear", mutates_args=())
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`_product` as compilers need it."""
    return _product(x, weight, bias)


@_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return _gradients(ctx, grad, _linear)


_linear.register_autograd(_differentiate, setup_context=_keep)
