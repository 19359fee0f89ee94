"""Narrow number formats: MSFP, MX, and scaled integers, as values, as bytes, and in training."""

from mainspring.numerics.elements import FloatElement
from mainspring.numerics.encoded import Encoded
from mainspring.numerics.format import Format
from mainspring.numerics.integers import Integers
from mainspring.numerics.mixture import in_bits
from mainspring.numerics.msfp import Msfp
from mainspring.numerics.mx import Mx
from mainspring.numerics.names import FORMATS, format_named
from mainspring.numerics.rounding import Rounding
from mainspring.numerics.straight_through import straight_through

__all__ = [
    "FORMATS",
    "Encoded",
    "FloatElement",
    "Format",
    "Integers",
    "Msfp",
    "Mx",
    "Rounding",
    "format_named",
    "in_bits",
    "straight_through",
]
