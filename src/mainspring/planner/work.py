"""What one row of a batch is put through: the passes of an objective, and their FLOPs.

A pass is a forward of one network, with its backward where it has one. Most objectives have one; a generator
beside the model, or a slow copy of it, makes several. Passes go backward one after another, so that
activations are those of the largest; only FSDP2's stage 1 keeps them all (`train.step`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from mainspring.nn import TransformerConfig
from mainspring.nn.sparse import layout_of
from mainspring.objectives import (
    ContrastConfig,
    MixedConfig,
    ObjectiveConfig,
    PseudoMaskedConfig,
    ReplacedConfig,
    UnicoderConfig,
)
from mainspring.objectives.config import predicted_share
from mainspring.objectives.generator import generator_config
from mainspring.planner.parameters import count_parameters


@dataclass(frozen=True)
class Pass:
    """A forward of one network over a row, and its backward."""

    config: TransformerConfig
    seq_len: int
    """Tokens it has for a row of the batch (of an encoder-decoder: on each side)."""
    predicted: float = 1.0
    """Share of them for which logits are computed."""
    backward: bool = True
    """Whether gradients flow."""

    @property
    def forward_flops(self) -> tuple[float, float, float]:
        """FLOPs of a forward for a row: products of the layers, of the head, and attention.

        2 for each weight that a token meets, and 4 T i for the attention of a layer of inner width i, in full
        also where it is causal (Chowdhery et al. 2022, arXiv 2204.02311, appendix B); of sparse attention,
        the share that its layout has.
        """
        matrix, head, spans, inner = _counts(self.config)
        tokens = self.seq_len
        dense = self.config.decoder_layers if self.config.is_encoder_decoder else 0  # to the encoder's output
        spans = dense + (spans - dense) * _seen(self.config, tokens)
        return (
            2.0 * matrix * tokens,
            2.0 * head * self.predicted * tokens,
            4.0 * spans * inner * self.seq_len * tokens,
        )

    def flops(self, *, again: bool = False) -> float:
        """FLOPs of forward and backward for a row; with `again` the layers are computed once more."""
        layers, head, attention = self.forward_flops
        if not self.backward:
            return layers + head + attention
        return 3 * (layers + head + attention) + (layers + attention if again else 0.0)


@dataclass(frozen=True)
class Work:
    """What a row of the batch is put through."""

    passes: tuple[Pass, ...]
    seq_len: int
    """Tokens of a row, as the batch counts them."""

    def flops(self, *, again: bool = False) -> float:
        """FLOPs of a row."""
        return sum(one.flops(again=again) for one in self.passes)

    @property
    def main(self) -> Pass:
        """The pass whose network is what the training is for."""
        return self.passes[0]


def work_of(
    config: TransformerConfig, seq_len: int, objective: ObjectiveConfig | float | None = None
) -> Work:
    """What an objective does with a row of `seq_len` tokens; a number is the share of tokens predicted.

    Of an encoder-decoder both sides are taken to have `seq_len` tokens; of objectives on pairs, rows to be
    full.
    """
    if objective is None or isinstance(objective, float | int):
        share = 1.0 if objective is None else float(objective)
        return Work((Pass(config, seq_len, share),), seq_len)
    share = predicted_share(objective)
    passes: tuple[Pass, ...] = (Pass(config, seq_len, share),)
    match objective:
        case ReplacedConfig():
            # The model scores every token; the generator fills the hidden ones.
            passes = (
                Pass(config, seq_len, 1.0),
                Pass(generator_config(config, objective.generator), seq_len, objective.rate),
            )
        case ContrastConfig():
            query = Pass(config, seq_len, 0.0)
            key = Pass(config, seq_len, 0.0, backward=False)
            passes = (query, key)
            if objective.tlm_weight > 0:
                passes = (Pass(config, seq_len, objective.rate), query, key)
        case UnicoderConfig():
            passes = (
                Pass(config, seq_len, 1.0),
                Pass(config, seq_len, 0.0),
                Pass(config, seq_len, objective.rate),
            )
        case MixedConfig():
            # A step has one or the other: the costlier.
            both = (work_of(config, seq_len, one) for one in (objective.text, objective.pairs))
            return max(both, key=lambda work: work.flops())
        case PseudoMaskedConfig():
            # A mask and a pseudo-mask are appended for each token to predict.
            longer = round(seq_len * (1 + 2 * objective.rate))
            passes = (Pass(config, longer, 2 * objective.rate * seq_len / longer),)
        case _:
            pass
    return Work(passes, seq_len)


@lru_cache(maxsize=32)
def _seen(config: TransformerConfig, seq_len: int) -> float:
    """Share of all pairs of tokens that a layout has."""
    if config.sparse is None:
        return 1.0
    blocks = -(-config.max_positions // config.sparse.block)
    here = max(1, min(blocks, seq_len // config.sparse.block))
    return float(layout_of(config.sparse, config.n_heads, blocks)[:, :here, :here].float().mean())


@lru_cache(maxsize=32)
def _counts(config: TransformerConfig) -> tuple[int, int, float, int]:
    count = count_parameters(config)
    spans = config.encoder_layers + 2 * config.decoder_layers + config.n_layers
    return count.matrix, count.head_matrix, spans, config.n_heads * config.head_width
