"""What every benchmark shares: options, interleaved rounds, bars, the JSON it leaves, its last line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Bar:
    """A ratio beside what it must reach."""

    name: str
    value: float
    bar: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the bar is reached."""
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{self.name} {self.value:.3g} ({sign} {self.bar:g}: {'met' if self.met else 'MISSED'})"


def options(description: str, *, parts: bool = False, only: Sequence[str] = ()) -> argparse.Namespace:
    """`--quick` (under a minute, smaller sizes, the same comparison) and `--json PATH`.

    Args:
        description: what `--help` says.
        parts: also take `--parts PATH`, for a benchmark that `resume`s.
        only: names of which `--only NAME`, repeatable, chooses some.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="under a minute: smaller sizes, the same comparison"
    )
    parser.add_argument("--json", type=Path, help="where to write the result")
    if parts:
        parser.add_argument(
            "--parts", type=Path, help="keep what is measured in this file, and go on from what it holds"
        )
    if only:
        parser.add_argument("--only", action="append", choices=list(only), help="one of them; repeatable")
    return parser.parse_args()


def resume(path: Path | None, key: str, measure: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of a part of a benchmark: those that the file holds for the key, or else measured and added."""
    held: dict[str, list[dict[str, Any]]] = {}
    if path is not None and path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
    if key not in held:
        held[key] = measure()
        if path is not None:
            path.write_text(json.dumps(held, indent=1), encoding="utf-8")
    return held[key]


def interleave(rounds: int, candidates: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Run every candidate once a round, in an order that turns each round, so that drift hits all alike."""
    results: dict[str, list[T]] = {name: [] for name in candidates}
    for turn, name in turns(rounds, list(candidates)):
        started = time.perf_counter()
        results[name].append(candidates[name]())
        print(f"round {turn + 1}/{rounds} {name}: {time.perf_counter() - started:.1f} s", flush=True)
    return results


def interleave_parts(
    path: Path | None, key: str, rounds: int, candidates: Mapping[str, Callable[[], list[float]]]
) -> dict[str, list[list[float]]]:
    """As `interleave`, and what each candidate gives in each round is a part of its own, as of `resume`."""
    results: dict[str, list[list[float]]] = {name: [] for name in candidates}
    for turn, name in turns(rounds, list(candidates)):
        started = time.perf_counter()

        def once(name: str = name) -> list[dict[str, Any]]:
            return [{"found": candidates[name]()}]

        (row,) = resume(path, f"{key} {name} round {turn + 1}", once)
        results[name].append(row["found"])
        print(f"round {turn + 1}/{rounds} {name}: {time.perf_counter() - started:.1f} s", flush=True)
    return results


def turns(rounds: int, names: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Every name once a round, in an order that turns each round."""
    for turn in range(rounds):
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            yield turn, name


def median(values: Sequence[float]) -> float:
    """Median of measurements."""
    return float(statistics.median(values))


def machine() -> dict[str, Any]:
    """Facts that a figure is meaningless without."""
    import torch

    from mainspring.planner.processor import cpu_model, fast_instructions

    return {
        "processor": cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "fast_instructions": list(fast_instructions()),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def multiplies_bf16() -> bool:
    """Whether this machine multiplies bf16 itself; where it is emulated, figures of bf16 say nothing."""
    import torch

    from mainspring.planner import processor

    return torch.cuda.is_available() or processor.multiplies_bf16()


def finish(
    name: str,
    *,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    bars: Sequence[Bar],
    notes: Sequence[str],
    arguments: argparse.Namespace,
) -> int:
    """Write the JSON, print the table and, last, every ratio beside its bar. Returns the exit status."""
    result = {
        "name": name,
        "title": title,
        "date": time.strftime("%Y-%m-%d"),
        "quick": bool(arguments.quick),
        "machine": machine(),
        "rows": [dict(row) for row in rows],
        "bars": [{**asdict(bar), "met": bar.met} for bar in bars],
        "notes": list(notes),
    }
    path = arguments.json or (None if arguments.quick else RESULTS / f"{name}.json")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for row in rows:
        print(
            "  ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                for key, value in row.items()
            )
        )
    print(f"{name}: " + ("; ".join(str(bar) for bar in bars) or "no bars (direction)"), flush=True)
    return 0 if all(bar.met for bar in bars) else 1
