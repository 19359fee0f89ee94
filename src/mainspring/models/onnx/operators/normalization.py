"""Normalisation, dropout and losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Table, standard
from mainspring.models.onnx.types import onnx_type


def _channels(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(-1, *[1] * (like.ndim - 2))


def batch_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """Normalise each channel by given statistics, or with training_mode by the batch's own."""
    epsilon, momentum = call.get("epsilon", 1e-5), call.get("momentum", 0.9)
    if not call.get("training_mode", 0):
        return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)
    axes = [n for n in range(x.ndim) if n != 1]
    own_variance, own_mean = torch.var_mean(x, axes, correction=0)
    y = F.batch_norm(x, own_mean.detach(), own_variance.detach(), scale, bias, eps=epsilon)
    if x.requires_grad or scale.requires_grad:
        y = F.batch_norm(x, None, None, scale, bias, training=True, eps=epsilon)
    running = [
        kept * momentum + own * (1 - momentum) for kept, own in ((mean, own_mean), (variance, own_variance))
    ]
    return call.outputs_of(y, *running)  # type: ignore[no-any-return]


def instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalise each channel of each row."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.get("epsilon", 1e-5))


def layer_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    """Normalise the axes from `axis` on (Ba et al. 2016, arXiv 1607.06450)."""
    axis, epsilon = call.get("axis", -1), call.get("epsilon", 1e-5)
    shape = x.shape[axis:]
    if not (call.wants(1) or call.wants(2)) and scale.shape == shape and x.dtype == scale.dtype:
        return F.layer_norm(x, shape, scale, bias, epsilon)
    axes = list(range(axis % x.ndim, x.ndim))
    stash = onnx_type(call.get("stash_type", 1))
    wide = x.to(stash)
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + epsilon)
    y = ((wide - mean) * inverse).to(x.dtype) * scale
    return call.outputs_of(y if bias is None else y + bias, mean, inverse)  # type: ignore[no-any-return]


def rms_normalization(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """Divide by the root of the mean square of the axes from `axis` on (arXiv 1910.07467)."""
    axis = call.get("axis", -1) % x.ndim
    wide = x.to(onnx_type(call.get("stash_type", 1)))
    square = wide.square().mean(list(range(axis, x.ndim)), keepdim=True)
    return (wide * torch.rsqrt(square + call.get("epsilon", 1e-5))).to(x.dtype) * scale


def group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalise groups of channels (Wu and He 2018, arXiv 1803.08494); scale and bias for each channel."""
    return F.group_norm(x, call.attributes["num_groups"], scale, bias, call.get("epsilon", 1e-5))


def group_normalization_by_group(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Before opset 21: scale and bias for each group."""
    each = x.shape[1] // scale.numel()
    return group_normalization(call, x, scale.repeat_interleave(each), bias.repeat_interleave(each))


def lp_normalization(call: Call, x: Tensor) -> Tensor:
    """Divide by the p-norm of an axis; 0 where that is 0."""
    norm = torch.linalg.vector_norm(x, ord=call.get("p", 2), dim=call.get("axis", -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def mean_variance_normalization(call: Call, x: Tensor) -> Tensor:
    """To mean 0 and variance 1 over axes."""
    axes = call.get("axes", [0, 2, 3])
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / (variance.sqrt() + 1e-9)


def local_response(call: Call, x: Tensor) -> Tensor:
    """Divide by a power of neighbouring channels' squares (Krizhevsky et al. 2012, section 3.3)."""
    size, alpha = call.attributes["size"], call.get("alpha", 1e-4)
    below = (size - 1) // 2
    squares = F.pad(x.square(), [0, 0] * (x.ndim - 2) + [below, size - 1 - below])
    total = squares.unfold(1, size, 1).sum(-1)
    divisor: Tensor = (call.get("bias", 1.0) + alpha / size * total) ** call.get("beta", 0.75)
    return x / divisor


def dropout(
    call: Call, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Drop elements where the graph says that it is being trained; else the input as it is."""
    share = float(ratio) if ratio is not None else 0.5
    if training is not None and bool(training) and share > 0:
        keep = torch.rand_like(x, dtype=torch.float32) >= share
        return call.outputs_of(x * keep / (1 - share), keep)  # type: ignore[no-any-return]
    return call.outputs_of(x, torch.ones_like(x, dtype=torch.bool))  # type: ignore[no-any-return]


def negative_log_likelihood(call: Call, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Minus the target's log probability."""
    ignored = call.get("ignore_index")
    return F.nll_loss(
        x,
        target.to(torch.int64),
        weight,
        ignore_index=-100 if ignored is None else ignored,
        reduction=call.get("reduction", "mean"),
    )


def softmax_cross_entropy(
    call: Call, x: Tensor, target: Tensor, weight: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross entropy of logits [N, C, ...] with targets [N, ...], and the log probabilities."""
    logs = torch.log_softmax(x, 1)
    return call.outputs_of(  # type: ignore[no-any-return]
        negative_log_likelihood(call, logs, target, weight), logs
    )


NORMALIZATION: Table = standard(
    {
        ("BatchNormalization", 7): batch_normalization,
        ("Dropout", 7): dropout,
        ("GroupNormalization", 18): group_normalization_by_group,
        ("GroupNormalization", 21): group_normalization,
        ("InstanceNormalization", 6): instance_normalization,
        ("LRN", 1): local_response,
        ("LayerNormalization", 17): layer_normalization,
        ("LpNormalization", 1): lp_normalization,
        ("MeanVarianceNormalization", 9): mean_variance_normalization,
        ("NegativeLogLikelihoodLoss", 12): negative_log_likelihood,
        ("RMSNormalization", 23): rms_normalization,
        ("SoftmaxCrossEntropyLoss", 12): softmax_cross_entropy,
    }
)
