"""A whole step of decoding as one call of the compiled tier, for models of GPT-2's shape.

    step = DecodeStep.of(model)  # None where the model or its kernels do not suit
    logits = step(model.embeddings(batch)[:, 0], keys, values, slots, lengths)

Keys and values are those of any cache of the model's, written in place: rows sit in slots and need not go in
step. Legend: R rows, S slots, H heads, C capacity, E head width, D width, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from mainspring.infer.quantized.linear import Int4Linear, Int8Linear, Int8WeightLinear, QuantizedLinear
from mainspring.infer.quantized.native.kernels import LinearStruct, Native, describe
from mainspring.infer.quantized.table import QuantizedTable
from mainspring.nn.block import Block
from mainspring.nn.feed_forward import FeedForward
from mainspring.nn.head import LanguageHead
from mainspring.nn.transformer import Transformer

_ACTIVATIONS = ("gelu", "gelu_tanh", "relu")


class _Norm(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("epsilon", ctypes.c_float),
        ("centred", ctypes.c_int32),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("attention_norm", "feed_forward_norm")),
        *((name, LinearStruct) for name in ("qkv", "out", "up", "down")),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("depth", "heads", "head_width", "width", "capacity")),
        *((name, ctypes.c_int64) for name in ("slot_stride", "head_stride", "token_stride")),
        ("last", _Norm),
        ("head", LinearStruct),
        ("scale", ctypes.c_float),
        ("unused", ctypes.c_int32),
    )


class DecodeStep:
    """One token of each row through all layers, in one parallel region."""

    def __init__(self, model: Transformer, kernels: Native) -> None:
        """`model` must suit (`of`); its tensors must stay where they are."""
        config = model.config
        self._model, self._kernels = model, kernels
        blocks = [block for block in model.layers if isinstance(block, Block)]
        self._layers = (_Layer * len(blocks))(*(_layer(block, config.activation) for block in blocks))
        head = model.head
        assert isinstance(head, LanguageHead)
        table: nn.Module = model.embeddings.token if head.table is None else head.table
        assert isinstance(table, QuantizedTable)
        self.vocabulary = min(config.vocab_size, table.rows.out_features)
        last = _linear(table.rows, head.bias)
        last.outputs = self.vocabulary
        self._struct = _Model(
            layers=ctypes.addressof(self._layers),
            depth=len(blocks),
            heads=config.n_heads,
            head_width=config.head_width,
            width=config.d_model,
            last=_norm(model.norm),
            head=last,
            scale=config.attention_scale or config.head_width**-0.5,
        )

    @classmethod
    def of(cls, model: Transformer) -> Self | None:
        """The step of a model; None where the model is not of this shape, or not quantised with compiled
        kernels: pre-norm, absolute positions at most, a plain feed-forward, int8 or int4 throughout."""
        kernels = _suiting(model)
        return None if kernels is None else cls(model, kernels)

    def __call__(
        self, x: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], slots: Tensor, lengths: Tensor
    ) -> Tensor:
        """Read one token a row; its keys and values are stored.

        Args:
            x: what enters the first layer, fp32 [R, D].
            keys: of each layer, fp32 [S, H, C, E] of any strides with E dense.
            values: likewise, with the same strides.
            slots: where each row's keys and values are, int64 [R], each slot once.
            lengths: tokens that each row has stored, int64 [R], below C.

        Returns:
            Logits, fp32 [R, V].
        """
        first, layout = keys[0], self._struct
        assert first.dtype == torch.float32 and first.stride(3) == 1 and int(lengths.max()) < first.shape[2]
        assert all(t.stride() == first.stride() for t in (*keys, *values)), "caches of different strides"
        layout.capacity = first.shape[2]
        layout.slot_stride, layout.head_stride, layout.token_stride = first.stride()[:3]
        for layer, k, v in zip(self._layers, keys, values, strict=True):
            layer.keys, layer.values = k.data_ptr(), v.data_ptr()
        x, slots, lengths = x.contiguous(), slots.contiguous(), lengths.contiguous()
        logits = torch.empty(len(x), self.vocabulary)
        self._kernels.library.mainspring_step(
            ctypes.byref(layout),
            x.data_ptr(),
            slots.data_ptr(),
            lengths.data_ptr(),
            len(x),
            logits.data_ptr(),
            torch.get_num_threads(),
        )
        return logits


def _suiting(model: Transformer) -> Native | None:
    config, head = model.config, model.head
    simple = (
        config.norm_place == "pre"
        and not config.is_encoder_decoder
        and config.activation in _ACTIVATIONS
        and config.rotary is None
        and all(part is None for part in (model.bias, model.distances, model.conv))
        and isinstance(head, LanguageHead)
        and head.transform is None
        and not (config.mask_decoder or config.head_context)
        and not model.training
    )
    if not simple or not isinstance(head, LanguageHead):
        return None
    table: nn.Module = model.embeddings.token if head.table is None else head.table
    layers: list[nn.Module] = [table.rows] if isinstance(table, QuantizedTable) else [table]
    for block in model.layers:
        if not isinstance(block, Block) or not isinstance(block.feed_forward, FeedForward):
            return None
        attention = block.attention
        if attention.qv_bias is not None:
            return None
        layers += [attention.qkv, attention.out, block.feed_forward.up, block.feed_forward.down]
    integers = [layer for layer in layers if isinstance(layer, Int8Linear | Int4Linear)]
    if len(integers) < len(layers) or any(isinstance(layer, Int8WeightLinear) for layer in integers):
        return None
    kernels = {id(layer.kernels) for layer in integers}
    one = integers[0].kernels
    floats = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    return one if len(kernels) == 1 and isinstance(one, Native) and floats else None


def _layer(block: Block, activation: str) -> _Layer:
    feed_forward = block.feed_forward
    assert isinstance(feed_forward, FeedForward)
    return _Layer(
        attention_norm=_norm(block.attention_norm),
        feed_forward_norm=_norm(block.feed_forward_norm),
        qkv=_linear(block.attention.qkv),
        out=_linear(block.attention.out),
        up=_linear(feed_forward.up, activation=activation),
        down=_linear(feed_forward.down),
    )


def _linear(layer: nn.Module, bias: Tensor | None = None, activation: str | None = None) -> LinearStruct:
    assert isinstance(layer, QuantizedLinear)
    bias = layer.bias if bias is None else bias
    return describe(layer.values, layer.scales, bias, layer.in_features, activation)


def _norm(norm: nn.Module | None) -> _Norm:
    assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
    bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
    epsilon = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
    pointers = (None if part is None else part.data_ptr() for part in (norm.weight, bias))
    return _Norm(*pointers, epsilon, int(isinstance(norm, nn.LayerNorm)))
