"""Bytes of activations that autograd keeps for backward, from the shape of a transformer.

The scheme is that of Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1: s b h (34 + 5 a s / h) bytes a
layer in 16 bits with dropout), taken apart by what our layers keep, so that it also holds for fused attention
(no s^2 term), gated feed-forwards, RMS norms and fp32. `tests/planner/test_activations.py` counts autograd's
saved storages beside it.

Legend (per token): h width of the model, i width of all heads, f width of the feed-forward, a heads, T tokens
a row.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from mainspring.nn.config import TransformerConfig
from mainspring.planner.published import Kept

Numerics = Literal["fp32", "autocast", "bf16"]
"""How bfloat16 is used: not at all; by autocast (residual stream in fp32); or throughout (FSDP2's policy)."""

_FP32 = 4
_CHOICE = 60
"""Bytes of a token's choice of an expert: indices, orders, factors."""


@dataclass(frozen=True)
class Widths:
    """Bytes of one element: in the residual stream, in matrix products, and of a dropout mask."""

    residual: int
    compute: int
    mask: int

    @classmethod
    def of(cls, numerics: Numerics, *, cuda: bool = False) -> Widths:
        """CUDA keeps dropout masks as booleans, the CPU as numbers."""
        compute = 4 if numerics == "fp32" else 2
        return cls(2 if numerics == "bf16" else 4, compute, 1 if cuda else compute)


@dataclass(frozen=True)
class LayerBytes:
    """What a layer keeps for each token, by what shares it."""

    stream: float
    """In the width of the model: every tensor rank keeps it, unless they share the tokens."""
    inner: float
    """In the width of heads and of the feed-forward: tensor ranks share it."""
    scores: float
    """Of attention, softmax and its like: shared too, and what selective recomputation leaves out."""

    @property
    def total(self) -> float:
        """Bytes of one rank alone."""
        return self.stream + self.inner + self.scores


def layer_bytes(
    config: TransformerConfig, seq_len: int, numerics: Numerics, *, cross: bool = False, cuda: bool = False
) -> float:
    """Bytes that one layer keeps for each token.

    Args:
        config: shape of the model.
        seq_len: tokens a row (T); matters only where attention is not fused (attention dropout, T5 bias).
        numerics: how bfloat16 is used.
        cross: the layer also attends to an encoder's output (of the same length).
        cuda: on a GPU rather than a CPU.
    """
    return layer_parts(config, seq_len, numerics, cross=cross, cuda=cuda).total


def layer_parts(
    config: TransformerConfig,
    seq_len: int,
    numerics: Numerics,
    *,
    cross: bool = False,
    experts: int = 0,
    cuda: bool = False,
) -> LayerBytes:
    """The same, taken apart; with so many experts in place of the feed-forward."""
    w = Widths.of(numerics, cuda=cuda)
    h, i, f = config.d_model, config.n_heads * config.head_width, config.d_ff
    rotated = 2 * i * w.compute if config.rotary else 0
    attention = (3 * i + i) * w.compute + rotated
    # Each sub-layer: the norm's input in the residual stream, and the product's input.
    sub_layer = h * w.residual + h * w.compute + _norm_bytes(config, numerics) + _dropout(config, h, w)
    feed_forward = (4 * f if config.gated else 2 * f) * w.compute
    scores = _scores(config, seq_len, numerics, w)
    stream = 2 * sub_layer
    if experts and config.experts is not None:
        # Rows sorted by expert before and after, the activation's input, and the gate's: its tokens in fp32.
        k = config.experts.top_k
        feed_forward = k * (2 * f if config.gated else f) * w.compute
        stream += 2 * k * h * w.compute + (h * (_FP32 - w.compute)) + 2 * experts * _FP32 + _CHOICE * k
    if not cross:
        return LayerBytes(stream, attention + feed_forward, scores)
    # Attention to the source has no distances; under autocast the source is cast for each layer.
    scores += _scores(config, seq_len, numerics, w, distances=False)
    cast = h * w.compute if numerics == "autocast" else 0
    return LayerBytes(stream + sub_layer + cast, attention + feed_forward + 4 * i * w.compute, scores)


def head_bytes(config: TransformerConfig, numerics: Numerics, *, cuda: bool = False) -> float:
    """Bytes that embeddings, the last norm and the head's transform keep for each token, logits apart."""
    w = Widths.of(numerics, cuda=cuda)
    h = config.d_model
    total: float = _dropout(config, h, w) + h * w.compute  # the head's input
    norms = int(config.norm_place == "pre") + int(config.embed_norm) + int(config.head_transform)
    total += norms * (h * w.residual + _norm_bytes(config, numerics))
    if config.norm_place == "post":
        total += h * w.compute * (1 if config.head_transform else 0)
    if config.head_transform:
        total += h * w.compute
    if config.is_encoder_decoder:  # the encoder's last norm, and what it hands on
        total += h * w.residual + (h * w.residual + _norm_bytes(config, numerics)) * (
            config.norm_place == "pre"
        )
    return total


def logit_bytes(config: TransformerConfig, numerics: Numerics) -> float:
    """Bytes for each predicted token around the loss: logits, log-softmax in fp32, and both gradients."""
    compute = Widths.of(numerics).compute
    columns = {"tokens": config.vocab_size, "replaced": 1, "none": 0}[config.head]
    return float(columns * (2 * compute + 2 * _FP32 if compute != _FP32 else 3 * _FP32))


def working_bytes(config: TransformerConfig, numerics: Numerics, *, cuda: bool = False) -> float:
    """Bytes for each token that the backward of one layer holds for a moment: gradients beside what they
    replace."""
    w = Widths.of(numerics, cuda=cuda)
    inner = config.d_ff * (2 if config.gated else 1)
    return 2.0 * (inner * w.compute + config.d_model * w.residual)


def kept_bytes(
    config: TransformerConfig,
    seq_len: int,
    numerics: Numerics,
    *,
    kept: Kept = "all",
    tensor: int = 1,
    tensor_sequence: bool = False,
    blocks: int | None = None,
    ends: float = 1.0,
    in_flight: float = 1,
    cuda: bool = False,
) -> float:
    """Bytes of activations that a rank keeps for each token of a row (logits apart).

    Args:
        config: shape of the model.
        seq_len: tokens a row.
        numerics: how bfloat16 is used.
        kept: with "input" a layer keeps its input alone, and one layer at a time is there in full; with
            "selective" it leaves out the scores.
        tensor: ranks that share each layer's products.
        tensor_sequence: between products they share the tokens, too.
        blocks: layers that the rank has; None: all.
        ends: part of what goes before the first layer and after the last that it has.
        in_flight: micro-batches of which it keeps activations (`schedule.in_flight`).
        cuda: on a GPU rather than a CPU.
    """
    both = config.is_encoder_decoder
    kinds = Counter(
        (both and index == 1, experts)
        for index, stack in enumerate(config.experts_by_layer)
        for experts in stack
    )
    depth = kinds.total()
    share = 1.0 if blocks is None else blocks / depth
    stream = tensor if tensor_sequence else 1
    head = ends * head_bytes(config, numerics, cuda=cuda) / stream
    full = most = 0.0
    for (cross, experts), count in kinds.items():
        layer = layer_parts(config, seq_len, numerics, cross=cross, experts=experts, cuda=cuda)
        scores = layer.scores if kept != "selective" else 0.0
        full += count * share * (layer.stream / stream + (layer.inner + scores) / tensor)
        most = max(most, layer.stream / stream + (layer.inner + layer.scores) / tensor)
    if kept == "input":
        inputs = depth * share * config.d_model * Widths.of(numerics).residual / stream
        return in_flight * (head + inputs) + most
    again = most if kept == "selective" and keeps_scores(config) else 0.0
    return in_flight * (head + full) + again


def keeps_scores(config: TransformerConfig) -> bool:
    """Whether attention keeps its scores (sparse attention computes them again)."""
    dense = config.sparse is None or config.is_encoder_decoder
    return (
        (dense and bool(config.attention_dropout))
        or config.t5_bias is not None
        or config.disentangled is not None
    )


def _norm_bytes(config: TransformerConfig, numerics: Numerics) -> float:
    """What a norm keeps beside its input: statistics, and for RMS (made of simple operations) its output."""
    if config.norm == "layer":
        return 2 * _FP32
    return _FP32 + config.d_model * (6 if numerics == "bf16" else _FP32)


def _dropout(config: TransformerConfig, width: int, w: Widths) -> float:
    return width * w.mask if config.dropout else 0


def _scores(
    config: TransformerConfig, seq_len: int, numerics: Numerics, w: Widths, *, distances: bool = True
) -> float:
    """What PyTorch's attention keeps beside queries, keys, values and output; blocked attention nothing."""
    a, i = config.n_heads, config.n_heads * config.head_width
    if distances and config.disentangled is not None:
        # Ours: probabilities, and with dropout what is left of them. (The projected distances of a layer are
        # there once for all rows, and are left out.)
        return a * seq_len * w.compute * (2 if config.attention_dropout else 1)
    if distances and config.sparse is not None:
        return 0.0
    if not config.attention_dropout and not (distances and config.t5_bias is not None):
        return a * _FP32  # fused: one log-sum-exp a head
    # Unfused: the softmax; with dropout also the mask and the product; in bfloat16 fp32 copies of q, k, v
    # too.
    kept = w.compute + (2 * _FP32 if config.attention_dropout else 0)
    upcast = i * (3 * _FP32 + w.compute) if numerics != "fp32" else 0
    return a * seq_len * kept + upcast
