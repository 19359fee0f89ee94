"""The table of published claims beside what was measured here."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "benchmarks/claims.toml"
KINDS = ("exact", "ratio", "direction")
NOT_MEASURED = "not measured"


def claims() -> list[dict[str, Any]]:
    """What `benchmarks/claims.toml` says, in its order."""
    found: list[dict[str, Any]] = tomllib.loads(CLAIMS.read_text(encoding="utf-8"))["claim"]
    return found


def claimed(results: Path = ROOT / "benchmarks/results") -> list[dict[str, Any]]:
    """A row for each claim; figures come from the results and from nowhere else."""
    return [
        {
            "system": claim["system"],
            "published": f"{claim['claim']} ({claim['source']})",
            "kind": claim["kind"],
            "measured here": measured(claim, results),
        }
        for claim in claims()
    ]


def measured(claim: dict[str, Any], results: Path) -> str:
    """Bars and differences that results have, tests that assert a count; else that nothing was measured, and
    why."""
    parts = []
    for result, name in claim.get("bars", ()):
        bar = bar_of(results / f"{result}.json", name)
        if bar is not None:
            parts.append(f"{bar['name']}: {bar['value']:.3g}{'' if bar['met'] else ' (bar missed)'}")
    for result, experiment, measure in claim.get("differences", ()):
        row = difference_of(results / f"{result}.json", experiment, measure)
        if row is not None:
            parts.append(f"{measure}, {row['arm']}: {row['mean']:.3g} +- {row['+-']:.2g}")
    parts += [f"asserted by `{test}`" for test in claim.get("tests", ())]
    if not parts:
        parts.append(NOT_MEASURED)
    if "because" in claim:
        parts.append(claim["because"])
    return "; ".join(parts)


def bar_of(path: Path, name: str) -> dict[str, Any] | None:
    """The bar of a result, if there is such a result."""
    if not path.exists():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {bar["name"]: bar for bar in result["bars"]}
    return found.get(name)


def difference_of(path: Path, experiment: str, measure: str) -> dict[str, Any] | None:
    """The row of a result that compares the arms of an experiment, if there is such a result."""
    if not path.exists():
        return None
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    mine = (row for row in rows if (row.get("experiment"), row.get("measure")) == (experiment, measure))
    return next((row for row in mine if " - " in row["arm"]), None)
