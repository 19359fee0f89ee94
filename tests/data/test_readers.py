"""Readers: every format, every container, and input that is broken."""

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.config import parse
from mainspring.data import ReadReport, SourceConfig, read
from mainspring.data import readers as module
from mainspring.data.documents import MAX_EXAMPLES
from mainspring.errors import ConfigError, DataError


def read_all(path: Path, **settings: object) -> tuple[list[str], ReadReport]:
    report = ReadReport()
    config = parse(SourceConfig, {"name": "s", "path": str(path), **settings})
    return [d.text for d in read(config, report)], report


def faults(report: ReadReport) -> list[tuple[str, int | None]]:
    return [(Path(f.file).name, f.line) for f in report.examples]


def test_text_file_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    documents = list(read(tmp_path / "a.txt"))
    assert [(d.text, d.source, d.lang, d.id) for d in documents] == [
        ("one\n\ntwo", "text", None, f"{tmp_path}/a.txt:1")
    ]


def test_lines_and_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n\n  \nthree\n")
    assert read_all(tmp_path / "a.txt", documents="line")[0] == ["one", "two", "three"]
    assert read_all(tmp_path / "a.txt", documents="paragraph")[0] == ["one\ntwo", "  \nthree"]
    ids = [
        d.id.rpartition(":")[2] for d in read(SourceConfig(name="s", path=str(tmp_path), documents="line"))
    ]
    assert ids == ["1", "2", "5"]


@given(st.lists(st.text("ab é日 ", max_size=40), max_size=20), st.integers(64, 200))
def test_long_documents_are_cut_and_lose_nothing(lines: list[str], limit: int) -> None:
    text = "\n".join(lines)
    config = SourceConfig(name="s", path="x", max_document_bytes=limit)
    found = [d.text for d in module._text(iter(enumerate(text.split("\n"), 1)), "f", config)]
    assert all(len(t.encode()) <= limit for t in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_a_line_without_end_is_cut_at_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word " * 100)
    found, _ = read_all(tmp_path / "a.txt", max_document_bytes=64)
    assert all(t.strip("word ") == "" and len(t) <= 64 for t in found)
    assert "".join(found) == "word " * 100


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "meta": {"lang": "fra", "body": "un"}},
        {"text": "two", "meta": {"lang": "EN-us"}},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read_all(tmp_path / "a.jsonl")[0] == ["one", "two"]
    assert read_all(tmp_path / "a.jsonl", text_field="meta.body")[0] == ["un"]
    config = SourceConfig(name="s", path=str(tmp_path), lang_field="meta.lang")
    assert [d.lang for d in read(config)] == ["fr", "en-US"]


