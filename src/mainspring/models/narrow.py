"""Parameters in narrow formats among a model's tensors: `NAME.codes` and `NAME.scales` in place of `NAME`.

`mainspring.json` says under `encoded` which parameters are stored so, in which format, shape and dimension of
boxes. Whoever reads the model gets the values; `read_encoded` gives the bytes as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mainspring.errors import ConfigError, WeightsError
from mainspring.numerics import Encoded, Format, format_named

CODES, SCALES = ".codes", ".scales"


def stored(state: Mapping[str, Tensor], encoded: Mapping[str, Encoded]) -> dict[str, Tensor]:
    """The tensors of a model as they are written: bytes in place of the parameters that are encoded."""
    tensors = {name: tensor for name, tensor in state.items() if name not in encoded}
    for name, one in encoded.items():
        tensors[name + CODES], tensors[name + SCALES] = one.codes, one.scales
    return tensors


def described(encoded: Mapping[str, Encoded], formats: Mapping[str, str]) -> dict[str, Any]:
    """What `mainspring.json` says of them."""
    return {
        name: {"format": formats[name], "shape": list(one.shape), "dim": one.dim}
        for name, one in sorted(encoded.items())
    }


def taken_out(
    tensors: dict[str, Tensor], said: Mapping[str, Any], source: str
) -> dict[str, tuple[Encoded, Format]]:
    """Remove the bytes of encoded parameters from the tensors of a file, and return them with their formats.

    Raises:
        WeightsError: bytes are missing, of another size, or in a format that is not known.
    """
    found: dict[str, tuple[Encoded, Format]] = {}
    for name, one in said.items():
        codes, scales = tensors.pop(name + CODES, None), tensors.pop(name + SCALES, None)
        if codes is None or scales is None:
            raise WeightsError(f"{source}: {name} is encoded, and {name}{CODES} or {name}{SCALES} is missing")
        try:
            form = format_named(str(one.get("format")))
        except ConfigError as error:
            raise WeightsError(f"{source}: {name}: {error}") from error
        encoded = Encoded(codes, scales, torch.Size(one["shape"]), int(one["dim"]))
        if not form.fits(encoded):
            raise WeightsError(
                f"{source}: {name}: {codes.numel()} bytes and {scales.numel()} scales are not those of "
                f"{form.name} of shape {one['shape']}; the file is damaged"
            )
        found[name] = encoded, form
    return found
