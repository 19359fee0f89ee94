"""What is compared: for each experiment a plain objective or shape, another, and what both are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import nn

from benchmarks.pretraining import corpora, probes
from mainspring import objectives
from mainspring.data.batch import TokenBatch
from mainspring.data.dataset import TokenData
from mainspring.data.pseudo_masks import draw_blocks
from mainspring.data.token_row import TokenRow, collate, rows_of
from mainspring.models import ModelConfig
from mainspring.objectives import (
    CausalConfig,
    ContrastConfig,
    DenoisingConfig,
    MaskedConfig,
    MixedConfig,
    Objective,
    PseudoMaskedConfig,
    PseudoMaskedLM,
    ReplacedConfig,
    TranslateConfig,
    Vocabulary,
)
from mainspring.objectives.base import LabelledView, Views
from mainspring.objectives.replacement import Replacement


@dataclass(frozen=True)
class Size:
    """How large an experiment is."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    seq_len: int = 64
    rows: int = 16
    """Rows of a batch; of pairs twice as many, which are shorter."""
    steps: int = 1000
    """Of the plain arm, times what its experiment says; the other takes as many as cost the same FLOPs."""
    rate: float = 2e-3
    """Peak learning rate of every arm."""
    sentences: int = 6000
    """Of SST-2, to fit the probe."""
    heldout: int = 512
    """Rows of held-out text."""
    languages: int = 24


QUICK = Size(layers=2, width=64, heads=2, steps=20, sentences=300, heldout=32, languages=4)


class BlocksAlone(LabelledView):
    """The autoencoding half of a pseudo-masked language model: its blocks, without the steps behind them."""

    NAME = "ae"

    def __init__(self, config: PseudoMaskedConfig, vocabulary: Vocabulary) -> None:
        self.config, self.vocabulary = config, vocabulary
        self._replacement = Replacement(config, vocabulary, config.kind)

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Hide blocks of every row."""
        rows = [self._row(row, rng) for row, rng in zip(rows_of(batch), rngs, strict=True)]
        return {self.NAME: collate(rows)}

    def _row(self, row: TokenRow, rng: np.random.Generator) -> TokenRow:
        config, where = self.config, np.zeros(row.length, bool)
        maskable = ~self.vocabulary.special[row.ids]
        drawn = (row.doc, config.rate, config.block_share, config.max_block, rng)
        for block in draw_blocks(maskable, *drawn):
            where[block] = True
        row = row._replace(rank=np.zeros_like(row.rank))
        return row.hide(where, self._replacement.draw(row.ids[where], rng))


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    name: str
    objective: Callable[[Vocabulary], Objective]
    family: str = "bert"
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration beside the size."""
    pairs: float = 0.0
    """Share of its rows that are pairs."""

    def model(self, size: Size) -> ModelConfig:
        """The network of a size."""
        shape = {
            "d_model": size.width,
            "n_layers": size.layers,
            "n_heads": size.heads,
            "d_ff": 4 * size.width,
            "max_positions": 128,
        }
        return ModelConfig(family=self.family, preset="tiny", config={**shape, **self.fields})


Measure = Callable[[nn.Module, TokenData, Path, Size], dict[str, float]]


@dataclass(frozen=True)
class Experiment:
    """Two arms of equal FLOPs on the same text."""

    name: str
    text: str
    plain: Arm
    other: Arm
    measure: Measure
    times: int = 1
    """Steps of the plain arm, in those of the size: some things need longer to show."""
    untrained: bool = False
    """Whether to ask an untrained network of the plain shape as well: what the probe finds by itself."""

    @property
    def arms(self) -> dict[str, Arm]:
        """All arms by name."""
        return {arm.name: arm for arm in (self.plain, self.other)}


def _built(config: Any) -> Callable[[Vocabulary], Objective]:
    return lambda vocabulary: objectives.build(config, vocabulary)


def probe(network: nn.Module, data: TokenData, texts: Path, size: Size) -> dict[str, float]:
    """Linear probes: parts of speech of words (UD English-EWT), sentiment of sentences (SST-2)."""
    tokenizer = data.tokenizer
    parts = [corpora.tagged(texts / corpora.EWT[0]), corpora.tagged(texts / corpora.EWT_TEST)]
    words = [probes.first_pieces(network, tokenizer, p[: size.sentences], size.seq_len) for p in parts]
    found = {"POS accuracy, linear probe": probes.linear_probe(*words)}
    labelled = []
    for name in (corpora.SST2, corpora.SST2_TEST):
        sentences = corpora.sentiments(texts / name, size.sentences)
        vectors = probes.pooled(network, tokenizer, [text for text, _ in sentences], size.seq_len)
        labelled.append((vectors, [label for _, label in sentences]))
    return {**found, "SST-2 accuracy, linear probe": probes.linear_probe(*labelled)}


def probe_and_blocks(network: nn.Module, data: TokenData, texts: Path, size: Size) -> dict[str, float]:
    """The probes, and the autoencoding loss on held-out text, which the plain arm alone is trained for."""
    blocks = BlocksAlone(PMLM, Vocabulary.of_tokenizer(data.tokenizer))
    loss = probes.heldout_loss(network, blocks, data, size.seq_len, size.heldout)
    return {**probe(network, data, texts, size), "held-out loss of hidden blocks": loss}


