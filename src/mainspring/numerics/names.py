"""Formats by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from mainspring.errors import ConfigError
from mainspring.numerics.elements import E2M1, E2M3, E3M2, E4M3, E5M2
from mainspring.numerics.format import Format
from mainspring.numerics.integers import Integers
from mainspring.numerics.msfp import Msfp
from mainspring.numerics.mx import Mx

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        form.name: form
        for form in (
            *(Msfp(bits) for bits in range(11, 17)),
            Mx("mxfp8_e4m3", E4M3),
            Mx("mxfp8_e5m2", E5M2),
            Mx("mxfp6_e3m2", E3M2),
            Mx("mxfp6_e2m3", E2M3),
            Mx("mxfp4", E2M1),
            Mx("mxint8", None),
            Integers(8),
            Integers(4),
            Integers(4, 32),
            Integers(4, 128),
        )
    }
)
"""Formats with their published boxes."""


def format_named(name: str) -> Format:
    """The format of that name; integers also with other groups ("int4-g64").

    Raises:
        ConfigError: there is none; lists those that there are.
    """
    if name in FORMATS:
        return FORMATS[name]
    if found := re.fullmatch(r"int([2-8])(?:-g([1-9]\d*))?", name):
        return Integers(int(found[1]), int(found[2]) if found[2] else None)
    raise ConfigError(f"no number format is called {name!r}; there are {', '.join(FORMATS)}, int4-g64 ...")
