"""Reading parallel text: line n of one file with line n of another, or two columns of one.

What is malformed is left out and reported with its file and line; everything else is kept. A file that is
shorter than its partner is refused: nobody can tell where the two went apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from mainspring.data.documents import ReadReport
from mainspring.data.files import open_streams
from mainspring.data.readers import numbered_lines
from mainspring.errors import DataError

Numbered = Iterator[tuple[int, str | None]]


def read_pairs(
    source: str | Path, target: str | Path | None = None, report: ReadReport | None = None
) -> Iterator[tuple[str, str]]:
    """The pairs of two aligned files, or of a file of two columns parted by a tab; .gz is opened.

    Args:
        source: file of the sources; without a target, of both.
        target: file of the targets, line n of which is the translation of line n of the sources.
        report: takes the counts and the faults; read it after the stream has ended.

    Raises:
        DataError: a file does not exist, or the two differ in their number of lines.
    """
    account = ReadReport() if report is None else report
    found = _columns(source, account) if target is None else _aligned(source, target, account)
    for name, number, one, two in found:
        if not one.strip() or not two.strip():
            account.fault(name, number, "empty side", "source" if not one.strip() else "target")
            continue
        account.documents += 1
        account.bytes += len(one.encode("utf-8", "replace")) + len(two.encode("utf-8", "replace"))
        yield one.strip(), two.strip()


def _columns(path: str | Path, report: ReadReport) -> Iterator[tuple[str, int, str, str]]:
    for number, line in _numbered(path, report):
        if line is None:
            continue
        columns = line.split("\t")
        if len(columns) != 2:
            report.fault(str(path), number, "not two columns", f"{len(columns)} parted by tabs")
            continue
        yield str(path), number, columns[0], columns[1]


def _aligned(
    source: str | Path, target: str | Path, report: ReadReport
) -> Iterator[tuple[str, int, str, str]]:
    for left, right in zip_longest(_numbered(source, report), _numbered(target, report)):
        if left is None or right is None:
            longer, shorter = (source, target) if right is None else (target, source)
            raise DataError(
                f"{longer} goes on at line {(left or right)[0]}, where {shorter} has ended: line n of one "
                "has to be the translation of line n of the other"
            )
        if left[1] is not None and right[1] is not None:
            yield str(source), left[0], left[1], right[1]


def _numbered(path: str | Path, report: ReadReport) -> Numbered:
    """All lines of a file with their numbers, None for those that are no text, which are reported."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file (working directory {Path.cwd()})")
    for opened in open_streams(Path(path), report):
        yield from numbered_lines(opened, "utf-8", report)
