"""Linear models: several workers beside one, and one beside scikit-learn's SGD and Vowpal Wabbit.

    python -m benchmarks.linear [--quick] [--json PATH] [--parts PATH] [--vw PYTHON]

Real text, SST-2 phrases, as counts of hashed character n-grams, and rows drawn at random where that is not at
hand. Every side takes the same rows and as many passes of logistic regression; examples a
second count passes alone for scikit-learn and ours (with the start of our workers), and for Vowpal Wabbit
passes over its own cache, which it makes before. The last tenth of the rows is held out.

The bars: two workers take at most 1 / 1.6 of one worker's time on two cores, with the same accuracy.
"""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bar, finish, interleave_parts, median, options
from mainspring.linear import LinearSettings, SparseRows, fit

DATA = Path(__file__).resolve().parents[2] / "shared/data/understanding/glue/SST-2/train.tsv.gz"
ENVIRONMENT = Path("/work/peers/linear/bin/python")
"""Where Vowpal Wabbit is looked for: `pip install vowpalwabbit` in an environment of its own."""
BITS, SPEEDUP, APART = 18, 1.6, 0.003
RATE = 0.02
BLOCK = 16384
"""Examples that a worker takes between two compositions; one worker's result does not depend on it."""
VW = """
import sys, time
from vowpalwabbit import Workspace
data, bits, passes, test = sys.argv[1:5]
common = f"-d {data} --cache_file {data}.cache --loss_function logistic -b {bits} --quiet --holdout_off"
Workspace(f"{common} --passes 1").finish()
began = time.perf_counter()
vw = Workspace(f"{common} --passes {passes}")
took = time.perf_counter() - began
right = total = 0
for line in open(test):
    right += (vw.predict(line.split(" ", 1)[1]) > 0) == (line[0] == "1")
    total += 1
print(took, right / total)
"""


def text_rows(limit: int | None) -> SparseRows:
    """Phrases as counts of their 3 to 5 characters, brought to length 1, with a feature that is always 1."""
    with gzip.open(DATA, "rt", encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:limit]
    order = np.random.default_rng(0).permutation(len(lines))
    found: list[Counter[int]] = []
    for at in order:
        text = f" {lines[at][0].strip()} ".encode()
        grams = (text[i : i + n] for n in (3, 4, 5) for i in range(len(text) - n + 1))
        found.append(Counter(zlib.crc32(gram) & ((1 << BITS) - 1) for gram in grams))
    targets = np.asarray([1.0 if lines[at][1] == "1" else -1.0 for at in order], dtype=np.float32)
    return rows_of(found, targets)


def random_rows(count: int) -> SparseRows:
    """Features drawn by Zipf's law, targets by weights of which the common ones count most."""
    draw = np.random.default_rng(0)
    weights = draw.normal(size=1 << BITS)
    found = [Counter((draw.zipf(1.3, 100) % (1 << BITS)).tolist()) for _ in range(count)]
    scores = [sum(weights[f] * c for f, c in row.items()) for row in found]
    return rows_of(found, np.where(np.asarray(scores) > 0, 1, -1).astype(np.float32))


def rows_of(found: Sequence[Counter[int]], targets: np.ndarray) -> SparseRows:
    """Compressed rows of counts."""
    indptr = np.concatenate([[0], np.cumsum([len(row) + 1 for row in found])]).astype(np.int64)
    indices = np.concatenate([[*sorted(row), 1 << BITS] for row in found]).astype(np.int32)
    values = [np.asarray([row[f] for f in sorted(row)], dtype=np.float32) for row in found]
    scaled = np.concatenate([np.append(v / max(np.linalg.norm(v), 1e-9), 1.0) for v in values])
    return SparseRows(indptr, indices, scaled.astype(np.float32), targets, (1 << BITS) + 1)


def part(rows: SparseRows, begin: int, end: int) -> SparseRows:
    """Rows begin to end."""
    first, last = int(rows.indptr[begin]), int(rows.indptr[end])
    return SparseRows(
        rows.indptr[begin : end + 1] - first,
        rows.indices[first:last],
        rows.values[first:last],
        rows.targets[begin:end],
        rows.features,
    )


def ours(train: SparseRows, test: SparseRows, passes: int, workers: int) -> list[float]:
    """Seconds of a fit, and its accuracy on the held-out rows."""
    settings = LinearSettings(rate=RATE, epochs=passes, workers=workers, block=BLOCK)
    began = time.perf_counter()
    model = fit(train, settings)
    took = time.perf_counter() - began
    accuracy = model.score(test).accuracy
    assert accuracy is not None
    return [took, accuracy]


