"""The one transformer, configured, not subclassed: encoder, decoder, encoder-decoder."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.errors import UsageError
from mainspring.nn.attention import Here, Sight, TokenSpread
from mainspring.nn.block import Block, make_norm
from mainspring.nn.cache import KVCache
from mainspring.nn.config import T5Bias, TransformerConfig
from mainspring.nn.conv import TokenConvolution
from mainspring.nn.disentangled import DistanceTable, positions_aligned
from mainspring.nn.embedding import Embeddings
from mainspring.nn.gate import PositionGate
from mainspring.nn.head import LanguageHead, Pooler, make_head
from mainspring.nn.init import Initial, declare
from mainspring.nn.masks import Facts, inspect, part_masks, sdpa_mask, source_mask
from mainspring.nn.positions import RelativeBias, rotary_angles


class Output(NamedTuple):
    """What a forward gives. Legend: B rows, T tokens, N selected tokens, L layers, D width, V vocabulary."""

    logits: Tensor
    """[B, T, V], or [N, V] where `select` was given; in the dtype of computation. V is 1 for a head that
    finds replaced tokens, and 0 without a head."""
    hidden: Tensor
    """[B, T, D], after the last layer (and the final norm, where there is one)."""
    states: tuple[Tensor, ...] | None = None
    """With `states=True`: L + 1 of [B, T, D]: embeddings, then each layer's output (before a final norm)."""
    summary: Tensor | None = None
    """[B, D], where the configuration has a pooler."""
    pair_logits: Tensor | None = None
    """[B, pair_classes], where the configuration has them."""
    auxiliary: Tensor | None = None
    """Of layers with experts, summed over them: losses of balance and of the gates' normalisers, fp32 [2]."""


