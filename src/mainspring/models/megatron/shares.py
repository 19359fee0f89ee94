"""Megatron's tensor-parallel shares of a GPT-2-shaped model: cut and joined along declared axes.

The joint matrix of queries, keys and values was laid out in three ways over the years (DeepSpeed's
`MegatronSDLoader` reads them all): version 0 has a rank's rows in the order [3, heads, E], 1.0 in [heads, E,
3], 2.0 in [heads, 3, E], which is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mainspring.errors import ConfigError, WeightsError, suggest
from mainspring.models import gpt2
from mainspring.models.bert_like import linear_or_norm
from mainspring.models.weights import Rule, WeightMap, expected_shapes
from mainspring.nn.config import TransformerConfig

Version = Literal["0", "1.0", "2.0"]
"""`checkpoint_version` of a checkpoint: its layout of query_key_value."""

Axis = Literal["rows", "columns", "heads", "whole"]
"""How a tensor is cut over the ranks; `heads`: rows, by whole heads; `whole`: each rank has all of it."""

_VOCABULARY_MULTIPLE = 128
"""Megatron pads the vocabulary to a multiple of this for each rank."""

_LAYER = "transformer.layers.{i}"
AXES: Mapping[str, Axis] = {
    "word_embeddings.weight": "rows",
    "position_embeddings.weight": "whole",
    f"{_LAYER}.input_layernorm.weight": "whole",
    f"{_LAYER}.input_layernorm.bias": "whole",
    f"{_LAYER}.attention.query_key_value.weight": "heads",
    f"{_LAYER}.attention.query_key_value.bias": "heads",
    f"{_LAYER}.attention.dense.weight": "columns",
    f"{_LAYER}.attention.dense.bias": "whole",
    f"{_LAYER}.post_attention_layernorm.weight": "whole",
    f"{_LAYER}.post_attention_layernorm.bias": "whole",
    f"{_LAYER}.mlp.dense_h_to_4h.weight": "rows",
    f"{_LAYER}.mlp.dense_h_to_4h.bias": "rows",
    f"{_LAYER}.mlp.dense_4h_to_h.weight": "columns",
    f"{_LAYER}.mlp.dense_4h_to_h.bias": "whole",
    "transformer.final_layernorm.weight": "whole",
    "transformer.final_layernorm.bias": "whole",
}
"""How each tensor of a checkpoint is cut."""

_DIMS: Mapping[Axis, int] = {"rows": 0, "columns": 1}

_OURS = "layers.{i}"
WEIGHTS = WeightMap(
    rules=(
        Rule("embeddings.token.weight", "word_embeddings.weight"),
        Rule("embeddings.position.weight", "position_embeddings.weight"),
        *linear_or_norm(f"{_OURS}.attention_norm", f"{_LAYER}.input_layernorm"),
        *linear_or_norm(f"{_OURS}.attention.qkv", f"{_LAYER}.attention.query_key_value"),
        *linear_or_norm(f"{_OURS}.attention.out", f"{_LAYER}.attention.dense"),
        *linear_or_norm(f"{_OURS}.feed_forward_norm", f"{_LAYER}.post_attention_layernorm"),
        *linear_or_norm(f"{_OURS}.feed_forward.up", f"{_LAYER}.mlp.dense_h_to_4h"),
        *linear_or_norm(f"{_OURS}.feed_forward.down", f"{_LAYER}.mlp.dense_4h_to_h"),
        *linear_or_norm("norm", "transformer.final_layernorm"),
    )
)
"""Ours beside a whole checkpoint's names; its version 2.0 has our rows of query_key_value."""


@dataclass(frozen=True)
class _Shape:
    heads: int
    head_dim: int


def split(
    state: Mapping[str, Tensor], config: TransformerConfig, ranks: int, version: Version = "2.0"
) -> list[dict[str, Tensor]]:
    """Cut a model into Megatron's shares.

    Args:
        state: tensors by our names.
        config: a GPT-2-shaped model.
        ranks: degree of tensor parallelism; divides the heads and the inner width.
        version: layout of query_key_value.

    Returns:
        A share for each rank, by Megatron's names.

    Raises:
        WeightsError: the model is not GPT-2-shaped, or the state is not the model's.
        ConfigError: the heads or the inner width do not divide by `ranks`, or the version is unknown.
    """
    _check(config, ranks, version)
    whole = WEIGHTS.write(state, config)
    multiple = _VOCABULARY_MULTIPLE * ranks
    table = whole["word_embeddings.weight"]
    extra = -table.shape[0] % multiple
    if extra:
        whole["word_embeddings.weight"] = torch.cat([table, table.new_zeros(extra, table.shape[1])])
    shape = _Shape(config.n_heads, config.head_width)
    shares: list[dict[str, Tensor]] = [{} for _ in range(ranks)]
    for name, tensor in whole.items():
        for share, part in zip(shares, _cut(tensor, _axis(name), ranks, version, shape), strict=True):
            share[name] = part
    return shares


