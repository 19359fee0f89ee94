"""Inference beside every engine of the field, on 2 threads: encoders and GPT-2 small, with random weights.

Kind: ratio; what precisions cost in quality is `benchmarks/precision.py`'s. Each engine runs in a process of
its own; all of a case's take their turns round by round. The peers live in an environment of their own,
`../peers/inference`; what they load is made there by `benchmarks/inferring/prepare.py`, which this program
calls for what is not there yet, and what cannot be had is named with the reason. With `--parts` a call goes
on from what earlier ones measured; no part takes longer than a few minutes, artefacts included. Cases:

- BERT-base and MiniLM-L6 (without head): 1 x 128, 8 x 128 and 1 x 16 tokens, and 8 texts of natural lengths
  (a mean of 40 tokens, at most 128), which the peers pad to the longest and we lay end to end;
- GPT-2 small: prompts of 128 tokens, then 64 tokens, for 1 and 8 rows (without transformers compiled, which
  compiles anew as its cache grows).

The limits are measured in the same run: bytes read a second, fp32 and int8 multiplications a second.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, finish, median, options, resume

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT.parent / "peers/inference"
if not PEERS.exists():
    PEERS = Path("/work/peers/inference")
MODELS = PEERS / "models"
ENCODERS, GPT = ("bert-base", "minilm-l6"), "gpt2"
NATURAL = (128, 71, 44, 30, 21, 14, 8, 4)
CASES: Mapping[str, dict[str, Any]] = {
    "1x128": {"lengths": [128]},
    "8x128": {"lengths": [128] * 8},
    "1x16": {"lengths": [16]},
    "natural": {"lengths": list(NATURAL)},
    "1 row": {"batch": 1, "prompt": 128, "new": 64},
    "8 rows": {"batch": 8, "prompt": 128, "new": 64},
}
OURS = ("ours fp32", "ours int8", "ours int4")
READERS = (
    "transformers eager", "transformers SDPA", "transformers compiled", "ONNX Runtime fp32",
    "ONNX Runtime int8", "OpenVINO fp32", "OpenVINO int8", "CTranslate2 fp32", "CTranslate2 int8",
)  # fmt: skip
WRITERS = (*(name for name in READERS if "compiled" not in name), "llama.cpp Q8_0", "llama.cpp Q4_0")
ROUNDS = 5
SPLIT: Mapping[str, tuple[int, ...]] = {f"{GPT} 8 rows": (1,) * ROUNDS}
"""Rounds of the parts of what takes long; each part starts all engines anew."""
Result = dict[str, Any]


class Worker:
    """An engine in its process."""

    def __init__(self, name: str, model: str) -> None:
        ours = name in OURS
        python = sys.executable if ours else str(PEERS / "bin/python")
        command = [
            python,
            "-m",
            "benchmarks.inferring.worker",
            "ours" if ours else "peers",
            name,
            model,
            str(MODELS),
        ]
        self._log = (MODELS / "last.log").open("w")
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log,
        )  # fmt: skip
        self.ready: Result = {}

    def ask(self, case: Mapping[str, Any] | None) -> Result:
        """The answer to a case; None: what the engine says when it has loaded."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if case is not None:
            print(json.dumps(case), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            last = (MODELS / "last.log").read_text(errors="replace").strip().splitlines()
            return {"error": last[-1] if last else f"ended with {self._process.returncode}"}
        answer: Result = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


def _environment() -> dict[str, str]:
    told = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return {**os.environ, **told}


@contextmanager
def workers(names: Sequence[str], model: str, missing: dict[str, str]) -> Iterator[dict[str, Worker]]:
    """Engines that load, one after another; why others do not goes into `missing`."""
    running: dict[str, Worker] = {}
    try:
        for name in names:
            worker = Worker(name, model)
            worker.ready = worker.ask(None)
            if "error" in worker.ready:  # ours packs its file in a first process, and loads it in a second
                worker.close()
                worker = Worker(name, model)
                worker.ready = worker.ask(None)
            if "error" in worker.ready:
                missing[name] = worker.ready["error"]
                worker.close()
            else:
                running[name] = worker
            print(f"{model}, {name}: {worker.ready}", flush=True)
        yield running
    finally:
        for worker in running.values():
            worker.close()


def measure(model: str, cases: Sequence[str], names: Sequence[str], rounds: int) -> list[Result]:
    """What a model's engines answer: a row for each case and engine, and one for each that cannot be had."""
    missing: dict[str, str] = {}
    with workers(names, model, missing) as running:
        rows = [row for case in cases for row in take_turns(running, model, case, rounds, missing)]
    return rows + [
        {"model": model, "case": "missing", "engine": name, "reason": why} for name, why in missing.items()
    ]


def take_turns(
    running: Mapping[str, Worker], model: str, case: str, rounds: int, missing: dict[str, str]
) -> list[Result]:
    """Answers to a case: all engines in turn, round by round, after one that warms up."""
    answers: dict[str, list[Result]] = {name: [] for name in running}
    for turn in range(rounds + 1):
        order = list(running)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            if name not in missing:
                answer = running[name].ask(CASES[case])
                if "error" in answer:
                    missing[name] = answer["error"]
                elif turn:
                    answers[name].append(answer)
        print(f"{model} {case}: round {turn}/{rounds}", flush=True)
    return [
        {"model": model, "case": case, "engine": name, "ready": running[name].ready, "answers": given}
        for name, given in answers.items()
        if given
    ]


def summarised(rows: Sequence[Result]) -> list[Result]:
    """Rows of the table: an engine's answers to a case from all parts; what has no answers stays as it is."""
    joined: dict[tuple[str, str, str], list[Result]] = {}
    for row in rows:
        joined.setdefault((row["model"], row["case"], row["engine"]), []).append(row)
    found: list[Result] = []
    for (model, case, name), parts in joined.items():
        if "answers" not in parts[0]:
            found.append(parts[0])
            continue
        given = [answer for part in parts for answer in part["answers"]]
        found += _rows(model, case, name, parts[-1]["ready"], given)
    return found


def _rows(model: str, case: str, name: str, ready: Result, given: Sequence[Result]) -> list[Result]:
    parts = {"": [g["seconds"] for g in given]} if "seconds" in given[0] else {
        "prefill, ": [g["prefill"] for g in given],
        "token, ": [step for g in given for step in g["steps"]],
    }  # fmt: skip
    return [
        {
            "model": model,
            "case": part + case,
            "engine": name,
            "min ms": min(seconds) * 1e3,
            "median ms": median(seconds) * 1e3,
            "p99 ms": sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1] * 1e3,
            "memory MB": max(g["rss"] for g in given) / 1e6,
            "artefact MB": ready["bytes"] / 1e6,
            "load s": ready["load"],
        }
        for part, seconds in parts.items()
    ]


