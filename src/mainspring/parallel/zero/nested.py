"""Tensors in nested arguments and outputs: tuples, named tuples, lists, mappings, dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in `value`, outermost first."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from tensors_of(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_of(one)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_of(getattr(value, field.name))


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with `change` applied to all tensors in it; containers are copied, other objects left."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(change, one) for one in value))
    if type(value) in (tuple, list):
        return type(value)(map_tensors(change, one) for one in value)
    if isinstance(value, MutableMapping):
        mapped = copy.copy(value)
        for key, one in value.items():
            mapped[key] = map_tensors(change, one)
        return mapped
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{k: map_tensors(change, getattr(value, k)) for k in fields})
    return value