def test_broken_json_lines_are_named_and_the_rest_kept(tmp_path: Path) -> None:
    lines = [
        b'{"text": "first"}',
        b"{broken",
        b'{"txt": "misspelt"}',
        b'{"text": 7}',
        b"[1]",
        b'{"text": "\xff"}',
        b'{"text": "last"}',
        b"[" * 100_000,
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found, report = read_all(tmp_path / "a.jsonl")
    assert found == ["first", "last"]
    assert faults(report) == [("a.jsonl", n) for n in (2, 3, 4, 5, 6, 8)]
    assert (report.faults, report.documents, report.bytes) == (6, 2, 9)
    assert "did you mean 'txt'?" in str(report.examples[1])
    assert "int, not text" in str(report.examples[2])
    assert report.reasons["not valid JSON"] == 2


def test_lone_surrogates_cost_a_letter(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n{"text": "\\ud83d\\ude00"}\n')
    found, report = read_all(tmp_path / "a.jsonl")
    assert found == ["a\ufffdb", "\U0001f600"]
    assert faults(report) == [("a.jsonl", 1)]
    assert "lone surrogate" in str(report.examples[0])


def test_bad_utf8_costs_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\nb\xc3d\nlast")
    found, report = read_all(tmp_path / "a.txt")
    assert found == ["good\nlast"]
    assert str(report.examples[0]).endswith(
        "a.txt, line 2: not valid utf-8: byte 2: invalid continuation byte"
    )


def test_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("né".encode("latin-1"))
    assert read_all(tmp_path / "a.txt", encoding="latin-1")[0] == ["né"]
    (tmp_path / "a.txt").write_bytes("\ufeffné".encode())
    assert read_all(tmp_path / "a.txt")[0] == ["né"]
    with pytest.raises(ConfigError, match="'utf-16' does not contain ASCII"):
        read_all(tmp_path / "a.txt", encoding="utf-16")
    with pytest.raises(ConfigError, match="'klingon' is unknown"):
        read_all(tmp_path / "a.txt", encoding="klingon")


fields = st.text(st.sampled_from('ab,"\n \té'), max_size=12)


@given(st.lists(st.tuples(fields, fields.filter(str.strip)), max_size=12))
def test_csv_reads_what_python_writes(rows: list[tuple[str, str]]) -> None:
    """Oracle: the standard library's writer and reader."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("id", "text"), *rows])
    lines = iter(enumerate(text.getvalue().split("\n"), 1))
    config = SourceConfig(name="s", path="x")
    report = ReadReport()
    found = [d.text for d in module._columns(module._quoted(lines, "f", report), "f", config, report)]
    assert found == [row[1] for row in rows]
    assert report.faults == 0


def test_broken_csv_is_named_and_the_rest_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,"a,b"\n2\n3,"x"y\n4,ok\n5,"never closed\n6,six\n7,seven\n')
    found, report = read_all(tmp_path / "a.csv")
    assert found == ["a,b", "ok", "six", "seven"]
    assert faults(report) == [("a.csv", 3), ("a.csv", 4), ("a.csv", 6)]
    assert "too few columns: 1, the text is column 2" in str(report.examples[0])


def test_unclosed_quotes_take_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUOTED", 1000)
    (tmp_path / "a.csv").write_text("text\n" + "".join(f'"open {i}\n' + "plain\n" * 400 for i in range(60)))
    found, report = read_all(tmp_path / "a.csv")
    assert len(found) + report.faults == 60 * 401
    assert report.faults == 60


def test_columns_by_name_and_place(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('lang\tbody\nfra\tsaid "un\n\neng\tone\n')
    assert read_all(tmp_path / "a.tsv", text_field="body")[0] == ['said "un', "one"]
    assert read_all(tmp_path / "a.tsv", text_field="#1")[0] == ["lang", "fra", "eng"]
    config = SourceConfig(name="s", path=str(tmp_path), text_field="body", lang_field="lang")
    assert [d.lang for d in read(config)] == ["fr", "en"]
    with pytest.raises(DataError, match=r"a.tsv: no column 'text' in the header; known: 'body', 'lang'"):
        read_all(tmp_path / "a.tsv")


def test_bad_language_tags_are_reported_and_documents_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "l": "!"}\n{"text": "two", "l": null}\n')
    report = ReadReport()
    config = SourceConfig(name="s", path=str(tmp_path), lang_field="l", lang="deu")
    assert [d.lang for d in read(config, report)] == ["de", "de"]
    assert report.faults == 1


def test_gzip_zip_and_directories(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt.gz").write_bytes(gzip.compress(b"from gzip"))
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "a.txt").write_text("plain")
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("z.txt", "member z")
        archive.writestr("d/a.jsonl", '{"text": "member a"}')
        archive.writestr("d/b.txt.gz", gzip.compress(b"gzip in zip"))
    found, report = read_all(tmp_path)
    assert found == ["plain", "member a", "gzip in zip", "member z", "from gzip"]
    assert report.files == 5
    assert read_all(tmp_path / "**" / "*.gz")[0] == ["from gzip"]
    members = [d.id for d in read(tmp_path / "c.zip")]
    assert members[0] == f"{tmp_path}/c.zip!d/a.jsonl:1"


def test_truncated_gzip_keeps_what_came_before(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {i} " + "x" * (i * 7919 % 97)}) for i in range(5000)]
    whole = gzip.compress("\n".join(rows).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    found, report = read_all(tmp_path / "a.jsonl.gz")
    assert 1000 < len(found) < 5000
    assert found == [json.loads(row)["text"] for row in rows[: len(found)]]
    assert report.reasons == {"damaged file, rest lost": 1}
    assert faults(report) == [("a.jsonl.gz", len(found) + 1)]


def test_zip_with_a_bad_member_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a", "b", "c"):
            archive.writestr(f"{name}.txt", f"content of {name}")
    path.write_bytes(path.read_bytes().replace(b"content of b", b"CONTENT OF B"))
    found, report = read_all(path)
    assert found == ["content of a", "content of c"]
    assert report.examples[0].file == f"{path}!b.txt"
    assert "Bad CRC-32" in report.examples[0].reason


def test_what_is_no_zip_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK but no")
    (tmp_path / "b.txt").write_text("kept")
    (tmp_path / "c.txt.gz").write_bytes(b"not gzip")
    found, report = read_all(tmp_path)
    assert found == ["kept"]
    assert [f.reason.split(":")[0] for f in report.examples] == [
        "not a readable zip",
        "damaged file, rest lost",
    ]


def test_endless_lines_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 1000)
    (tmp_path / "a.txt").write_text("first\n" + "x" * 5500 + "\nlast\n")
    found, report = read_all(tmp_path / "a.txt")
    assert found == ["first\nlast"]
    assert faults(report) == [("a.txt", 2)]


def test_limit_stops_early(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"{i:09d}" for i in range(100)))
    assert len(read_all(tmp_path / "a.txt", documents="line", limit_bytes=100)[0]) == 12


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "none.txt", "no such file"),
        (tmp_path, "holds no files"),
        (tmp_path / "*.gz", "no file matches"),
    ]:
        with pytest.raises(DataError, match=message):
            read_all(path)


def test_report_keeps_a_bounded_number_of_examples(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{\n" * 500)
    report = read_all(tmp_path / "a.jsonl")[1]
    assert (report.faults, len(report.examples)) == (500, MAX_EXAMPLES)
    assert json.loads(json.dumps(report.to_dict()))["faults"] == 500


def test_real_files(shared_data: Path) -> None:
    xsum, report = read_all(shared_data / "generation/xsum/test.jsonl.gz", text_field="document")
    assert (len(xsum), report.faults) == (999, 0)  # one of the thousand is empty
    e2e, report = read_all(shared_data / "generation/e2e/devset.csv.gz", text_field="ref")
    assert (len(e2e), report.faults) == (4672, 0)
    agnews, report = read_all(shared_data / "understanding/agnews/dev.tsv.gz", text_field="#1")
    assert (len(agnews), report.faults) == (10001, 0)
    genesis, report = read_all(shared_data / "lm/nltk/genesis.zip", documents="line")
    assert len(genesis) > 10_000
    assert all("!" in f.file for f in report.examples)