def merge(
    shares: Sequence[Mapping[str, Tensor]], config: TransformerConfig, version: Version = "2.0"
) -> dict[str, Tensor]:
    """Join Megatron's shares, the inverse of `split`.

    Args:
        shares: of each rank in order, by Megatron's names.
        config: the model they are of.
        version: layout of query_key_value.

    Returns:
        Tensors by our names.

    Raises:
        WeightsError: names are missing or unexpected, shapes differ, or what each rank has whole is not
            the same on all.
        ConfigError: the shares' number does not divide the heads, or the version is unknown.
    """
    _check(config, len(shares), version)
    for rank, share in enumerate(shares):
        different = sorted(set(share) ^ set(shares[0]))
        if different:
            raise WeightsError(f"ranks 0 and {rank} have not the same tensors: {', '.join(different[:8])}")
    shape = _Shape(config.n_heads, config.head_width)
    whole: dict[str, Tensor] = {}
    misshaped: list[str] = []
    expected = _share_shapes(config, len(shares))
    for name in shares[0]:
        parts = [share[name] for share in shares]
        wrong = [(r, p) for r, p in enumerate(parts) if name in expected and p.shape != expected[name]]
        if wrong:
            rank, part = wrong[0]
            misshaped.append(f"{name} of rank {rank} is {list(part.shape)}, not {list(expected[name])}")
        else:
            whole[name] = _join(name, parts, version, shape)
    if misshaped:
        raise WeightsError(f"{len(misshaped)} of another shape: {', '.join(misshaped[:8])}")
    if "word_embeddings.weight" in whole:
        whole["word_embeddings.weight"] = whole["word_embeddings.weight"][: config.rows]
    return WEIGHTS.read(whole, config).state


def _check(config: TransformerConfig, ranks: int, version: str) -> None:
    gpt2.to_hf(config)
    if not config.tied:
        raise WeightsError("Megatron's GPT-2 predicts with its embeddings: tied = false cannot be")
    if version not in get_args(Version):
        raise ConfigError(f"version = {version!r}: {suggest(version, get_args(Version))}")
    legal = [n for n in range(1, config.n_heads + 1) if not config.n_heads % n and not config.d_ff % n]
    if ranks not in legal:
        raise ConfigError(
            f"ranks = {ranks} does not divide n_heads = {config.n_heads} and d_ff = {config.d_ff}; nearest "
            f"legal value: {min(legal, key=lambda n: abs(n - ranks))}"
        )


def _axis(name: str) -> Axis:
    # A foreign name is refused by the WeightMap, with all others, once the rest is joined.
    return AXES.get(re.sub(r"\.layers\.\d+\.", ".layers.{i}.", name), "whole")


def _cut(tensor: Tensor, axis: Axis, ranks: int, version: Version, shape: _Shape) -> Sequence[Tensor]:
    if axis == "whole":
        return [tensor] * ranks
    if axis != "heads":
        return tensor.chunk(ranks, dim=_DIMS[axis])
    rest = tensor.shape[1:]
    local = tensor.reshape(shape.heads, 3, shape.head_dim, *rest).chunk(ranks)
    return [_from_ours(part, version).reshape(-1, *rest) for part in local]


def _join(name: str, parts: Sequence[Tensor], version: Version, shape: _Shape) -> Tensor:
    axis = _axis(name)
    if axis == "whole":
        for rank, part in enumerate(parts):
            if not torch.equal(part, parts[0]):
                raise WeightsError(f"{name} differs between ranks 0 and {rank}, which must have it alike")
        return parts[0]
    if axis != "heads":
        return torch.cat(list(parts), dim=_DIMS[axis])
    rest, heads = parts[0].shape[1:], shape.heads // len(parts)
    return torch.cat([_to_ours(part, version, heads, shape.head_dim) for part in parts]).reshape(-1, *rest)


def _from_ours(local: Tensor, version: Version) -> Tensor:
    """A rank's [heads, 3, E, ...] in the version's order."""
    if version == "0":
        return local.transpose(0, 1)
    return local.transpose(1, 2) if version == "1.0" else local


def _to_ours(part: Tensor, version: Version, heads: int, head_dim: int) -> Tensor:
    """A rank's rows to [heads, 3, E, ...]."""
    rest = part.shape[1:]
    if version == "0":
        return part.reshape(3, heads, head_dim, *rest).transpose(0, 1)
    if version == "1.0":
        return part.reshape(heads, head_dim, 3, *rest).transpose(1, 2)
    return part.reshape(heads, 3, head_dim, *rest)


def _share_shapes(config: TransformerConfig, ranks: int) -> dict[str, torch.Size]:
    """Shapes that a rank's tensors must have."""
    state = {n: torch.empty(s, device="meta") for n, s in expected_shapes(config).items()}
    return {name: tensor.shape for name, tensor in split(state, config, ranks)[0].items()}
