"""What trains under which plan, out of the cases that the tests run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tools.tables import table

TESTS = Path(__file__).parents[1] / "tests"
AXES = ("data", "tensor", "sequence", "pipeline", "expert")
DETAILS = ("tensor_sequence", "sequence_attention", "pipeline_schedule", "pipeline_chunks")
STAGES = tuple(f"zero={stage}" for stage in range(4))
ORDER = ("fp32", "bf16", "fp16", "accumulation", "remat", "born on meta")


def compatibility() -> str:
    """The page without its notice."""
    sys.path.insert(0, str(TESTS))
    try:
        from parallel import pairs, test_disk
        from parallel.battery import Case
    finally:
        sys.path.remove(str(TESTS))
    cases = list(pairs.battery())
    by_model = [case for _, case in cases if not _axes(case.plan)]
    for name, stage, precision, meta, accumulation in test_disk.CASES:
        by_model.append(Case(name, {"zero": stage, "offload": "disk"}, precision, accumulation, meta=meta))
    composed = [(world, case) for world, case in cases if _axes(case.plan)]
    refused = [(*pair, why) for pair in pairs.pairs() if (why := pairs.refusal(*pair)) is not None]
    return (
        "# What trains under which plan\n\nEach entry is a test on 2 gloo ranks, some of them also "
        "on 4, three axes\nat once on 8, all of them on 16 (most of those with the slow tests): losses, "
        "gradients, norms\nand parameters are those of one process over the same rows "
        "(`tests/parallel/battery.py`). `fsdp2`\nis `plan.backend`, `host` and `disk` are `plan.offload`; "
        "the others are flat shards. `awkward` has tied\nweights, a frozen part, layers that share one, a "
        f"part that some rows use and one that none does.\n\n{table(_models(by_model))}\n"
        "## Axes together\n\nWhich axes of the mesh are longer than 1 at once, and on which models that was "
        "tested at each ZeRO stage.\n`tensor_sequence`, schedules and kinds of attention over the sequence "
        f"are options of their axes.\n\n{table(_together(composed))}\n"
        "## What is refused\n\nTwo things that a plan is told at once and that cannot be: the plan says so, "
        "with what to do instead, before\nanything is allocated. Every other pair is in some case of the "
        "tables above, which a test sees to\n(`tests/parallel/test_pairs.py`); what compressed and Adasum "
        "communication train like is in tests of their own.\n\n"
        f"{table(_refused(refused))}"
    )


def _axes(plan: dict[str, Any]) -> tuple[str, ...]:
    return tuple(axis for axis in AXES if plan.get(axis, 1) > 1)


def _models(cases: Iterable[Any]) -> list[dict[str, Any]]:
    columns = [*STAGES, "fsdp2", "host", "disk"]
    found: dict[str, dict[str, set[str]]] = {}
    for case in cases:
        other = case.plan.get("offload") or case.plan.get("backend") or f"zero={case.plan['zero']}"
        cell = found.setdefault(case.example, {}).setdefault(other, set())
        cell.add(case.precision)
        cell |= {"remat"} if case.plan.get("remat") else set()
        cell |= {"accumulation"} if case.accumulation > 1 else set()
        cell |= {"born on meta"} if case.meta else set()
    return [
        {"model": name, **{c: ", ".join(w for w in ORDER if w in cells.get(c, ())) or "-" for c in columns}}
        for name, cells in found.items()
    ]


def _together(cases: Iterable[tuple[int, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for world, case in cases:
        plan, others = case.plan, 1
        for axis in ("tensor", "sequence", "pipeline"):
            others *= plan.get(axis, 1)
        axes = _axes({**plan, "data": world // others})
        if axes == ("data",):
            continue
        cells = found.setdefault(axes, {})
        cells.setdefault(f"zero={plan.get('zero', 0)}", set()).add(case.example)
        also = cells.setdefault("also", set())
        also |= {case.precision} - {"fp32"} | set(_options(plan))
        also |= set() if case.rules is None else {"rules by module path"}
    columns = [*STAGES, "also"]
    return [
        {"axes": " x ".join(axes), **{c: ", ".join(sorted(cells.get(c, ()))) or "-" for c in columns}}
        for axes, cells in sorted(found.items(), key=lambda item: (len(item[0]), item[0]))
    ]


def _refused(pairs: Iterable[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """A row for each reason and the option that its pairs have in common."""
    by_reason: dict[str, list[tuple[str, str]]] = {}
    for one, other, why in pairs:
        by_reason.setdefault(why, []).append((one, other))
    rows = []
    for why, left in by_reason.items():
        while left:
            options = [option for pair in left for option in pair]
            common = max(options, key=options.count)
            others = [b if a == common else a for a, b in left if common in (a, b)]
            rows.append({"option": common, "not with": ", ".join(others), "because": why})
            left = [pair for pair in left if common not in pair]
    return sorted(rows, key=lambda row: row["option"])


def _options(plan: dict[str, Any]) -> Iterator[str]:
    for name in DETAILS:
        value = plan.get(name)
        if value is True:
            yield name
        elif isinstance(value, str):
            yield value
        elif value:
            yield f"{value} chunks"
    if plan.get("remat"):
        yield "remat"
    if plan.get("offload"):
        yield f"offload to the {plan['offload']}"
    if plan.get("offload_delay") is not None:
        yield "offload_delay"
    if plan.get("backend"):
        yield str(plan["backend"])
    if plan.get("gradient_dtype"):
        yield f"gradients in {plan['gradient_dtype']}"
