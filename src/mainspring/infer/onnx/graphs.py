"""What a graph computes: modules over plain tensors around the one transformer.

Names of inputs and outputs are those that Hugging Face's exporters use, so that programs that serve such
graphs serve ours. Legend: B rows, T tokens, P tokens seen before, S source tokens, V vocabulary, L layers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.infer.onnx.cache import GraphCache
from mainspring.nn.block import Block
from mainspring.nn.cache import KVCache
from mainspring.nn.part import Carried, Part
from mainspring.nn.transformer import Output, Transformer


def encoder_batch(ids: Tensor, mask: Tensor, types: Tensor | None) -> TokenBatch:
    """Rows in which every token sees every other that is none of padding. ids, mask, types: int64 [B, T]."""
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return TokenBatch(ids, index, torch.zeros_like(ids), type=types, valid=mask > 0)


def decoder_batch(ids: Tensor, mask: Tensor, positions: Tensor, before: int) -> tuple[TokenBatch, TokenBatch]:
    """New tokens, and data of those seen before them.

    Args:
        ids: int64 [B, T].
        mask: 0 at padding, of old and new tokens, int64 [B, P + T].
        positions: of the new tokens, int64 [B, T].
        before: P.
    """
    rank = torch.arange(before + ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
    valid = mask > 0
    new = TokenBatch(ids, positions, rank[:, before:], valid=valid[:, before:])
    # Keys are turned before they are kept, so positions of old tokens matter to biases of distance alone,
    # which see them as their places in the row.
    old = TokenBatch(rank[:, :before] * 0, rank[:, :before], rank[:, :before], valid=valid[:, :before])
    return new, old


class EncoderGraph(nn.Module):
    """Hidden states, logits where there is a head, and a summary where there is a pooler."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """All int64 [B, T]; hidden states come first."""
        output = cast(Output, self.model(encoder_batch(input_ids, attention_mask, token_type_ids)))
        parts = [output.hidden]
        if output.logits.shape[-1]:
            parts.append(output.logits)
        parts += [extra for extra in (output.summary, output.pair_logits) if extra is not None]
        return tuple(parts)


class TaskGraph(nn.Module):
    """Logits of a task head (`mainspring.finetune.heads.TaskModel`), or the vectors of an embedder."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """All int64 [B, T]; [B, C] of rows, [B, T, C] of tokens, [B, W] of an embedder."""
        logits: Tensor = self.model(encoder_batch(input_ids, attention_mask, token_type_ids))
        return logits


class DecoderGraph(nn.Module):
    """Logits of the next tokens, and the cache with theirs added."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """ids, positions [B, T], mask [B, P + T]; past: keys, values of each layer in turn, [B, heads, P,
        head_dim]. Logits [B, T, V], then the cache likewise."""
        new, old = decoder_batch(input_ids, attention_mask, position_ids, past[0].shape[2])
        cache = GraphCache(list(zip(past[0::2], past[1::2], strict=True)), old)
        output = cast(Output, self.model(new, cache=cast(KVCache, cache)))
        return output.logits, *(tensor for layer in cache.layers for tensor in layer.present)


class SourceGraph(nn.Module):
    """An encoder-decoder's encoder: keys and values of its output for every layer of the decoder."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """int64 [B, S]; hidden states [B, S, D], then keys and values of each layer in turn, [B, heads, S,
        head_dim]."""
        source = encoder_batch(input_ids, attention_mask, None)
        assert self.model.encoder is not None
        depth = len(self.model.encoder)
        part = Part(0, depth, depth + len(self.model.layers))
        memory = cast(Carried, self.model(source, source=source, part=part)).memory
        assert memory is not None
        crossing = [cast(Block, block).cross for block in self.model.layers]
        pairs = [one.keys_values(memory) for one in crossing if one is not None]
        return memory, *(tensor for pair in pairs for tensor in pair)


class TargetGraph(nn.Module):
    """An encoder-decoder's decoder: logits of the next tokens, and the cache with theirs added."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        encoder_attention_mask: Tensor,
        cross: list[Tensor],
        past: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """As `DecoderGraph`, with the source's mask [B, S] and what `SourceGraph` gave of each layer."""
        new, old = decoder_batch(input_ids, attention_mask, position_ids, past[0].shape[2])
        source = encoder_batch(encoder_attention_mask * 0, encoder_attention_mask, None)
        cache = GraphCache(
            list(zip(past[0::2], past[1::2], strict=True)),
            old,
            list(zip(cross[0::2], cross[1::2], strict=True)),
            source,
        )
        output = cast(Output, self.model(new, cache=cast(KVCache, cache)))
        return output.logits, *(tensor for layer in cache.layers for tensor in layer.present)