def masked_loss(network: nn.Module, data: TokenData, texts: Path, size: Size) -> dict[str, float]:
    """Masked language modelling of held-out text."""
    masked = objectives.build(MLM, Vocabulary.of_tokenizer(data.tokenizer))
    loss = probes.heldout_loss(network, masked, data, size.seq_len, size.heldout)
    return {"held-out loss of hidden tokens": loss}


def retrieve(network: nn.Module, data: TokenData, texts: Path, size: Size) -> dict[str, float]:
    """Retrieval of translations by the first token's state or the mean of all, of the layer, that are best
    on other pairs."""
    scores: dict[str, list[Any]] = {"dev": [], "test": []}
    for code in corpora.LANGUAGES[: size.languages]:
        for part, found in scores.items():
            sides = zip(*corpora.tatoeba(texts, code, part), strict=True)
            both = (probes.sentences(network, data.tokenizer, side, size.seq_len) for side in sides)
            found.append(probes.retrieval(*both))
    best = int(np.mean(scores["dev"], axis=0).argmax())
    return {"Tatoeba retrieval accuracy": float(np.mean(scores["test"], axis=0)[best])}


def causal_loss(network: nn.Module, data: TokenData, texts: Path, size: Size) -> dict[str, float]:
    """Causal language modelling of held-out text."""
    causal = objectives.build(CausalConfig(), Vocabulary.of_tokenizer(data.tokenizer))
    loss = probes.heldout_loss(network, causal, data, size.seq_len, size.heldout)
    return {"held-out loss": loss}


def translate(network: nn.Module, data: TokenData, texts: Path, size: Size) -> dict[str, float]:
    """Translation of test sentences into English: loss of the references, chrF and BLEU of what comes."""
    found = [
        corpora.tatoeba(texts, code, "test")[:TRANSLATED] for code in corpora.LANGUAGES[: size.languages]
    ]
    return probes.translation(network, data.tokenizer, [pair for pairs in found for pair in pairs], MT)


MLM = MaskedConfig(max_ngram=1)
PMLM = PseudoMaskedConfig()
RTD = ReplacedConfig(weight=50.0, embeddings="disentangled")
XLCO = ContrastConfig(layer=2, queue=2048)
"""With the published momentum of 0.9999: at 0.99 the stored keys lag so much that their age alone tells them
from the own one, and the loss falls to 0 with nothing learnt."""
DAE = DenoisingConfig(noise="infill", rate=0.15)
MT = TranslateConfig(label_smoothing=0.1)
MT_DAE = MixedConfig(text=DAE, pairs=MT)
TRANSLATED = 40
"""Test sentences of each language."""
EXPERTS = MappingProxyType({"count": 8, "every": 2, "top_k": 1, "capacity_factor": 1.0, "min_capacity": 4})
ZCODE = MappingProxyType({"n_layers": 0, "encoder_layers": 4, "decoder_layers": 2})
FIRST_COME = {**EXPERTS, "keep": "first"}
DISTANCES = {"kind": "disentangled", "max_distance": 64, "shared": False, "key_bias": False}
DEBERTA = MappingProxyType({"positions": [DISTANCES, {"kind": "absolute", "place": "decoder"}]})

EXPERIMENTS = {
    e.name: e
    for e in (
        Experiment(
            "rtd",
            "english",
            Arm("MLM", _built(MLM)),
            Arm(
                "RTD, GDES",
                _built(RTD),
                fields={"head": "replaced", "head_transform": False, "head_bias": False},
            ),
            probe,
            untrained=True,
        ),
        Experiment(
            "pmlm",
            "english",
            Arm("AE", lambda vocabulary: BlocksAlone(PMLM, vocabulary)),
            Arm("AE + PAR", lambda vocabulary: PseudoMaskedLM(PMLM, vocabulary)),
            probe_and_blocks,
        ),
        Experiment(
            "xlco",
            "bilingual",
            Arm("MMLM", _built(MLM)),
            Arm("XlCo + TLM", _built(XLCO), pairs=1.0),
            retrieve,
            times=2,
            untrained=True,
        ),
        Experiment(
            "deberta",
            "english",
            Arm("BERT shape", _built(MLM)),
            Arm("DeBERTa shape", _built(MLM), family="deberta", fields=DEBERTA),
            masked_loss,
        ),
        Experiment(
            "moe",
            "english",
            Arm("dense", _built(CausalConfig()), family="gpt2"),
            Arm("8 experts", _built(CausalConfig()), family="gpt2", fields={"experts": {**EXPERTS}}),
            causal_loss,
        ),
        Experiment(
            "rts",
            "english",
            Arm("first come", _built(CausalConfig()), family="gpt2", fields={"experts": FIRST_COME}),
            Arm("random", _built(CausalConfig()), family="gpt2", fields={"experts": {**EXPERTS}}),
            causal_loss,
        ),
        Experiment(
            "zcode",
            "bilingual",
            Arm("dense", _built(MT_DAE), family="zcode", fields=ZCODE, pairs=0.9),
            Arm(
                "8 experts",
                _built(MT_DAE),
                family="zcode_moe",
                fields={**ZCODE, "experts": {**EXPERTS, "noise": "jitter"}},
                pairs=0.9,
            ),
            translate,
        ),
    )
}
UNTRAINED = "untrained"
