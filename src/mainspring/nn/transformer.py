"""The one transformer, configured, not subclassed: encoder, decoder, encoder-decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch, lengthened
from mainspring.errors import UsageError
from mainspring.nn.attention import Here, Sight, TokenSpread
from mainspring.nn.block import Block, LayerOutput, make_norm
from mainspring.nn.cache import Cache
from mainspring.nn.config import T5Bias, TransformerConfig
from mainspring.nn.conv import TokenConvolution
from mainspring.nn.costs import multiply_adds
from mainspring.nn.disentangled import DistanceTable, positions_aligned
from mainspring.nn.embedding import Embeddings
from mainspring.nn.gate import PositionGate
from mainspring.nn.head import Columns, LanguageHead, Pooler, make_head
from mainspring.nn.init import Initial, declare
from mainspring.nn.masks import Facts, inspect, part_masks, sdpa_mask, source_mask
from mainspring.nn.part import Carried, Part
from mainspring.nn.peers import ALONE, Along, Peers
from mainspring.nn.positions import RelativeBias, rotary_angles
from mainspring.nn.sparse.layouts import layout_of
from mainspring.nn.sparse.sight import SparseSight, has_no_data, sparse_mask
from mainspring.nn.vocabulary import WHOLE, Vocabulary


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
    vocabulary: Vocabulary = WHOLE
    """Which tokens the columns of `logits` are."""
    projections: tuple[Tensor, ...] = ()
    """Of the layers asked for, queries, keys and values of the heads that are here, before rotation:
    [B, T, H (q, k, v) E] each (`nn.attention.projections` takes them apart)."""


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
        self.peers: Peers = ALONE
        self.spread: TokenSpread = Here()
        """How the tokens of a row lie on ranks."""
        self.layout = _layout(config)
        """Which block of tokens sees which, bool [heads or 1, blocks, blocks] on the CPU; no state."""
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
        cache: Cache | None = None,
        embeds: Tensor | None = None,
        select: Tensor | None = None,
        states: bool = False,
        columns: Columns = "all",
        expose: Sequence[int] = (),
        part: Part | None = None,
        carried: Carried | None = None,
    ) -> Output | Carried:
        """Run the model, or a part of it.

        Args:
            batch: B rows of T tokens; their ranks, documents and validity say who sees whom.
            source: input of the encoder, for an encoder-decoder; with a cache, in the first forward only.
            cache: what was seen before; the batch's tokens are added to it.
            embeds: [B, T, D] in place of `embed(batch)`.
            select: bool [B, T]; logits only where it is True, in row-major order.
            states: also return the hidden states of every layer.
            columns: "own" for a loss that does with the logits that are here (`mainspring.nn.vocabulary`).
            expose: numbers of layers of the single stack, or the decoder, whose projections to return.
            part: which blocks to run (None: all); all other arguments are those of the whole.
            carried: what the part before handed on; None for the first.

        Returns:
            The output, or of a part before the last what the next one takes up.

        Raises:
            UsageError: the source or cache does not fit the model, or a token or position is out of range; a
                part is asked for hidden states or projections, or with a cache; there is no such layer to
                expose.
        """
        length, more = batch.ids.shape[1], -batch.ids.shape[1] % self.peers.token_parts
        if more:  # rows whose tokens the ranks can share out
            batch = lengthened(batch, more)
            embeds = None if embeds is None else F.pad(embeds, (0, 0, 0, more))
            select = None if select is None else F.pad(select, (0, more))
        if source is not None:
            source = lengthened(source, -source.ids.shape[1] % self.peers.token_parts)
        facts = self._inspect(batch)
        self._check_source(source, cache)
        depth = 0 if self.encoder is None else len(self.encoder)
        first, stop, last = 0, len(self.layers), True
        if part is not None:
            if states or expose or cache is not None:
                raise UsageError("a part of a model gives no hidden states or projections and takes no cache")
            first, stop, last = max(part.start - depth, 0), part.stop - depth, part.last
        if any(not 0 <= layer < len(self.layers) for layer in expose):
            raise UsageError(f"layers {list(expose)} were asked for; there are 0 to {len(self.layers) - 1}")
        x, memory, before = (None, None, None) if carried is None else carried
        auxiliary = [] if before is None else [before]
        if source is not None and (part is None or part.start < depth):
            x = self._encode(source, x, part, auxiliary)
            if stop < 0:
                return Carried(x, None, _total(auxiliary))
            # Into the regions of all decoder layers at once: their gradients add up before they travel.
            memory, x = self.peers.enter(x if self.encoder_norm is None else self.encoder_norm(x)), None
            if stop == 0:
                return Carried(None, memory, _total(auxiliary))
        keys = None
        if cache is not None:
            if torch.is_grad_enabled():
                raise UsageError("a cache carries no gradient: run the model inside torch.inference_mode()")
            if self.peers.token_parts > 1:
                raise UsageError(
                    "the stream of this model is cut over tokens, and a step with a cache has one token: set "
                    "plan.tensor_sequence = false"
                )
            seen = cache.push(batch)
            keys = seen if seen.ids.shape[1] > batch.ids.shape[1] else None
            source = cache.source = cache.source if source is None else source
        sight = self._sight(batch, keys, facts, self.bias)
        cross_sight = None if source is None else self.spread.sight(_look_at_source, batch, source)
        if x is None:
            x = self.embeddings(batch, shared_positions=facts.shared_positions) if embeds is None else embeds
            x = self.peers.split(x)
        kept, below = [x], x
        exposed: dict[int, Tensor] = {}  # a call of dict[int, Tensor] is what torch.compile cannot trace
        for i, block in enumerate(islice(self.layers, first, stop), first):
            store = None if cache is None else cache.layers[i]
            below = x
            given = block(
                x, sight, memory, cross_sight, store, self.remat, valid=batch.valid, expose=i in expose
            )
            x = _apart(given, auxiliary)
            if i in expose:
                exposed[i] = given.projections[:, :length]
            if i == 0 and self.conv is not None:
                x = self.peers.split(self.conv(self.peers.join(kept[0]), self.peers.join(x), batch))
            if states:
                kept.append(x)
        if not last:
            return Carried(x, memory, _total(auxiliary))
        hidden = read = self.peers.join(x if self.norm is None else self.norm(x))
        if self.config.mask_decoder:
            read = self._decode_masks(batch, below, sight, auxiliary)
        elif self.config.head_context:
            read = hidden + self.spread.first(hidden)
        read = read if select is None else read[select]
        logits: Tensor = self.head(read, self.embeddings.token, columns)
        summary, pair = (None, None) if self.pooler is None else self.pooler(self.spread.first(hidden))
        every = tuple(self.peers.join(state) for state in kept) if states else None
        if more:
            logits = logits if select is not None else logits[:, :length]
            hidden = hidden[:, :length]
            every = None if every is None else tuple(state[:, :length] for state in every)
        here = self.head if columns == "own" else None
        vocabulary = here.vocabulary if isinstance(here, LanguageHead) else WHOLE
        shown = tuple(exposed[i] for i in expose)
        return Output(logits, hidden, every, summary, pair, _total(auxiliary), vocabulary, shown)

    def _decode_masks(
        self, batch: TokenBatch, below: Tensor, sight: Sight, auxiliary: list[Tensor]
    ) -> Tensor:
        """What tokens are predicted from: queries with positions, twice by the last layer (DeBERTa, 3.2).

        Args:
            below: what the last layer took, [B, T, D]; keys and values come from it both times.
        """
        assert self.embeddings.position is not None
        position: Tensor = self.embeddings.position(batch.pos + self.embeddings.offset)
        queries = below + self.peers.split(position)
        for _ in range(2):
            given = self.layers[-1](queries, sight, remat=self.remat, context=below, valid=batch.valid)
            queries = _apart(given, auxiliary)
        return self.peers.join(queries)

    def embed(self, batch: TokenBatch) -> Tensor:
        """What enters the first layer, [B, T, D]; given back to `forward` as `embeds` it changes nothing."""
        embedded: Tensor = self.embeddings(batch)
        return embedded

    def blocks(self) -> list[nn.Module]:
        """The layers in the order of computation: units of sharding, recomputation and pipelining."""
        return [*(self.encoder or ()), *self.layers]

    @property
    def heads(self) -> int:
        """Attention heads of a layer that are in this process: what a cache keeps."""
        return self.config.n_heads // self.peers.size

    @property
    def cuts(self) -> Mapping[str, Along]:
        """None of its own."""
        return {}

    def on_stream(self) -> list[nn.Module]:
        """The last norms."""
        return [norm for norm in (self.norm, self.encoder_norm) if norm is not None]

    def outside(self, part: Part) -> list[nn.Module]:
        """The modules beside the layers whose parameters a part uses."""
        depth = 0 if self.encoder is None else len(self.encoder)
        encodes, decodes, begins = part.start < depth, part.stop > depth, part.start <= depth < part.stop
        table, mask_decoder = self.embeddings.token, self.config.mask_decoder
        used = [
            (self.embeddings, part.first or begins),
            (self.encoder_bias, encodes),
            (self.encoder_norm, encodes and part.stop >= depth),
            (self.distances, True),
            (self.bias, decodes),
            (self.conv, begins),
            (self.norm, part.last),
            (self.head, part.last),
            (self.pooler, part.last),
            (table, part.last and isinstance(self.head, LanguageHead) and self.head.table is None),
            (self.embeddings.position, part.last and mask_decoder),
        ]
        return [module for module, uses in used if uses and module is not None]

    def costs(self) -> Sequence[float]:
        """Multiply-adds of each layer for a token, without attention's scores; the head counts with the last.

        A layer with experts counts those that a token takes; a lookup in a table counts nothing.
        """
        taken = 1 if self.config.experts is None else self.config.experts.top_k
        costs = [multiply_adds(block, taken) for block in self.blocks()]
        if self.config.mask_decoder:
            costs[-1] *= 3  # the last layer runs twice more
        if isinstance(self.head, LanguageHead) and self.head.table is None:
            costs[-1] += self.config.vocab_size * self.config.embed_width
        for index, module in ((0, self.embeddings), (0, self.conv), (-1, self.head), (-1, self.pooler)):
            costs[index] += 0 if module is None else multiply_adds(module)
        if isinstance(self.head, LanguageHead) and self.head.table is not None:
            costs[-1] += self.head.table.weight.numel()
        return costs

    def _check_source(self, source: TokenBatch | None, cache: Cache | None) -> None:
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

    def _encode(
        self, source: TokenBatch, x: Tensor | None, part: Part | None, auxiliary: list[Tensor]
    ) -> Tensor:
        """The encoder's layers, or those of a part, which takes the stream `x` up where its start is not
        theirs."""
        assert self.encoder is not None
        facts = self._inspect(source)
        sight = self._sight(source, None, facts, self.encoder_bias)
        if x is None:
            x = self.peers.split(self.embeddings(source, shared_positions=facts.shared_positions))
        start, stop = (0, None) if part is None else (part.start, part.stop)
        for block in islice(self.encoder, start, stop):
            x = _apart(block(x, sight, remat=self.remat, valid=source.valid), auxiliary)
        assert x is not None
        return x

    def _sight(
        self, batch: TokenBatch, keys: TokenBatch | None, facts: Facts, bias: RelativeBias | None
    ) -> Sight:
        def look(queries: TokenBatch, others: TokenBatch | None) -> Sight:
            return self._look(queries, others, facts if queries is batch else inspect(queries), bias)

        return self.spread.sight(look, batch, keys)

    def _look(
        self, batch: TokenBatch, keys: TokenBatch | None, facts: Facts, bias: RelativeBias | None
    ) -> Sight:
        if self.config.sparse is not None:
            return self._sparse_sight(batch, keys, facts)
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

    def _sparse_sight(self, batch: TokenBatch, keys: TokenBatch | None, facts: Facts) -> Sight:
        config = self.config
        assert config.sparse is not None and self.layout is not None
        pos = batch.pos[:1] if facts.shared_positions else batch.pos
        angles = None if config.rotary is None else rotary_angles(pos, config.head_width, config.rotary)
        layout = self.layout if self.layout.shape[0] == 1 else self.peers.part(self.layout, 0)
        if keys is not None or has_no_data(batch):
            return Sight(sparse_mask(batch, keys, layout, config.sparse.block), False, angles)
        return Sight(angles=angles, sparse=SparseSight(batch, layout, config.sparse.block, facts))

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
        limited |= config.sparse is not None
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


def _apart(given: Tensor | LayerOutput, auxiliary: list[Tensor]) -> Tensor:
    """What a layer hands on; its auxiliary losses, if it has such, go into the list."""
    if isinstance(given, Tensor):
        return given
    if given.auxiliary is not None:
        auxiliary.append(given.auxiliary)
    return given.x


def _look_at_source(queries: TokenBatch, source: TokenBatch | None) -> Sight:
    assert source is not None
    return Sight(*source_mask(queries, source))


def _total(auxiliary: list[Tensor]) -> Tensor | None:
    return torch.stack(auxiliary).sum(0) if auxiliary else None


def _triangle(pos: Tensor) -> Tensor:
    """The causal mask over positions [B, T]: bool [1, 1, T, T]."""
    length = pos.shape[1]
    return torch.ones((length, length), dtype=torch.bool, device=pos.device).tril()[None, None]


def _layout(config: TransformerConfig) -> Tensor | None:
    sparse = config.sparse
    if sparse is None:
        return None
    return layout_of(sparse, config.n_heads, -(-config.max_positions // sparse.block))


def _relative_bias(config: TransformerConfig, bias: T5Bias, bidirectional: bool) -> RelativeBias:
    return RelativeBias(bias, config.n_heads, bidirectional=bidirectional)
