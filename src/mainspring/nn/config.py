"""The one transformer's configuration: every family is a value of `TransformerConfig`."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mainspring.config import Section
from mainspring.nn.sparse.config import SparseAttention

Activation = Literal["gelu", "gelu_tanh", "relu", "swiglu", "geglu"]


class Absolute(Section):
    """A learned vector for each position, added to the token's."""

    kind: Literal["absolute"] = "absolute"
    offset: int = Field(0, ge=0)
    """Rows of the table before position 0 (RoBERTa: 2)."""
    place: Literal["input", "decoder"] = "input"
    """Added to the token's vector, or only to the queries of a mask decoder that predicts tokens by applying
    the last layer twice (DeBERTa, 3.2)."""


class Sinusoidal(Section):
    """A fixed wave for each position, added to the token's vector (Vaswani et al. 2017, 3.5)."""

    kind: Literal["sinusoidal"] = "sinusoidal"
    offset: int = Field(0, ge=0)
    """Steps of the wave before position 0 (M2M-100, NLLB: 2)."""


class Rotary(Section):
    """Queries and keys turned by an angle that grows with position (Su et al. 2021, arXiv 2104.09864)."""

    kind: Literal["rotary"] = "rotary"
    base: float = Field(10000.0, gt=0)
    """Wavelength base of the angles."""


class T5Bias(Section):
    """A learned score per bucket of distance and head, shared by the layers (Raffel et al. 2020, 2.1)."""

    kind: Literal["t5_bias"] = "t5_bias"
    buckets: int = Field(32, ge=4)
    """Number of buckets of distance."""
    max_distance: int = Field(128, ge=2)
    """Distance from which all share the last bucket."""
    bidirectional: bool = True
    """Whether keys after the query have buckets of their own (beside a decoder, an encoder always does)."""
    gate: Literal["input", "query"] | None = None
    """Whether each layer gates the scores, and by what of the query's token (Chi et al. 2021): what enters
    the layer, as the public code has it (WavLM), or the projected query, as the paper has it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        exact = self.buckets // (4 if self.bidirectional else 2)
        if self.max_distance <= exact:
            raise ValueError(
                f"max_distance = {self.max_distance} is within the {exact} buckets of one distance each; "
                f"nearest legal value: {exact + 1}"
            )
        return self


class Disentangled(Section):
    """A vector for each distance, which queries and keys of the tokens are scored against (DeBERTa, 3.1)."""

    kind: Literal["disentangled"] = "disentangled"
    max_distance: int = Field(512, ge=2)
    """Distance from which all share the last row of a side."""
    buckets: int | None = Field(None, ge=4)
    """Rows of a side, which farther distances share logarithmically (None: one for each distance)."""
    terms: tuple[Literal["c2p", "p2c"], ...] = ("c2p", "p2c")
    """Scores added: of a query's content with the distance, of a key's content with the distance."""
    shared: bool = True
    """Project distances as tokens are projected, instead of with weights of their own."""
    key_bias: bool = True
    """Whether a layer's own projection to keys of distances has a bias."""
    norm_table: bool = False
    """Normalise the vectors of distances."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.terms or len(set(self.terms)) < len(self.terms):
            raise ValueError(f"terms = {list(self.terms)}: give c2p, p2c or both, each once")
        if self.buckets is not None and self.max_distance - 1 <= self.buckets // 2:
            raise ValueError(
                f"max_distance = {self.max_distance} is within the {self.buckets // 2} buckets of one "
                f"distance each; nearest legal value: {self.buckets // 2 + 2}"
            )
        return self

    @property
    def span(self) -> int:
        """Rows of a side."""
        return self.max_distance if self.buckets is None else self.buckets


Position = Annotated[Absolute | Sinusoidal | Rotary | T5Bias | Disentangled, Field(discriminator="kind")]


class Convolution(Section):
    """A convolution over the embeddings, added to the first layer's output (DeBERTa-v2)."""

    kernel: int = Field(3, ge=1)
    """Tokens that it spans; odd."""
    activation: Literal["gelu", "tanh"] = "gelu"
    """Its non-linearity."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel = {self.kernel} has no middle; nearest legal value: {self.kernel + 1}")
        return self


class ExpertLayers(Section):
    """Which layers have experts in place of a feed-forward, and how tokens are shared out among them.

    Sources beside the settings: Fedus et al. 2021 (Switch, arXiv 2101.03961), Lepikhin et al. 2020 (GShard,
    arXiv 2006.16668), Kim et al. 2021 (Z-code M3, arXiv 2109.10465), Rajbhandari et al. 2022 (DeepSpeed-MoE,
    arXiv 2201.05596).
    """

    count: int | tuple[int, ...]
    """Experts of a layer; several numbers: of each layer that has some, the encoder's before the decoder's
    (a pyramid has more in later layers: DeepSpeed-MoE, 4.1)."""
    every: int = Field(2, ge=1)
    """Of so many layers of a stack one has experts."""
    offset: int | None = Field(None, ge=0)
    """Layers before the first that has (None: every - 1, so that the last of each group has them)."""
    top_k: int = Field(1, ge=1)
    """Experts of a token."""
    renormalise: bool = True
    """With top_k > 1, factors of a token's experts add up to 1 over those that had room (of one expert, the
    factor is its probability: Switch, equation 2)."""
    capacity_factor: float | None = Field(1.0, gt=0)
    """Room of an expert in training, in equal shares of the tokens' choices; tokens beyond it are left to the
    residual (None, or inf: room for all)."""
    eval_capacity_factor: float | None = Field(None, gt=0)
    """The same in evaluation; with None, a text's result does not depend on what else is in the batch."""
    min_capacity: int = Field(4, ge=1)
    """Room that an expert has at least."""
    keep: Literal["random", "first", "probability"] = "random"
    """Whom an overfull expert keeps: any alike (random token selection, Z-code M3 3.2; in evaluation, the
    first), the first of the batch, or the surest."""
    noise: Literal["jitter", "gumbel"] | None = None
    """Chance in training: tokens times U(1 - jitter, 1 + jitter) before the gate, or the only choice (with
    top_k > 1, those after the first) drawn in proportion to probability (GShard, algorithm 1)."""
    jitter: float = Field(0.01, gt=0, lt=1)
    """Width of that noise."""
    residual: bool = False
    """A dense feed-forward beside the experts, mixed with them by each token (DeepSpeed-MoE, 4.1)."""
    balance_weight: float = Field(0.01, ge=0)
    """Weight in the objective of the loss that keeps experts equally busy (Switch, equation 4)."""
    z_weight: float = Field(0.0, ge=0)
    """Weight of the loss that keeps the gate's logits small (Zoph et al. 2022, equation 5)."""

    @field_validator("capacity_factor", "eval_capacity_factor", mode="after")
    @classmethod
    def _room_for_all(cls, factor: float | None) -> float | None:
        # TOML has no null, and a recipe has to say it.
        return None if factor == math.inf else factor

    @model_validator(mode="after")
    def _check(self) -> Self:
        counts = (self.count,) if isinstance(self.count, int) else self.count
        if not counts or min(counts) < self.top_k:
            raise ValueError(f"count = {self.count}: each layer needs at least top_k = {self.top_k} experts")
        if self.offset is not None and self.offset >= self.every:
            raise ValueError(
                f"offset = {self.offset} is not below every = {self.every}; "
                f"nearest legal value: {self.every - 1}"
            )
        return self

    def layers(self, depth: int) -> list[int]:
        """Numbers of the layers, out of `depth` of a stack, that have experts."""
        return list(range(self.every - 1 if self.offset is None else self.offset, depth, self.every))


