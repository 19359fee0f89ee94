"""Beginning a run with the weights of a model that exists: what has to fit, and what is drawn anew.

All layers have to be there, of the same shapes. A head or pooler that the model does not have, or has for
another purpose, is left as it was drawn: a new task needs a new one. Tables may be padded differently, and
a table of positions may be longer here: it is then filled by repeating the one that there is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mainspring import parallel
from mainspring.errors import WeightsError, few
from mainspring.nn import TransformerConfig
from mainspring.nn.assign import assign
from mainspring.nn.positions import tiled
from mainspring.nn.span import logical_shape
from mainspring.objectives.around import AroundNetwork
from mainspring.objectives.generator import Difference
from mainspring.train.source import Weights

_HEADS = ("head.", "pooler.")
_PADDED = ("embeddings.token.weight", "head.")
_POSITIONS = "embeddings.position.weight"


def begin_from(model: nn.Module, config: TransformerConfig, weights: Weights) -> tuple[str, ...]:
    """Give the network in a freshly initialised model the weights of another; every rank calls it.

    Args:
        model: a network, or one with what an objective puts around it; parameters may be sharded.
        config: the network's.
        weights: where to begin.

    Returns:
        Names of the head's and pooler's parameters that are left as they were drawn.

    Raises:
        WeightsError: layers or tables differ; lists names and shapes.
    """
    targets = _parameters(model.network if isinstance(model, AroundNetwork) else model)
    away = parallel.elsewhere(model)
    given = {n: t for n, t in weights.state.items() if n in targets or not n.startswith(_HEADS)}
    given = {n: t for n, t in given.items() if n not in away}
    if config.head != weights.config.head:
        given = {n: t for n, t in given.items() if not n.startswith("head.")}
    rows, least = config.rows, min(config.vocab_size, weights.config.vocab_size)
    for name, tensor in given.items():
        target = targets.get(name)
        if target is None or not name.startswith(_PADDED) or config.vocab_size != weights.config.vocab_size:
            continue
        wanted = logical_shape(target)
        if tensor.shape != wanted and wanted[:1] == (rows,) and tensor.shape[1:] == wanted[1:]:
            padded = torch.zeros(wanted, dtype=tensor.dtype)
            padded[:least] = tensor[:least]
            given[name] = padded
    if config.absolute is not None and config.absolute == weights.config.absolute and _POSITIONS in given:
        table, offset = given[_POSITIONS], config.absolute.offset
        if table.shape[0] < config.max_positions + offset:
            given[_POSITIONS] = tiled(table, config.max_positions + offset, offset)
    _refuse(targets, given, weights)
    for name, tensor in given.items():
        assign(targets[name], tensor)
    return tuple(sorted(set(targets) - set(given)))


def _parameters(network: nn.Module) -> dict[str, Tensor]:
    """Parameters by name; of a table that is learnt as a difference, the one that it differs from."""
    found: dict[str, Tensor] = dict(network.named_parameters())
    for name, module in network.named_modules():
        if isinstance(module, Difference):
            found[f"{name}.weight"] = module.base.weight
    return found


def _refuse(targets: dict[str, Tensor], given: dict[str, Tensor], weights: Weights) -> None:
    missing = sorted(n for n in set(targets) - set(given) if not n.startswith(_HEADS))
    surplus = sorted(set(given) - set(targets))
    shapes = [
        f"{n}: there {list(t.shape)}, here {list(logical_shape(targets[n]))}"
        for n, t in sorted(given.items())
        if n in targets and t.shape != logical_shape(targets[n])
    ]
    faults = [
        f"{label}: {few(names)}"
        for label, names in (("only here", missing), ("only there", surplus), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise WeightsError(
            f"train.init_from = {str(weights.path)!r} is another network: {'; '.join(faults)}. Give the "
            "recipe that model's settings (mainspring import writes them into recipe.toml)"
        )
