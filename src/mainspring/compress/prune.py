"""Really smaller models: layers, heads and columns of the feed-forward taken out.

What is left is a `Transformer` of a smaller configuration, so that everything that trains, runs or exports
models takes it. A configuration has as many heads and columns in each layer, so that each keeps its own most
important ones, equally many. Layers are dropped at equal distances (Sajjad et al. 2020, arXiv 2004.03844;
students of DistilBERT begin with every other layer of their teacher) unless they are named.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring.compress.importance import Importance
from mainspring.errors import UsageError
from mainspring.nn.config import TransformerConfig
from mainspring.nn.transformer import Transformer


def spread_layers(depth: int, keep: int) -> list[int]:
    """Which of `depth` layers to keep, at equal distances, with the last.

    >>> spread_layers(6, 3), spread_layers(12, 4)
    ([1, 3, 5], [2, 5, 8, 11])
    """
    if not 1 <= keep <= depth:
        raise UsageError(f"{keep} layers cannot be kept of {depth}; nearest legal value: {max(1, depth)}")
    return [(index + 1) * depth // keep - 1 for index in range(keep)]


@torch.no_grad()
def drop_layers(model: Transformer, keep: Sequence[int]) -> Transformer:
    """The model with some of its layers, in their order.

    Raises:
        UsageError: a layer does not exist or is named twice, or the model has two stacks or experts.
    """
    config = model.config
    _plain(config)
    if sorted(set(keep)) != list(keep) or not keep or not 0 <= keep[0] <= keep[-1] < config.n_layers:
        raise UsageError(f"layers {list(keep)}: name some of 0 to {config.n_layers - 1}, each once, rising")
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith("layers."):
            state[name] = tensor
            continue
        _, number, rest = name.split(".", 2)
        if int(number) in keep:
            state[f"layers.{list(keep).index(int(number))}.{rest}"] = tensor
    return _made(config.replace(n_layers=len(keep)), state)


@torch.no_grad()
def drop_parts(
    model: Transformer, found: Importance, *, heads: int | None = None, d_ff: int | None = None
) -> Transformer:
    """The model with the most important heads and columns of each layer, so many in each.

    Args:
        model: of one stack.
        found: importance of its parts.
        heads: to keep in a layer (None: all).
        d_ff: columns to keep in a layer (None: all).

    Raises:
        UsageError: there are not so many, or heads share vectors of positions, or the model has experts.
    """
    config = model.config
    _plain(config)
    for what, asked, there in (("heads", heads, config.n_heads), ("d_ff", d_ff, config.d_ff)):
        if asked is not None and not 1 <= asked <= there:
            raise UsageError(f"{what} = {asked}: a layer has {there}; nearest legal value: {there}")
    if heads not in (None, config.n_heads) and (config.t5_bias or config.disentangled):
        raise UsageError(
            "heads of this model share learnt positions between layers, so that layers cannot keep different "
            "ones; prune its layers or d_ff"
        )
    state = dict(model.state_dict())
    width, gated = config.head_width, 2 if config.gated else 1
    for layer in range(config.n_layers):
        prefix = f"layers.{layer}."
        if heads is not None:
            kept = _largest(found.heads[layer], heads)
            _rows(state, f"{prefix}attention.qkv", kept, 3 * width)
            _rows(state, f"{prefix}attention.qv_bias", kept, 2 * width)
            _columns(state, f"{prefix}attention.out.weight", kept, width)
        if d_ff is not None:
            kept = _largest(found.columns[layer], d_ff)
            _rows(state, f"{prefix}feed_forward.up", kept, gated)
            _columns(state, f"{prefix}feed_forward.down.weight", kept, 1)
    smaller = config.replace(n_heads=heads or config.n_heads, head_dim=width, d_ff=d_ff or config.d_ff)
    return _made(smaller, state)


def _plain(config: TransformerConfig) -> None:
    if config.is_encoder_decoder or config.experts is not None:
        raise UsageError(
            "pruning takes models of one stack with dense feed-forwards; mainspring.nn.moe.surgery takes "
            "experts out"
        )


def _largest(importance: Tensor, count: int) -> Tensor:
    """Places of the largest, in their order."""
    return importance.topk(count).indices.sort().values


def _rows(state: dict[str, Tensor], name: str, kept: Tensor, width: int) -> None:
    """Keep groups of `width` rows of a map's weight and bias, or of a vector."""
    for key in (name, f"{name}.weight", f"{name}.bias"):
        if key in state:
            tensor = state[key]
            state[key] = tensor.view(-1, width, *tensor.shape[1:])[kept].flatten(0, 1).clone()


def _columns(state: dict[str, Tensor], key: str, kept: Tensor, width: int) -> None:
    tensor = state[key]
    state[key] = tensor.view(len(tensor), -1, width)[:, kept].flatten(1).clone()


def _made(config: TransformerConfig, state: dict[str, Tensor]) -> Transformer:
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()
