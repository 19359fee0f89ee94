"""Features by lines: LINE that follow one another, as many as a line of the processor's cache holds.

What a block changed is told by lines. To touch one feature costs memory a line anyway, a list of lines is
shorter than one of features, and loops over a line are straight.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]

LINE = 16
"""Features of a line: 64 bytes of float32."""


def line_count(features: int) -> int:
    """Lines of so many features; the last may be shorter."""
    return -(-features // LINE)


def features_of(lines: Ints, features: int) -> npt.NDArray[np.int64]:
    """All features of lines, in order, of so many that there are.

    >>> features_of(np.array([1], dtype=np.int32), 18).tolist()
    [16, 17]
    """
    found = (lines.astype(np.int64)[:, None] * LINE + np.arange(LINE)).ravel()
    return found[found < features]
