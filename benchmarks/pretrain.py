"""Direction benchmarks: what an objective or a shape is worth at small scale, at equal FLOPs, over seeds.

- `rtd`: replaced token detection with gradient-disentangled embeddings beside masked language modelling;
  linear probes for parts of speech and sentiment.
- `pmlm`: pseudo-masked language modelling (AE + PAR) beside its autoencoding half; the same probes.
- `xlco`: cross-lingual contrast with translation language modelling beside masked language modelling of the
  same bilingual text; retrieval of translations in 24 languages.
- `deberta`: the shape of DeBERTa beside BERT's on the same masked language modelling; held-out loss.

Two trainings run at a time, one thread each. Each result is kept as soon as it is there, in `--work`: a run
that was ended goes on. Nothing is passed or missed: a table says which way each comparison fell, and how far.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import finish
from benchmarks.pretraining import corpora
from benchmarks.pretraining.arms import EXPERIMENTS, QUICK, UNTRAINED, Experiment, Size
from benchmarks.pretraining.trial import Task, carry_out

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (1, 2, 3)
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t at 97.5 % for so many values (n - 1 degrees of freedom)."""
HIGHER = ("accuracy", "chrF", "BLEU")
"""In the name of a measure of which more is better."""
NAMES = ("rtd", "pmlm", "xlco", "deberta")


def interval(values: list[float]) -> float | None:
    """Half the width of the 95 % interval of a mean; None of a single value."""
    if len(values) < 2:
        return None
    return T_975[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def tasks(experiment: Experiment, size: Size, seeds: tuple[int, ...], work: Path, texts: Path) -> list[Task]:
    """All trials of an experiment."""
    arms = [*experiment.arms, *([UNTRAINED] if experiment.untrained else [])]
    folder = str(work / experiment.text)
    return [Task(experiment.name, arm, seed, size, folder, str(texts)) for seed in seeds for arm in arms]


def key(task: Task) -> str:
    """Name of a trial's result: two of one name are the same computation."""
    times = EXPERIMENTS[task.experiment].times
    said = [task.experiment, times, task.arm, task.seed, asdict(task.size)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def kept(path: Path) -> dict[str, dict[str, Any]]:
    """Results of an earlier run; a last line that was cut off is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[result["key"]] = result
    return found


def told(task: Task, result: dict[str, Any]) -> str:
    """A result in a line."""
    shown = ", ".join(f"{name} {value:.4f}" for name, value in result["measured"].items())
    seconds = f"{result['train_seconds']:.0f} + {result['probe_seconds']:.0f} s"
    return f"{task.experiment} {task.arm} seed {task.seed}: {shown}; {seconds}"


def run_all(todo: list[Task], work: Path) -> dict[str, dict[str, Any]]:
    """Results of all trials by key; those that are missing are computed, two at a time."""
    path = work / "results.jsonl"
    results = kept(path)
    if path.exists() and not path.read_text(encoding="utf-8").endswith("\n"):
        with path.open("a", encoding="utf-8") as file:  # a write was cut off: the next gets a line of its own
            file.write("\n")
    left = [task for task in todo if key(task) not in results]
    print(f"{len(todo)} trainings, {len(todo) - len(left)} already there", flush=True)
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        running = {pool.submit(carry_out, task): task for task in left}
        try:
            for number, future in enumerate(as_completed(running), 1):
                task, result = running[future], future.result()
                results[key(task)] = {"key": key(task), **result}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(results[key(task)]) + "\n")
                spent = time.perf_counter() - began
                rest = spent / number * (len(left) - number)
                print(f"{number}/{len(left)} {told(task, result)}; about {rest:.0f} s left", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


Results = dict[str, dict[str, Any]]


def table(experiment: Experiment, todo: list[Task], results: Results) -> list[dict[str, Any]]:
    """Rows of an experiment: each arm, then the difference, seed by seed."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for task in todo:
        if task.experiment == experiment.name:
            runs.setdefault(task.arm, []).append(results[key(task)])
    rows = []
    for measure in runs[experiment.plain.name][0]["measured"]:
        values = {arm: [run["measured"][measure] for run in found] for arm, found in runs.items()}
        common = {"experiment": experiment.name, "measure": measure}
        for arm, found in runs.items():
            rows.append(
                {
                    **common,
                    "arm": arm,
                    **_mean(values[arm]),
                    "steps": found[0]["steps"],
                    "teraflop": found[0]["flops"] / 1e12,
                    "seconds": statistics.mean(run["train_seconds"] for run in found),
                    "parameters": found[0]["parameters"],
                }
            )
        pairs = zip(values[experiment.other.name], values[experiment.plain.name], strict=True)
        differences = [other - plain for other, plain in pairs]
        better = statistics.mean(differences) * (1 if any(word in measure for word in HIGHER) else -1) > 0
        spread = interval(differences)
        verdict = "better" if better else "worse"
        if spread is not None:
            clear = abs(statistics.mean(differences)) > spread
            verdict += ", interval clear of 0" if clear else ", interval holds 0"
        label = f"{experiment.other.name} - {experiment.plain.name}: {verdict}"
        rows.append({**common, "arm": label, **_mean(differences)})
    return rows


def _mean(values: list[float]) -> dict[str, Any]:
    spread = interval(values)
    return {"mean": statistics.mean(values), "+-": "one seed" if spread is None else spread}


def arguments(description: str, names: Sequence[str]) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: one seed, tiny, few steps")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--only", action="append", choices=list(names), help="one of them; repeatable")
    parser.add_argument("--steps", type=int, help="steps of the plain arms, in place of the size's own")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="where the texts lie")
    parser.add_argument("--work", type=Path, help="where results are kept (default: runs/pretrain)")
    options = parser.parse_args()
    options.only = options.only or list(names)
    return options


