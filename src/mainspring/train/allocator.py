"""What the C library does with memory that a step has freed, on a CPU.

glibc maps blocks of 32 MiB and more anew each time and gives the end of its heap back to the system. What a
step frees at its end the next one then takes page by page, and a page costs a fault: in a virtual machine as
much as the arithmetic on it.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""M_TRIM_THRESHOLD and M_MMAP_MAX of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, for all of this process and for good.

    Returns:
        Whether it does; False where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