class TransformerConfig(Section):
    """Shape of a transformer: one stack (`n_layers`), or an encoder beside a decoder.

    Whether a stack is an encoder or a decoder is not a setting: the ranks in the `TokenBatch` say who sees
    whom.
    """

    d_model: int = Field(ge=1)
    """Width of the residual stream."""
    n_heads: int = Field(ge=1)
    """Attention heads of a layer."""
    head_dim: int | None = Field(None, ge=1)
    """Width of a head (None: d_model / n_heads)."""
    n_layers: int = Field(0, ge=0)
    """Layers of the single stack."""
    encoder_layers: int = Field(0, ge=0)
    """Layers of the encoder; with `decoder_layers`, in place of `n_layers`."""
    decoder_layers: int = Field(0, ge=0)
    """Layers of the decoder, which also attends to the encoder's output."""
    d_ff: int = Field(ge=1)
    """Width inside the feed-forward."""
    activation: Activation = "gelu"
    """Non-linearity of the feed-forward; `swiglu` and `geglu` have a gate (Shazeer 2020)."""
    experts: ExpertLayers | None = None
    """Layers with many feed-forwards, of which a token takes few (None: every layer has one)."""
    bias: bool = True
    """Whether linear layers and norms have biases."""

    vocab_size: int = Field(ge=1)
    """Number of tokens; logits have this many columns."""
    vocab_rows: int | None = None
    """Rows of the embedding table; those from `vocab_size` on are zero and never predicted (None: none)."""
    embed_dim: int | None = Field(None, ge=1)
    """Width of the embeddings, projected to d_model (Lan et al. 2020, 3.1; None: d_model, no projection)."""
    max_positions: int = Field(1024, ge=1)
    """Positions of an absolute table, and of a sparse layout; other schemes do not limit them."""
    type_vocab: int = Field(0, ge=0)
    """Number of segment embeddings (0: none)."""
    languages: int = Field(0, ge=0)
    """Number of language embeddings (XLM; 0: none)."""
    scale_embeddings: bool = False
    """Multiply token embeddings by sqrt of their width (Vaswani et al. 2017, 3.4)."""
    embed_norm: bool = False
    """Normalise the sum of the embeddings (BERT)."""
    embed_mask: bool = False
    """Zero the embeddings of padding (DeBERTa)."""
    positions: tuple[Position, ...] = (Absolute(),)
    """Position schemes, all applied."""

    norm: Literal["layer", "rms"] = "layer"
    """Kind of normalisation."""
    norm_place: Literal["pre", "post"] = "pre"
    """Before each sub-layer with one more at the end (GPT-2), or after each residual sum (BERT)."""
    norm_eps: float = Field(1e-5, gt=0)
    """Added to the variance."""
    attention_scale: float | None = Field(None, gt=0)
    """Factor on query-key products (None: 1/sqrt(head_dim), and with disentangled positions
    1/sqrt(head_dim * (1 + terms)))."""
    key_bias: bool = True
    """Whether keys have a bias where queries and values do (DeBERTa-v1: not)."""
    sparse: SparseAttention | None = None
    """Which blocks of tokens of a stack attend to which (None: all to all, as the tokens' data permits)."""
    conv: Convolution | None = None
    """A convolution beside the first layer."""

    head: Literal["tokens", "replaced", "none"] = "tokens"
    """What the logits score: tokens of the vocabulary, whether a token was replaced (ELECTRA), or nothing."""
    tied: bool = True
    """Predict with the embedding table instead of a table of the head's own."""
    head_transform: bool = False
    """A dense layer, activation and norm before prediction (BERT)."""
    head_context: bool = False
    """Add the row's first token to each, and a norm, before finding what was replaced (DeBERTa-v3)."""
    head_bias: bool = False
    """A bias for each token in the logits."""
    pooler: bool = False
    """A dense layer over each row's first token (BERT)."""
    pooler_activation: Literal["tanh", "gelu"] = "tanh"
    """Non-linearity of the pooler."""
    pair_classes: int = Field(0, ge=0)
    """Classes of a row-pair head over the pooler (BERT's next-sentence head: 2; 0: none)."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping an element of embeddings and of sub-layer outputs."""
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping an attention weight."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of initial weights."""
    scale_residual: bool = True
    """Divide the initial deviation of the N projections into the residual stream by sqrt(N) (GPT-2, 2.3)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.head_dim is None and self.d_model % self.n_heads:
            near = min(
                (h for h in range(1, self.d_model + 1) if self.d_model % h == 0),
                key=lambda h: abs(h - self.n_heads),
            )
            raise ValueError(
                f"d_model = {self.d_model} does not divide by n_heads = {self.n_heads}; "
                f"nearest legal n_heads: {near} (or set head_dim)"
            )
        both = self.encoder_layers > 0 and self.decoder_layers > 0
        neither = self.encoder_layers == 0 and self.decoder_layers == 0
        if not ((self.n_layers > 0 and neither) or (self.n_layers == 0 and both)):
            raise ValueError(
                f"n_layers = {self.n_layers}, encoder_layers = {self.encoder_layers}, "
                f"decoder_layers = {self.decoder_layers}: give n_layers alone, or both of the others"
            )
        if self.vocab_rows is not None and self.vocab_rows < self.vocab_size:
            raise ValueError(
                f"vocab_rows = {self.vocab_rows} is below vocab_size = {self.vocab_size}; "
                f"nearest legal value: {self.vocab_size}"
            )
        kinds = [p.kind for p in self.positions]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"positions: {kinds} names a scheme twice; each may be given once")
        if self.rotary is not None and self.head_width % 2:
            raise ValueError(
                f"rotary positions need an even head_dim, not {self.head_width}; "
                f"nearest legal value: {self.head_width + 1}"
            )
        if self.embed_width != self.d_model and self.head == "tokens" and not self.head_transform:
            raise ValueError(
                f"embed_dim = {self.embed_dim} differs from d_model = {self.d_model}: the head needs "
                f"head_transform = true to predict with embeddings of that width"
            )
        if self.absolute is not None and self.sinusoidal is not None:
            raise ValueError("positions: absolute and sinusoidal both add a vector; give one of them")
        if self.sinusoidal is not None and (self.embed_width % 2 or self.embed_width < 4):
            raise ValueError(
                f"sinusoidal positions need an even width of at least 4, not {self.embed_width}; "
                f"nearest legal value: {max(4, self.embed_width + 1)}"
            )
        if self.disentangled is not None and (self.rotary is not None or self.t5_bias is not None):
            raise ValueError(f"positions: {kinds}: disentangled scores go with absolute positions alone")
        if (self.disentangled is not None or self.conv is not None) and self.is_encoder_decoder:
            raise ValueError(
                "disentangled positions and a convolution belong to a single stack: give n_layers"
            )
        if self.absolute is not None and self.absolute.place == "decoder" and self.norm_place == "pre":
            raise ValueError(
                "a mask decoder (absolute positions with place = 'decoder') needs norm_place = 'post'"
            )
        by_input = self.t5_bias is not None and self.t5_bias.gate == "input"
        if by_input and self.head_width * self.n_heads != self.d_model:
            raise ValueError(
                f"gate = 'input' cuts d_model = {self.d_model} into {self.n_heads} heads of head_dim = "
                f"{self.head_width}; leave head_dim out, or gate by the query"
            )
        if self.pair_classes and not self.pooler:
            raise ValueError(f"pair_classes = {self.pair_classes} needs pooler = true")
        self._check_experts()
        self._check_sparse()
        return self

    def _check_sparse(self) -> None:
        scored = self.t5_bias or self.disentangled
        if self.sparse is None:
            return
        if scored is not None:
            raise ValueError(
                f"sparse attention computes some scores only, and {scored.kind} positions have one for every "
                "pair of tokens; use absolute, sinusoidal or rotary positions, or leave sparse out"
            )
        if self.sparse.block >= self.max_positions:
            raise ValueError(
                f"sparse.block = {self.sparse.block} holds all of max_positions = {self.max_positions}, "
                f"which is dense attention; raise max_positions, or use a block of "
                f"{max(1, self.max_positions // 8)}"
            )

    def _check_experts(self) -> None:
        if self.experts is None:
            return
        having = [self.experts.layers(depth) for depth in self.stacks]
        layers = sum(map(len, having))
        if not layers:
            raise ValueError(
                f"experts.every = {self.experts.every}: no stack of {list(self.stacks)} layers has one with "
                f"experts; nearest legal value: {max(self.stacks)}"
            )
        counts = self.experts.count
        if isinstance(counts, tuple) and len(counts) != layers:
            raise ValueError(
                f"experts.count has {len(counts)} numbers and {layers} layers have experts; give one number "
                f"for all of them, or {layers}"
            )

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.head_dim if self.head_dim is not None else self.d_model // self.n_heads

    @property
    def embed_width(self) -> int:
        """Width of the embeddings."""
        return self.embed_dim if self.embed_dim is not None else self.d_model

    @property
    def rows(self) -> int:
        """Rows of the embedding table."""
        return self.vocab_rows if self.vocab_rows is not None else self.vocab_size

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether there is an encoder beside the decoder."""
        return self.encoder_layers > 0

    @property
    def stacks(self) -> tuple[int, ...]:
        """Layers of each stack, the encoder's first."""
        return (self.encoder_layers, self.decoder_layers) if self.is_encoder_decoder else (self.n_layers,)

    @property
    def experts_by_layer(self) -> tuple[tuple[int, ...], ...]:
        """Number of experts of every layer of each stack; 0 where the feed-forward is dense."""
        if self.experts is None:
            return tuple((0,) * depth for depth in self.stacks)
        having = [self.experts.layers(depth) for depth in self.stacks]
        count, total = self.experts.count, sum(map(len, having))
        counts = iter(count if isinstance(count, tuple) else (count,) * total)
        return tuple(
            tuple(next(counts) if layer in chosen else 0 for layer in range(depth))
            for depth, chosen in zip(self.stacks, having, strict=True)
        )

    @property
    def depth(self) -> int:
        """Layers of the stack that predicts (the decoder where there are two)."""
        return self.decoder_layers or self.n_layers

    @property
    def gated(self) -> bool:
        """Whether the feed-forward has a gate."""
        return self.activation in ("swiglu", "geglu")

    @property
    def absolute(self) -> Absolute | None:
        """The absolute position scheme, if any."""
        return next((p for p in self.positions if isinstance(p, Absolute)), None)

    @property
    def mask_decoder(self) -> bool:
        """Whether tokens are predicted by a mask decoder."""
        return self.absolute is not None and self.absolute.place == "decoder" and self.head == "tokens"

    @property
    def disentangled(self) -> Disentangled | None:
        """The disentangled position scheme, if any."""
        return next((p for p in self.positions if isinstance(p, Disentangled)), None)

    @property
    def sinusoidal(self) -> Sinusoidal | None:
        """The sinusoidal position scheme, if any."""
        return next((p for p in self.positions if isinstance(p, Sinusoidal)), None)

    @property
    def rotary(self) -> Rotary | None:
        """The rotary position scheme, if any."""
        return next((p for p in self.positions if isinstance(p, Rotary)), None)

    @property
    def t5_bias(self) -> T5Bias | None:
        """The relative-bias position scheme, if any."""
        return next((p for p in self.positions if isinstance(p, T5Bias)), None)
