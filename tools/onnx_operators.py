"""The table of ONNX operators that graphs may have, from the importer's own."""

from __future__ import annotations


def onnx_operators() -> str:
    """Operators by group, with the opsets from which each function holds."""
    from mainspring.models.onnx.operators.table import GROUPS, INSTEAD

    parts = [
        "# ONNX operators\n\nWhat graphs that are trained ([Bring an ONNX graph](../guide/onnx.md)) may be "
        "made of. Numbers are the opsets from which a function holds.\n"
    ]
    for title, table in GROUPS.items():
        since: dict[str, list[int]] = {}
        for (_, op, first), _ in sorted(table.items()):
            since.setdefault(op, []).append(first)
        domains = {domain for domain, _, _ in table if domain}
        told = f" (domain `{domains.pop()}`)" if domains else ""
        cells = [f"`{op}` {', '.join(map(str, versions))}" for op, versions in since.items()]
        parts.append(f"\n## {title}{told}\n\n{' · '.join(cells)}\n")
    parts.append("\n## Refused, and what to do instead\n\n| operator | instead |\n|---|---|\n")
    parts += [
        f"| `{f'{domain}.' if domain else ''}{op}` | {remedy} |\n" for (domain, op), remedy in INSTEAD.items()
    ]
    return "".join(parts)