class Transformer(nn.Module):
    """A stack of layers over a `TokenBatch`, from embeddings to logits.

    Parameters get their values from `nn.init.initialize` or from weights; construction inside
    `torch.device("meta")` takes no memory.

    >>> import torch
    >>> from mainspring.data.batch import causal_batch
    >>> from mainspring.nn import Transformer, TransformerConfig, initialize
    >>> config = TransformerConfig(d_model=8, n_heads=2, n_layers=1, d_ff=32, vocab_size=11)
    >>> model = initialize(Transformer(config), seed=0)
    >>> model(causal_batch(torch.tensor([[1, 2, 3]]))).logits.shape
    torch.Size([1, 3, 11])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.remat = False
        """Compute each layer again in backward instead of keeping what it computed."""
        self.spread: TokenSpread = Here()
        """How the tokens of a row lie on ranks."""
        self.embeddings = Embeddings(config)
        both = config.is_encoder_decoder
        *encoder, experts = config.experts_by_layer
        self.encoder = nn.ModuleList(Block(config, experts=n) for n in encoder[0]) if encoder else None
        self.layers = nn.ModuleList(Block(config, cross=both, experts=n) for n in experts)
        bias = config.t5_bias
        self.encoder_bias = _relative_bias(config, bias, True) if both and bias else None
        self.bias = _relative_bias(config, bias, bias.bidirectional and not both) if bias else None
        self.distances = DistanceTable(config) if config.disentangled is not None else None
        self.conv = TokenConvolution(config) if config.conv is not None else None
        final = config.norm_place == "pre"
        self.encoder_norm = make_norm(config) if final and both else None
        self.norm = make_norm(config) if final else None
        self.head = make_head(config)
        self.pooler = Pooler(config) if config.pooler else None
        self._declare_initial_values()

    def forward(
        self,
        batch: TokenBatch,
        *,
        source: TokenBatch | None = None,
        cache: KVCache | None = None,
        embeds: Tensor | None = None,
        select: Tensor | None = None,
        states: bool = False,
    ) -> Output:
        """Run the model.

        Args:
            batch: B rows of T tokens; their ranks, documents and validity say who sees whom.
            source: input of the encoder, for an encoder-decoder; with a cache, in the first forward only.
            cache: what was seen before; the batch's tokens are added to it.
            embeds: [B, T, D] in place of `embed(batch)`.
            select: bool [B, T]; logits only where it is True, in row-major order.
            states: also return the hidden states of every layer.

        Raises:
            UsageError: the source or cache does not fit the model, or a token or position is out of range.
        """
        facts = self._inspect(batch)
        self._check_source(source, cache)
        keys = None
        if cache is not None:
            if torch.is_grad_enabled():
                raise UsageError("a cache carries no gradient: run the model inside torch.inference_mode()")
            seen = cache.push(batch)
            keys = seen if seen.ids.shape[1] > batch.ids.shape[1] else None
        sight = self._sight(batch, keys, facts, self.bias)
        auxiliary: list[Tensor] = []
        memory, cross_sight = self._remember(batch, source, cache, auxiliary)
        x = self.embeddings(batch, shared_positions=facts.shared_positions) if embeds is None else embeds
        kept, before = [x], x
        for i, block in enumerate(self.layers):
            store = None if cache is None else cache.layers[i]
            before = x
            x = _apart(block(x, sight, memory, cross_sight, store, self.remat, valid=batch.valid), auxiliary)
            if i == 0 and self.conv is not None:
                x = self.conv(kept[0], x, batch)
            if states:
                kept.append(x)
        hidden: Tensor = x if self.norm is None else self.norm(x)
        read = hidden
        if self.config.mask_decoder:
            read = self._decode_masks(batch, before, sight, auxiliary)
        elif self.config.head_context:
            read = hidden + self.spread.first(hidden)
        logits: Tensor = self.head(read if select is None else read[select], self.embeddings.token.weight)
        summary, pair = (None, None) if self.pooler is None else self.pooler(self.spread.first(hidden))
        losses = torch.stack(auxiliary).sum(0) if auxiliary else None
        return Output(logits, hidden, tuple(kept) if states else None, summary, pair, losses)

    def _decode_masks(
        self, batch: TokenBatch, below: Tensor, sight: Sight, auxiliary: list[Tensor]
    ) -> Tensor:
        """What tokens are predicted from: queries with positions, twice by the last layer (DeBERTa, 3.2).

        Args:
            below: what the last layer took, [B, T, D]; keys and values come from it both times.
        """
        assert self.embeddings.position is not None
        queries: Tensor = below + self.embeddings.position(batch.pos + self.embeddings.offset)
        for _ in range(2):
            given = self.layers[-1](queries, sight, remat=self.remat, context=below, valid=batch.valid)
            queries = _apart(given, auxiliary)
        return queries

    def embed(self, batch: TokenBatch) -> Tensor:
        """What enters the first layer, [B, T, D]; given back to `forward` as `embeds` it changes nothing."""
        embedded: Tensor = self.embeddings(batch)
        return embedded

    def blocks(self) -> list[nn.Module]:
        """The layers in the order of computation: units of sharding, recomputation and pipelining."""
        return [*(self.encoder or ()), *self.layers]

    def _check_source(self, source: TokenBatch | None, cache: KVCache | None) -> None:
        if cache is not None and (self.conv is not None or self.config.mask_decoder):
            raise UsageError(
                "a model with a convolution or a mask decoder reads whole rows: it takes no cache"
            )
        seen = cache is not None and cache.source is not None
        if self.encoder is None and source is not None:
            raise UsageError("a source was given to a model without an encoder; put its tokens in the batch")
        if seen and source is not None:
            raise UsageError("the cache holds a source already; give it in the first forward only")
        if self.encoder is not None and source is None and not seen:
            raise UsageError("an encoder-decoder needs a source (or a cache that has seen it)")

    def _remember(
        self, batch: TokenBatch, source: TokenBatch | None, cache: KVCache | None, auxiliary: list[Tensor]
    ) -> tuple[Tensor | None, Sight | None]:
        """The encoder's output (unless the cache has it) and who sees what of it."""
        memory = None
        if source is not None:
            memory = self._encode(source, auxiliary)
            if cache is not None:
                cache.source = source
        elif cache is not None:
            source = cache.source
        if source is None:
            return memory, None
        return memory, self.spread.sight(_look_at_source, batch, source)

    def _encode(self, source: TokenBatch, auxiliary: list[Tensor]) -> Tensor:
        assert self.encoder is not None
        facts = self._inspect(source)
        sight = self._sight(source, None, facts, self.encoder_bias)
        x: Tensor = self.embeddings(source, shared_positions=facts.shared_positions)
        for block in self.encoder:
            x = _apart(block(x, sight, remat=self.remat, valid=source.valid), auxiliary)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def _sight(
        self, batch: TokenBatch, keys: TokenBatch | None, facts: Facts, bias: RelativeBias | None
    ) -> Sight:
        def look(queries: TokenBatch, others: TokenBatch | None) -> Sight:
            return self._look(queries, others, facts if queries is batch else inspect(queries), bias)

        return self.spread.sight(look, batch, keys)

    def _look(
        self, batch: TokenBatch, keys: TokenBatch | None, facts: Facts, bias: RelativeBias | None
    ) -> Sight:
        gated = bias is not None and bias.config.gate is not None
        if facts.lead and keys is None and self.distances is None and not gated:
            return self._sight_by_parts(batch, facts, bias)
        mask, causal = sdpa_mask(batch, keys, facts)
        pos = batch.pos[:1] if facts.shared_positions else batch.pos
        if self.distances is not None:
            if causal:
                mask = _triangle(pos)
            aligned = keys is None and positions_aligned(batch)
            keys_pos = pos if keys is None else keys.pos
            return Sight(relative=self.distances(pos, keys_pos, aligned, mask))
        rotary = self.config.rotary
        angles = None if rotary is None else rotary_angles(pos, self.config.head_width, rotary)
        if bias is None:
            return Sight(mask, causal, angles)
        if causal:  # SDPA takes a mask or is_causal, not both: write the causal rule into the scores.
            mask = _triangle(pos)
        keys_pos = pos if keys is None else keys.pos
        if bias.config.gate is not None:
            return Sight(mask, False, angles, bias(pos, keys_pos, None))
        return Sight(bias(pos, keys_pos, mask), False, angles)

    def _sight_by_parts(self, batch: TokenBatch, facts: Facts, bias: RelativeBias | None) -> Sight:
        """What `_sight` gives, in two parts: the first tokens see one another alone, the rest see all."""
        (lead, _), rest = part_masks(batch, facts)
        pos = batch.pos[:1] if facts.shared_positions else batch.pos
        rotary = self.config.rotary
        angles = None if rotary is None else rotary_angles(pos, self.config.head_width, rotary)
        if bias is None:
            return Sight(rest, False, angles, lead=facts.lead, lead_mask=lead)
        assert facts.leading is not None
        first, later = bias.parts(pos, facts.lead, facts.leading.shared_positions, facts.max_position)
        first = first if lead is None else first.masked_fill(~lead, -math.inf)
        later = later.masked_fill(~rest, -math.inf)
        return Sight(later, False, angles, lead=facts.lead, lead_mask=first)

    def _inspect(self, batch: TokenBatch) -> Facts:
        facts, config = inspect(batch), self.config
        limited = config.absolute is not None and (config.absolute.place == "input" or config.mask_decoder)
        if limited and facts.max_position >= config.max_positions:
            raise UsageError(
                f"a token has position {facts.max_position} and the model has {config.max_positions} "
                f"positions (0 to {config.max_positions - 1}); shorten the text"
            )
        if facts.max_id >= config.rows or facts.min_id < 0:
            bad = facts.min_id if facts.min_id < 0 else facts.max_id
            raise UsageError(
                f"token id {bad} is outside the vocabulary (0 to {config.vocab_size - 1}); "
                f"was the text encoded with another tokenizer?"
            )
        return facts

    def _declare_initial_values(self) -> None:
        """For `nn.init`: narrower into the residual stream, zero rows beyond the vocabulary."""
        config = self.config
        for module in self.modules():
            declare(module, Initial(config.init_std))
            if isinstance(module, PositionGate):
                declare(module, Initial(vector=1.0))
        for stack in (self.encoder, self.layers):
            blocks = [b for b in stack or () if isinstance(b, Block)]
            into = [module for block in blocks for module in block.into_residual()]
            for module in into if config.scale_residual else ():
                declare(module, Initial(config.init_std / len(into) ** 0.5))
        head = self.head.table if isinstance(self.head, LanguageHead) else None
        for table in (self.embeddings.token, head):
            if table is not None:
                declare(table, Initial(config.init_std, config.vocab_size))


def _apart(given: Tensor | tuple[Tensor, Tensor], auxiliary: list[Tensor]) -> Tensor:
    """What a layer hands on; its auxiliary losses, if it has such, go into the list."""
    if isinstance(given, Tensor):
        return given
    auxiliary.append(given[1])
    return given[0]


def _look_at_source(queries: TokenBatch, source: TokenBatch | None) -> Sight:
    assert source is not None
    return Sight(*source_mask(queries, source))


def _triangle(pos: Tensor) -> Tensor:
    """The causal mask over positions [B, T]: bool [1, 1, T, T]."""
    length = pos.shape[1]
    return torch.ones((length, length), dtype=torch.bool, device=pos.device).tril()[None, None]


def _relative_bias(config: TransformerConfig, bias: T5Bias, bidirectional: bool) -> RelativeBias:
    return RelativeBias(bias, config.n_heads, bidirectional=bidirectional)
