"""Examples from text: svmlight lines, and tables (CSV, TSV); gzip is seen by the name's end.

svmlight: `target index:value index:value ... # comment`; `qid:n` is skipped. Tables have a header; columns of
numbers are features, others are hashed with their value ("city=Oslo") into 2^bits places, as Weinberger et
al. do (arXiv 0902.2206), without their sign.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mainspring.errors import DataError, suggest
from mainspring.linear.rows import Floats, SparseRows

_PAIR = re.compile(rb"^[+-]?\d+:\S+$")


def read_svmlight(
    path: str | Path, *, features: int | None = None, bias: bool = True, one_based: bool = True
) -> SparseRows:
    """Read a file of svmlight lines.

    Args:
        path: the file.
        features: how many there are, without the bias; more than the file names are allowed, and indices
            beyond are left out. None: as many as the file names.
        bias: add a feature that is always 1, after all others.
        one_based: whether indices begin at 1, as svmlight's own do.

    Raises:
        DataError: it cannot be read, or a line is malformed (it is named).
    """
    lines = [line.split(b"#", 1)[0] for line in _bytes(path).splitlines()]
    lines = [re.sub(rb"\bqid:\S+", b"", line) if b"qid" in line else line for line in lines]
    kept = [line for line in lines if line.strip()]
    if not kept:
        raise DataError(f"{path}: no examples in it")
    counts = np.fromiter((line.count(b":") for line in kept), dtype=np.int64, count=len(kept))
    flat = _numbers(b"\n".join(kept).replace(b":", b" "))
    starts = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum(1 + 2 * counts, out=starts[1:])
    if flat is None or len(flat) != starts[-1]:
        raise DataError(f"{path}: {_first_fault(lines)}")
    pairs = np.ones(len(flat), dtype=bool)
    pairs[starts[:-1]] = False
    body = flat[pairs].reshape(-1, 2)
    indices, values = body[:, 0].astype(np.int64), body[:, 1].astype(np.float32)
    indices -= int(one_based)
    if len(indices) and indices.min() < 0:
        raise DataError(
            f"{path}: feature {int(indices.min()) + int(one_based)} is too low; indices begin at "
            f"{'1; if yours begin at 0, say zero-based' if one_based else '0'}"
        )
    total = int(indices.max()) + 1 if features is None and len(indices) else features or 0
    return _rows(counts, indices, values, flat[starts[:-1]].astype(np.float32), total, bias=bias)


def read_csv(
    path: str | Path, *, target: str, bits: int = 18, bias: bool = True, delimiter: str | None = None
) -> tuple[SparseRows, list[str]]:
    """Read a table with a header: its examples (targets 0) and the target column as text.

    Args:
        path: the file.
        target: the column to predict.
        bits: 2^bits places for all features.
        bias: add a feature that is always 1.
        delimiter: between columns; None: a tab for .tsv, else a comma.

    Raises:
        DataError: it cannot be read, has no such column, or a row has too few or too many cells.
    """
    name = Path(path).name.removesuffix(".gz")
    text = io.StringIO(_bytes(path).decode("utf-8-sig", errors="replace"), newline="")
    reader = csv.reader(text, delimiter=delimiter or ("\t" if name.endswith(".tsv") else ","))
    header = next(reader, [])
    if target not in header:
        raise DataError(f"{path}: there is no column {target!r}; {suggest(target, header)}")
    at, size = header.index(target), 1 << bits
    counts: list[int] = []
    indices: list[int] = []
    values: list[float] = []
    targets: list[str] = []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {reader.line_num}: {len(row)} cells, and the header has {len(header)} columns"
            )
        cells: dict[int, float] = {}
        for column, cell in enumerate(row):
            if column != at and cell != "":
                number = _number(cell)
                key = header[column] if number is not None else f"{header[column]}={cell}"
                place = zlib.crc32(key.encode()) % size
                cells[place] = cells.get(place, 0.0) + (1.0 if number is None else number)
        counts.append(len(cells))
        indices += cells.keys()
        values += cells.values()
        targets.append(row[at])
    if not targets:
        raise DataError(f"{path}: no rows below the header")
    rows = _rows(
        np.array(counts), np.array(indices, dtype=np.int64), np.array(values, dtype=np.float32),
        np.zeros(len(targets), dtype=np.float32), size, bias=bias,
    )  # fmt: skip
    return rows, targets


def two_classes(names: Sequence[str], known: Sequence[str] = ()) -> tuple[Floats, tuple[str, str]]:
    """Targets -1 and +1 of class names, the smaller name (or number) being -1.

    Args:
        names: one an example.
        known: the classes of a model, where there is one.

    Raises:
        DataError: there are not two.
    """
    found = sorted(set(known or names), key=lambda n: (_number(n) is None, _number(n) or 0.0, n))
    strange = sorted(set(names) - set(found))
    if len(found) != 2 or strange:
        shown = ", ".join((strange or found)[:5])
        raise DataError(
            f"{len(strange or found)} {'unknown classes' if strange else 'classes'} ({shown}); a linear "
            "model tells two: give a target of two values, or use loss='least_squares'"
        )
    return np.where(np.array(names) == found[1], 1, -1).astype(np.float32), (found[0], found[1])


def _rows(
    counts: np.ndarray, indices: np.ndarray, values: Floats, targets: Floats, total: int, *, bias: bool
) -> SparseRows:
    known = indices < total
    if not known.all():
        owners = np.repeat(np.arange(len(counts)), counts)[known]
        indices, values = indices[known], values[known]
        counts = np.bincount(owners, minlength=len(counts))
    if bias:
        ends = np.cumsum(counts)
        indices, values = np.insert(indices, ends, total), np.insert(values, ends, np.float32(1))
        counts, total = counts + 1, total + 1
    indptr = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=indptr[1:])
    return SparseRows(indptr, indices.astype(np.int32), values, targets, total)


def _bytes(path: str | Path) -> bytes:
    try:
        data = Path(path).read_bytes()
        return gzip.decompress(data) if str(path).endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _numbers(text: bytes) -> np.ndarray | None:
    """All numbers of a text, or None where something else is in it."""
    try:
        return np.array(text.split(), dtype=np.float64)
    except ValueError:
        return None


def _first_fault(lines: Sequence[bytes]) -> str:
    for number, line in enumerate(lines, 1):
        target, *pairs = line.split() or [b"0"]
        words = [
            word for word in pairs if not _PAIR.match(word) or _numbers(word.replace(b":", b" ")) is None
        ]
        if words or _numbers(target) is None:
            word = (words or [target])[0].decode(errors="replace")
            return f"line {number}: {word!r} is not {'index:value' if words else 'a number'}"
    return "it is not in svmlight's format"
