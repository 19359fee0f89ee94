"""Find the blocks of a model: the repeated units that are sharded, gathered and recomputed as a whole."""

from __future__ import annotations

from collections import Counter

from torch import nn


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of `model` in order: what its `blocks()` says, else the children of its lists of like
    modules.

    Without a `blocks()` method every outermost `nn.ModuleList` or `nn.Sequential` of at least two modules of
    one class that hold parameters counts (Hugging Face's `h` and `layer`, stages of a CNN). A module that
    occurs twice is listed once.
    """
    declared = getattr(model, "blocks", None)
    if callable(declared) and not isinstance(declared, nn.Module):
        return list(dict.fromkeys(declared()))
    found: list[nn.Module] = []
    _collect(model, found)
    return list(dict.fromkeys(found))


def shardable_blocks(model: nn.Module) -> list[nn.Module]:
    """Blocks that own all their parameters: one that shares a parameter with the rest belongs to the root's
    unit."""
    blocks = find_blocks(model)
    uses: Counter[int] = Counter()
    for unit in blocks:
        uses.update({id(p) for p in unit.parameters()})
    inside = {id(m) for block in blocks for m in block.modules()}
    for module in model.modules():
        if id(module) not in inside:
            uses.update({id(p) for p in module.parameters(recurse=False)})
    counts = ([uses[id(p)] for p in block.parameters()] for block in blocks)
    return [block for block, uses_of in zip(blocks, counts, strict=True) if uses_of and max(uses_of) == 1]


def _collect(module: nn.Module, found: list[nn.Module]) -> None:
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential) and _is_stack(child):
            found.extend(child.children())
        else:
            _collect(child, found)


def _is_stack(group: nn.Module) -> bool:
    members = list(group.children())
    return (
        len(members) > 1
        and len({type(m) for m in members}) == 1
        and all(any(True for _ in m.parameters()) for m in members)
    )