def main() -> int:
    """Exit status 0: a direction is neither met nor missed."""
    return run(
        "pretrain", "Objectives and shapes at small scale (direction)", arguments(__doc__ or "", NAMES)
    )


def run(name: str, title: str, options: argparse.Namespace) -> int:
    """Compare the chosen experiments."""
    if absent := corpora.missing(options.data):
        print(f"{name}: skipped: {options.data} has no {absent[0]} ({len(absent)} files missing); 0 rows")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or (Path(scratch) if options.quick else ROOT / "runs/pretrain")
        size = QUICK if options.quick else Size()
        size = Size(**{**asdict(size), "steps": options.steps or size.steps})
        seeds = SEEDS[:1] if options.quick else SEEDS
        rows, notes = compare(options, work, size, seeds)
        return finish(name, title=title, rows=rows, bars=[], notes=notes, arguments=options)


def compare(
    options: argparse.Namespace, work: Path, size: Size, seeds: tuple[int, ...]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Prepare the texts, train what has not been trained; the rows of the table, and what to say of them."""
    chosen = [EXPERIMENTS[name] for name in options.only]
    for text in sorted({experiment.text for experiment in chosen}):
        done = work / text / "complete"
        if not done.exists():
            corpora.PREPARE[text](options.data, work / text)
            done.touch()
    todo = [task for e in chosen for task in tasks(e, size, seeds, work, options.data)]
    results = run_all(todo, work)
    rows = [row for experiment in chosen for row in table(experiment, todo, results)]
    names = ", ".join(experiment.name for experiment in chosen)
    return rows, [
        f"Direction only, experiments {names}: {len(seeds)} seeds, {size.layers} layers of width "
        f"{size.width}, learning rate {size.rate:g} for all, {size.rows} rows of {size.seq_len} tokens a "
        "step (twice as many pairs). Nothing here says what happens at published sizes.",
        "Equal compute: FLOPs of all matrix products in forward and backward, counted by torch over "
        "whole steps of each arm (generator, slow copy, mask decoder, pseudo-masks and padding "
        "included); the plain arm takes a fixed number of steps and the other as many as cost the same. "
        "One thread each.",
        "The mean over seeds and half its 95 % interval (Student's t); differences are taken seed by "
        "seed. Of probes and retrieval, layer and strength are chosen on other examples than those "
        "scored.",
        "Texts: wikitext-2 and BoolQ passages (CC BY-SA 3.0), Tatoeba (CC BY 2.0 FR); probes: UD "
        "English-EWT (CC BY-SA 4.0), SST-2 (research use). They are read from the developer's machine "
        "and are not part of any package.",
    ]


if __name__ == "__main__":
    sys.exit(main())
