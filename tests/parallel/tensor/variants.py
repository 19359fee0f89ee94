"""Small models of every family and of every part that tensor parallelism cuts, with batches for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mainspring.config import parse
from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch
from mainspring.models import FAMILIES
from mainspring.nn import TransformerConfig

VOCAB, LENGTH = 61, 12

SMALL = {
    "d_model": 32,
    "n_heads": 4,
    "head_dim": None,
    "d_ff": 48,
    "vocab_size": VOCAB,
    "vocab_rows": VOCAB + 4,
    "max_positions": 2 * LENGTH,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "init_std": 0.2,
}


def families() -> dict[str, TransformerConfig]:
    """Of each family its tiny presets, made smaller still."""
    return dict(_families())


def _families() -> Iterator[tuple[str, TransformerConfig]]:
    for name, family in FAMILIES.items():
        for preset, config in family.presets.items():
            if not preset.startswith("tiny"):
                continue
            layers = {
                key: min(getattr(config, key), 2) for key in ("n_layers", "encoder_layers", "decoder_layers")
            }
            narrow = {"embed_dim": None if config.embed_dim is None else 16}
            values = config.model_dump(mode="json") | SMALL | layers | narrow
            if config.experts is not None:  # chance would depend on how rows are padded
                values["experts"]["keep"] = "first"
            yield f"{name} {preset}", parse(TransformerConfig, values)


def parts() -> dict[str, TransformerConfig]:
    """What no preset has."""
    bias = {"kind": "t5_bias", "buckets": 8, "max_distance": 12}
    distances = {"kind": "disentangled", "max_distance": 8}
    experts = {"count": 4, "every": 1, "capacity_factor": None}
    given = {
        "gated feed-forward, rotary, no biases": {
            "activation": "swiglu", "norm": "rms", "bias": False, "positions": [{"kind": "rotary"}],
        },
        "relative bias": {"positions": [bias]},
        "gates by the input": {"positions": [bias | {"gate": "input"}]},
        "gates by the query": {"positions": [bias | {"gate": "query"}]},
        "head of its own": {"tied": False, "head_bias": True, "head_transform": True},
        "keys without bias": {"key_bias": False},
        "own projections of distances": {"positions": [distances | {"shared": False, "key_bias": False}]},
        "content to position alone": {"positions": [distances | {"terms": ["c2p"]}]},
        "one expert a token": {"experts": experts | {"capacity_factor": 1.0, "keep": "first"}},
        "two experts, mixed with a dense one": {"experts": experts | {"top_k": 2, "residual": True}},
        "gated experts without biases": {
            "experts": experts | {"top_k": 2}, "activation": "geglu", "bias": False, "d_ff": 32,
        },
        "encoder and decoder of experts": {
            "n_layers": 0, "encoder_layers": 2, "decoder_layers": 2, "experts": experts, "positions": [bias],
        },
    }  # fmt: skip
    base = SMALL | {"n_layers": 2}
    return {name: parse(TransformerConfig, base | values) for name, values in given.items()}


def batch_of(config: TransformerConfig, length: int = LENGTH) -> tuple[TokenBatch, TokenBatch | None]:
    """Rows with padding, of causal order for decoders, and a source where the model reads one."""
    draw = torch.Generator().manual_seed(1)
    ids, other = torch.randint(VOCAB, (2, 3, length), generator=draw)
    valid = torch.arange(length) < torch.tensor([length, length - 2, 5])[:, None]
    if config.is_encoder_decoder:
        source = bidirectional_batch(other[:, : length - 1], valid=valid[:, : length - 1])
        return causal_batch(ids, valid=valid), source
    batch = bidirectional_batch(ids, valid=valid)
    if config.languages:
        batch = batch._replace(lang=ids % config.languages)
    return batch, None