def limits() -> list[Result]:
    """What bounds inference here."""
    command = [sys.executable, "-m", "benchmarks.inferring.limits"]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), text=True, capture_output=True, check=True)
    return [{"model": "machine", "case": "limits", "engine": "measured", **json.loads(done.stdout)}]


def prepare(name: str) -> None:
    """Make what a peer loads, where it is not there yet."""
    command = [str(PEERS / "bin/python"), "-m", "benchmarks.inferring.prepare", str(MODELS), name]
    if (PEERS / "bin/python").exists() and not (MODELS / name).exists():
        subprocess.run(command, cwd=ROOT, env=_environment(), check=False)


def artefacts(model: str) -> list[str]:
    """Names of what a model's peers load, each after what it is made of."""
    if model == "machine":
        return []
    found = [f"{model}.onnx", f"{model}-int8.onnx"]
    found += ["gpt2.xml", "gpt2-int8.xml", "gpt2-q8_0.gguf", "gpt2-q4_0.gguf"] if model == GPT else []
    found += [] if model == GPT else [f"{model}-int8.xml"]
    return [*found, f"{model}-float32.ct2", f"{model}-int8.ct2"]


def bars(rows: Sequence[Result]) -> list[Bar]:
    """The issue's bars, by medians, for what was measured."""
    took = {(r["model"], r["case"], r["engine"]): r["median ms"] for r in rows if "median ms" in r}
    found: list[Bar] = []

    def over(title: str, bar: float, model: str, case: str, ours: str, *peers: str) -> None:
        mine = took.get((model, case, ours))
        theirs = [t for (m, c, e), t in took.items() if (m, c) == (model, case) and e in peers]
        if mine and theirs:
            found.append(Bar(title, min(theirs) / mine, bar))

    peers = [name for name in WRITERS if name not in OURS]
    over(
        "GPT-2 token, 1 row: int8 over llama.cpp Q8_0",
        1.2,
        GPT,
        "token, 1 row",
        "ours int8",
        "llama.cpp Q8_0",
    )
    over(
        "GPT-2 token, 1 row: int4 over llama.cpp Q4_0",
        1.5,
        GPT,
        "token, 1 row",
        "ours int4",
        "llama.cpp Q4_0",
    )
    over("GPT-2 token, 8 rows: int8 over the fastest peer", 2.5, GPT, "token, 8 rows", "ours int8", *peers)
    over("GPT-2 prefill, 1 row: int8 over the fastest peer", 1.3, GPT, "prefill, 1 row", "ours int8", *peers)
    for case, bar in (("1x128", 0.9), ("8x128", 0.9), ("1x16", 0.9), ("natural", 2.0)):
        over(
            f"BERT-base {case}: int8 over OpenVINO int8", bar, "bert-base", case, "ours int8", "OpenVINO int8"
        )
    read = [(model, case) for model in ENCODERS for case in ("1x128", "8x128", "1x16", "natural")]
    written = [(GPT, f"{part}, {rows}") for rows in ("1 row", "8 rows") for part in ("prefill", "token")]
    for model, case in [*read, *written]:
        over(
            f"{model} {case}: int8 over transformers eager",
            5.0,
            model,
            case,
            "ours int8",
            "transformers eager",
        )
    return found


