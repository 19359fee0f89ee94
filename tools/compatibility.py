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
ORDER = ("fp32", "bf16", "accumulation", "remat", "born on meta")


def compatibility() -> str:
    """The page without its notice."""
    sys.path.insert(0, str(TESTS))
    try:
        from parallel import test_axes_together, test_disk, test_equivalence, test_offload
        from parallel.battery import Case
        from parallel.expert import test_spread
        from parallel.sequence import test_exact
    finally:
        sys.path.remove(str(TESTS))
    together = test_axes_together.CASES
    cases = {world: [*test_equivalence.cases(world), *together.get(world, ())] for world in (2, 4)}
    cases |= {world: some for world, some in together.items() if world > 4}
    by_model = [case for some in cases.values() for case in some if not _axes(case.plan)]
    by_model += test_offload.cases()
    for name, stage, precision, meta, accumulation in test_disk.CASES:
        by_model.append(Case(name, {"zero": stage, "offload": "disk"}, precision, accumulation, meta=meta))
    composed = [
        (world, case.plan, case.example, {case.precision})
        for world, some in cases.items()
        for case in some
        if _axes(case.plan)
    ]
    for world in (2, 4):
        composed += [(world, fields, name, {"fp32"}) for name, _, fields, *_ in test_exact.chosen(world)]
        composed += [(world, fields, name, {"fp32"}) for name, fields, *_ in test_spread.chosen(world)]
    return (
        "# What trains under which plan\n\nEach entry is a test on 2 gloo ranks, some of them also "
        "on 4, three axes\nat once on 8, all of them on 16 (most of those with the slow tests): losses, "
        "gradients, norms\nand parameters are those of one process over the same rows "
        "(`tests/parallel/battery.py`). `fsdp2`\nis `plan.backend`, `host` and `disk` are `plan.offload`; "
        "the others are flat shards. `awkward` has tied\nweights, a frozen part, layers that share one, a "
        f"part that some rows use and one that none does.\n\n{table(_models(by_model))}\n"
        "## Axes together\n\nWhich axes of the mesh are longer than 1 at once, and on which models that was "
        "tested at each ZeRO stage.\n`tensor_sequence`, schedules and kinds of attention over the sequence "
        f"are options of their axes.\n\n{table(_together(composed))}"
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


def _together(cases: Iterable[tuple[int, dict[str, Any], str, set[str]]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for world, plan, example, precision in cases:
        others = 1
        for axis in ("tensor", "sequence", "pipeline"):
            others *= plan.get(axis, 1)
        axes = _axes({**plan, "data": world // others})
        if axes == ("data",):
            continue
        cells = found.setdefault(axes, {})
        cells.setdefault(f"zero={plan.get('zero', 0)}", set()).add(example)
        also = cells.setdefault("also", set())
        also |= precision - {"fp32"} | set(_options(plan))
    columns = [*STAGES, "also"]
    return [
        {"axes": " x ".join(axes), **{c: ", ".join(sorted(cells.get(c, ()))) or "-" for c in columns}}
        for axes, cells in sorted(found.items(), key=lambda item: (len(item[0]), item[0]))
    ]


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
