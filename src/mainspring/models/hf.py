"""What the families' config.json files have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mainspring.errors import WeightsError, suggest
from mainspring.nn.config import Activation, TransformerConfig

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
"""Published names of activations -> ours; of several for one of ours, the first is written."""


VOCAB_ROWS = "mainspring_vocab_rows"
"""Key of config.json, foreign to other programs, with the rows that our table is padded to."""


def activation_from_hf(name: str) -> Activation:
    """Our name of a published activation.

    Raises:
        WeightsError: it is not known.
    """
    if name not in ACTIVATIONS:
        raise WeightsError(f"config.json: activation {name!r} is not supported; {suggest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def activation_to_hf(activation: Activation, family: str) -> str:
    """Published name of an activation.

    Raises:
        WeightsError: the published layout has none such.
    """
    for theirs, ours in ACTIVATIONS.items():
        if ours == activation:
            return theirs
    raise WeightsError(
        f"{family} has no activation {activation!r}; {suggest(activation, ACTIVATIONS.values())}"
    )


def required(values: Mapping[str, Any], key: str) -> int:
    """A whole number that config.json must have.

    Raises:
        WeightsError: it is absent or not a whole number.
    """
    value = values.get(key)
    if not isinstance(value, int):
        raise WeightsError(f"config.json: {key} = {value!r}: a whole number is needed")
    return value


def differences(
    config: TransformerConfig, shape: TransformerConfig, free: Collection[str], family: str
) -> None:
    """Refuse a configuration that differs from a family's shape in other than its free fields.

    Raises:
        WeightsError: the fields, with both values.
    """
    ours, theirs = config.model_dump(), shape.model_dump()
    ours["head_dim"], theirs["head_dim"] = config.head_width, shape.head_width
    parts = [
        f"{field} = {ours[field]!r} ({family}: {theirs[field]!r})"
        for field in ours
        if field not in free and ours[field] != theirs[field]
    ]
    if parts:
        raise WeightsError(f"this model is not a {family}: {', '.join(parts)}")
