"""Parallel text: line n to line n, or two columns; what is malformed is named and left out."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mainspring.data.documents import ReadReport
from mainspring.data.pair_reader import read_pairs
from mainspring.errors import DataError


def test_lines_belong_together_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("one\n\n three \nfour\n", encoding="utf-8")
    (tmp_path / "de").write_text("eins\nzwei\ndrei\n \n", encoding="utf-8")
    report = ReadReport()
    assert list(read_pairs(tmp_path / "en", tmp_path / "de", report)) == [("one", "eins"), ("three", "drei")]
    assert (report.documents, report.faults, report.files) == (2, 2, 2)
    assert [(fault.line, fault.reason) for fault in report.examples] == [
        (2, "empty side: source"),
        (4, "empty side: target"),
    ]


def test_files_of_different_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("one\ntwo\nthree\n", encoding="utf-8")
    (tmp_path / "de").write_text("eins\nzwei\n", encoding="utf-8")
    with pytest.raises(DataError, match="en goes on at line 3"):
        list(read_pairs(tmp_path / "en", tmp_path / "de"))
    with pytest.raises(DataError, match="en goes on at line 3"):
        list(read_pairs(tmp_path / "de", tmp_path / "en"))
    with pytest.raises(DataError, match="none: no such file"):
        list(read_pairs(tmp_path / "none", tmp_path / "de"))


def test_a_line_that_is_no_text_takes_its_partner_along(tmp_path: Path) -> None:
    (tmp_path / "en").write_bytes(b"one\ntw\xffo\nthree\nf\xfe\n")
    (tmp_path / "de").write_text("eins\nzwei\ndrei\nvier\n", encoding="utf-8")
    report = ReadReport()
    assert list(read_pairs(tmp_path / "en", tmp_path / "de", report)) == [("one", "eins"), ("three", "drei")]
    assert [fault.line for fault in report.examples] == [2, 4]
    assert report.reasons == {"not valid utf-8": 2}


def test_two_columns_of_a_packed_file(tmp_path: Path) -> None:
    lines = "one\teins\nno tab here\na\tb\tc\n\ttwo\nlast\tletztes\u2028Wort"
    (tmp_path / "pairs.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    report = ReadReport()
    found = list(read_pairs(tmp_path / "pairs.tsv.gz", report=report))
    assert found == [("one", "eins"), ("last", "letztes\u2028Wort")]
    assert [(fault.line, fault.reason) for fault in report.examples] == [
        (2, "not two columns: 1 parted by tabs"),
        (3, "not two columns: 3 parted by tabs"),
        (4, "empty side: source"),
    ]
