"""Numbers for people."""

from __future__ import annotations


def amount(value: float, unit: str = "") -> str:
    """A number with three digits: decimal multiples, binary ones for bytes.

    >>> amount(124_439_808), amount(3 * 2**30, "B")
    ('124 M', '3.00 GiB')
    """
    base, names = (
        (1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
        if unit == "B"
        else (1000.0, ("", "k", "M", "G", "T", "P", "E"))
    )
    index = 0
    while abs(value) >= base * 0.9995 and index < len(names) - 1:
        value /= base
        index += 1
    digits = 0 if index == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {names[index]}".rstrip()


def duration(seconds: float) -> str:
    """A time with a fitting unit.

    >>> duration(0.0421), duration(75), duration(7384)
    ('42.1 ms', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} us"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