def scikit_learn(train: SparseRows, test: SparseRows, passes: int) -> list[float]:
    """SGDClassifier with the same schedule of steps as far as it has one: constant."""
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import SGDClassifier

    def matrix(rows: SparseRows) -> Any:
        return csr_matrix((rows.values, rows.indices, rows.indptr), shape=(len(rows), rows.features))

    side = SGDClassifier(
        loss="log_loss", penalty=None, fit_intercept=False, learning_rate="constant", eta0=RATE,
        max_iter=passes, tol=None, random_state=0,
    )  # fmt: skip
    x, y = matrix(train).astype(np.float64), train.targets.astype(np.float64)
    began = time.perf_counter()
    side.fit(x, y)
    took = time.perf_counter() - began
    return [took, float(side.score(matrix(test).astype(np.float64), test.targets))]


def write_vw(rows: SparseRows, path: Path) -> None:
    """Rows in Vowpal Wabbit's format; it adds the feature that is always 1 itself."""
    with path.open("w", encoding="ascii") as file:
        for i in range(len(rows)):
            features, values = rows.row(i)
            pairs = zip(features[:-1].tolist(), values[:-1].tolist(), strict=True)
            file.write(f"{int(rows.targets[i])} | " + " ".join(f"{f}:{v:.6g}" for f, v in pairs) + "\n")


def vowpal_wabbit(python: Path, data: Path, test: Path, passes: int) -> list[float]:
    """Seconds of the passes over its cache, and the accuracy."""
    command = [str(python), "-c", VW, str(data), str(BITS), str(passes), str(test)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    took, accuracy = map(float, done.stdout.split()[-2:])
    return [took, accuracy]


def main() -> int:
    """Exit status 1 when a bar is missed."""
    python = ENVIRONMENT
    if "--vw" in sys.argv:
        at = sys.argv.index("--vw")
        python = Path(sys.argv[at + 1])
        del sys.argv[at : at + 2]
    arguments = options((__doc__ or "").splitlines()[0], parts=True)
    passes, rounds = (5, 2) if arguments.quick else (40, 5)
    real = DATA.exists()
    rows = text_rows(10_000 if arguments.quick else None) if real else random_rows(20_000)
    cut = len(rows) * 9 // 10
    train, test = part(rows, 0, cut), part(rows, cut, len(rows))
    with tempfile.TemporaryDirectory(prefix="linear-") as folder:
        data, held = Path(folder) / "train.vw", Path(folder) / "test.vw"
        sides: dict[str, Callable[[], list[float]]] = {
            "mainspring, 1 worker": lambda: ours(train, test, passes, 1),
            "mainspring, 2 workers": lambda: ours(train, test, passes, 2),
            "scikit-learn SGDClassifier": lambda: scikit_learn(train, test, passes),
        }
        if python.exists():
            write_vw(train, data)
            write_vw(test, held)
            sides["Vowpal Wabbit"] = lambda: vowpal_wabbit(python, data, held, passes)
        ours(train, test, 1, 1)  # compiles the pass
        which = f"{'text' if real else 'random'}, {len(train):,} rows, {passes} passes,"
        taken = interleave_parts(arguments.parts, which, rounds, sides)
    found = {
        name: [median(list(values)) for values in zip(*runs, strict=True)] for name, runs in taken.items()
    }
    one, two = found["mainspring, 1 worker"], found["mainspring, 2 workers"]
    return finish(
        "linear",
        title="Linear models by stochastic gradient descent",
        rows=[
            {
                "side": name,
                "examples/s": passes * len(train) / seconds,
                "seconds": seconds,
                "held-out accuracy": accuracy,
            }
            for name, (seconds, accuracy) in found.items()
        ],
        bars=[
            Bar("two workers over one, wall clock", one[0] / two[0], SPEEDUP),
            Bar("accuracy of two workers apart from one's", abs(one[1] - two[1]), APART, at_most=True),
            *(
                Bar(f"one worker over {name}, examples/s", seconds / one[0], 1.0)
                for name, (seconds, _) in found.items()
                if not name.startswith("mainspring")
            ),
        ],
        notes=[
            f"{'SST-2 phrases' if real else 'Random rows'}: {len(train):,} rows, {len(train.indices):,} "
            f"nonzeros of 2^{BITS} + 1 features, {passes} passes; medians of {rounds} rounds.",
            "Vowpal Wabbit keeps its own adaptive steps; the others have plain ones.",
            *([] if python.exists() else [f"Vowpal Wabbit was left out: there is no {python}."]),
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    raise SystemExit(main())