def main() -> int:
    """Measure what the parts do not hold yet."""
    groups: dict[str, tuple[str, tuple[str, ...], Sequence[str]]] = {"limits": ("machine", (), ())}
    for model in ENCODERS:
        for cases in (("1x128", "1x16"), ("8x128",), ("natural",)):
            groups[f"{model} {' '.join(cases)}"] = model, cases, (*OURS, *READERS)
    groups |= {f"{GPT} {case}": (GPT, (case,), (*OURS, *WRITERS)) for case in ("1 row", "8 rows")}
    arguments = options(__doc__.splitlines()[0], parts=True, only=list(groups))
    chosen = arguments.only or list(groups)
    if arguments.quick and not arguments.only:
        chosen = ["limits", "minilm-l6 1x128 1x16"]
    given: list[Result] = []
    MODELS.mkdir(parents=True, exist_ok=True)
    for group in (name for name in groups if name in chosen):
        model, cases, names = groups[group]
        if model == "machine":
            given += resume(arguments.parts, group, limits)
            continue
        for name in artefacts(model):
            prepare(name)
        for part, turns in enumerate((1,) if arguments.quick else SPLIT.get(group, (ROUNDS,))):
            key = f"{group}, part {part}"
            given += resume(arguments.parts, key, partial(measure, model, cases, names, turns))
    rows = summarised(given)
    reasons = MODELS / "reasons.json"
    failed = json.loads(reasons.read_text()) if reasons.exists() else {}
    notes = [f"Not made: {name} ({why})." for name, why in failed.items()]
    notes += [
        f"{r['model']}: {r['engine']} did not run ({r['reason']})." for r in rows if r["case"] == "missing"
    ]
    shown = [row for row in rows if row["case"] != "missing"]
    return finish(
        "inference",
        title="Inference beside transformers, ONNX Runtime, OpenVINO, CTranslate2 and llama.cpp",
        rows=shown,
        bars=bars(rows),
        notes=notes,
        arguments=arguments,
    )


if __name__ == "__main__":
    raise SystemExit(main())
