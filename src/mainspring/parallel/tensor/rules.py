"""Tensor parallelism of modules that know nothing of it, by rules: a pattern of module paths, and how to cut.

    "column"      a linear map by its outputs; what enters is the same on all ranks
    "row"         a linear map by its inputs, which a "column" one made; what leaves is the same on all ranks
    "vocabulary"  an embedding by its rows, or a linear map to logits by its outputs; both give what is whole

Between a "column" and a "row" go maps of each element, and attention by whole heads whose code takes their
number from the tensors. Maps are torch's Linear and transformers' Conv1D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import Tensor, nn

from mainspring.errors import PlanError
from mainspring.nn.peers import Along
from mainspring.nn.span import logical_shape
from mainspring.parallel.tensor.ranks import Ranks
from mainspring.parallel.tensor.rows import Rows

Rule = Literal["column", "row", "vocabulary"]
Ruled = tuple[str, nn.Module, Rule]
"""Path of a module, itself, and what is done with it."""


def ruled(model: nn.Module, rules: Mapping[str, Rule]) -> list[Ruled]:
    """The modules that rules name, in the model's order.

    Args:
        model: any module.
        rules: by pattern; "*" stands for any part of a path, dots included.

    Raises:
        PlanError: a pattern names nothing, or what it names cannot be cut so.
    """
    found: list[Ruled] = []
    for pattern, rule in rules.items():
        named = [(path, m, rule) for path, m in model.named_modules() if fnmatchcase(path, pattern)]
        if not named:
            raise PlanError(f"rules: {pattern!r} is the path of no module of {type(model).__name__}")
        for path, module, _ in named:
            if not (_is_map(module) or (rule == "vocabulary" and isinstance(module, nn.Embedding))):
                raise PlanError(
                    f"rules: {pattern!r} names {path}, a {type(module).__name__}; {rule!r} cuts Linear and "
                    f"Conv1D{' and Embedding' if rule == 'vocabulary' else ''}"
                )
        found += named
    return found


def parts_of(module: nn.Module, rule: Rule) -> Iterator[tuple[str, Along]]:
    """How the parameters of a module are cut."""
    weight = module.get_parameter("weight")
    across = 1 if _turned(module) else 0
    if rule == "row":
        yield "weight", Along(1 - across, weight.shape[1 - across], "inputs")
        return
    even, what = rule == "column", "outputs" if rule == "column" else "tokens"
    yield "weight", Along(across, weight.shape[across], what, even)
    if getattr(module, "bias", None) is not None:
        yield "bias", Along(0, weight.shape[across], what, even)


def connect(module: Any, rule: Rule, ranks: Ranks, rows: Callable[[int], Rows]) -> None:
    """Make the forward of a module that has been cut enter and leave as its rule says.

    Args:
        module: one of `ruled`.
        rule: its rule.
        ranks: of the tensor axis.
        rows: makes the rows of a table of so many that are here.
    """
    if rule == "row":
        module.forward = _Row(module, ranks)
    elif rule == "column":
        module.forward = _Column(module, ranks)
    else:
        total = logical_shape(module.weight)[1 if _turned(module) else 0]
        module.forward = _Vocabulary(module, ranks, rows(total))
    for name, dim in (("nf", 1), ("nx", 0), ("in_features", 1), ("out_features", 0), ("num_embeddings", 0)):
        if name in module.__dict__:
            setattr(module, name, module.weight.shape[dim])


class _Column:
    """Stands in for the forward of a map: its input's gradients are added up over ranks."""

    def __init__(self, module: Any, ranks: Ranks) -> None:
        self._module, self._ranks = module, ranks

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = type(self._module).forward(self._module, self._ranks.share(x)[0])
        return result


class _Row:
    """Stands in for the forward of a map: products are added up over ranks, and the bias once."""

    def __init__(self, module: Any, ranks: Ranks) -> None:
        self._module, self._ranks = module, ranks

    def __call__(self, x: Tensor) -> Tensor:
        module = self._module
        bias = module._parameters.get("bias")
        if bias is None:
            return self._ranks.leave(type(module).forward(module, x))
        module._parameters["bias"] = self._ranks.once(bias)
        try:
            return self._ranks.leave(type(module).forward(module, x))
        finally:
            module._parameters["bias"] = bias


class _Vocabulary:
    """Stands in for the forward of a table, or of a map to logits."""

    def __init__(self, module: Any, ranks: Ranks, rows: Rows) -> None:
        self._module, self._ranks, self._rows = module, ranks, rows
        if isinstance(module, nn.Embedding):
            module.padding_idx = rows.local(module.padding_idx)

    def __call__(self, x: Tensor) -> Tensor:
        if isinstance(self._module, nn.Embedding):
            return self._rows.embed(self._own, x)
        return self._rows.gather(self._own(self._ranks.share(x)[0]))

    def _own(self, x: Tensor) -> Tensor:
        result: Tensor = type(self._module).forward(self._module, x)
        return result


def _is_map(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _turned(module)


def _turned(module: nn.Module) -> bool:
    """Whether a map's weight is [inputs, outputs]."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")
