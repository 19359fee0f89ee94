"""Kinds of files as documents; what is wrong with one is named and costs no other."""

import json
from pathlib import Path

import pytest

from mainspring.data.documents import ReadReport
from mainspring.products.search.documents import Document
from mainspring.products.search.html import readable
from mainspring.products.search.sources import of_packages, of_paths


def read(tmp_path: Path, name: str, content: str | bytes) -> tuple[list[Document], ReadReport]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    report = ReadReport()
    sources = list(of_paths([str(path)], {}, report))
    return [d for s in sources for d in s.documents or ()], report


def minimal_pdf(text: str) -> bytes:
    """One page that shows a line of text, written by hand from the standard."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        out
        + b"xref\n0 6\n0000000000 65535 f \n%strailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF"
        % (table, len(out))
    )


def test_text_and_markdown(tmp_path: Path) -> None:
    (document,), _ = read(tmp_path, "notes.txt", "Springs\n\nThey store energy.")
    assert (document.title, document.url) == ("Springs", (tmp_path / "notes.txt").as_uri())
    (document,), _ = read(tmp_path, "plain.txt", "One line goes\non to the next.")
    assert document.title == "plain"
    (document,), _ = read(
        tmp_path, "a.md", "<!-- x -->\n# The **title**\n\nSee [the docs](http://x.y) and `code`."
    )
    assert document.title == "The title"
    assert "See the docs and `code`." in document.text
    assert "x.y" not in document.text


def test_html_is_what_a_person_reads(tmp_path: Path) -> None:
    page = (
        '<html lang="de"><head><title>A &amp; B</title><style>p{}</style></head><body><nav>menu</nav>'
        "<h1>Head</h1><p>One <b>bold</b>\n word.<p>Two<script>alert('x')</script><ul><li>a<li>b</ul>"
        "<pre>x\n  y</pre></p></div></span>"
    )
    (document,), _ = read(tmp_path, "a.html", page)
    assert (document.title, document.language) == ("A & B", "de")
    assert "One bold word.\n\nTwo" in document.text
    assert "a\nb" in document.text
    for gone in ("alert", "p{}", "menu", "A & B"):
        assert gone not in document.text
    assert readable("<p>unclosed <b>and <i>nested").text == "unclosed and nested"
    assert readable("").text == ""


def test_rows(tmp_path: Path) -> None:
    lines = [
        json.dumps(
            {
                "id": "k1",
                "title": "T",
                "text": "body",
                "lang": "fr",
                "year": 2001,
                "url": "http://x",
                "n": [1],
            }
        ),
        "{broken",
        json.dumps({"name": "no text"}),
        json.dumps([1]),
        json.dumps({"body": "second", "text_": "kept"}),
    ]
    documents, report = read(tmp_path, "a.jsonl", "\n".join(lines))
    first, second = documents
    assert first == Document("k1", "body", "T", "http://x", "fr", {"year": 2001})
    assert second.key.endswith("a.jsonl:5")
    assert report.faults == 3
    assert [f.line for f in report.examples] == [2, 3, 4]
    documents, report = read(tmp_path, "a.csv", 'id,title,text\n1,T,"two\nlines, ""quoted"""\n2,short\n')
    assert documents == [Document("1", 'two\nlines, "quoted"', "T")]
    assert "wrong number of columns" in str(report.examples[0])
    documents, _ = read(tmp_path, "a.tsv", 'content\tsource\nbody "x\tmine\n')
    assert documents[0].text == 'body "x'
    assert documents[0].fields == {"source_": "mine"}
    documents, _ = read(tmp_path, "a.json", json.dumps([{"text": "one"}, {"text": "two"}]))
    assert [d.text for d in documents] == ["one", "two"]


def test_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf", reason="pypdf is not installed")
    (document,), report = read(tmp_path, "a.pdf", minimal_pdf("Springs store energy"))
    assert document.text.strip() == "Springs store energy"
    _, report = read(tmp_path, "b.pdf", b"%PDF-1.4 rubbish")
    assert "not a PDF that can be read" in str(report.examples[0])
    _, report = read(tmp_path, "c.pdf", minimal_pdf(""))
    assert "may be a scan" in str(report.examples[0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\xff\x00bad", "not valid UTF-8"),
        ("b.txt", b"a\0b", "zero bytes"),
        ("a.exe", b"MZ", "not a kind of file"),
        ("b.json", b"[1, 2", "not valid JSON"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    documents, report = read(tmp_path, name, content)
    assert documents == []
    assert report.faults == 1
    assert said in str(report.examples[0])
    assert name in report.examples[0].file


def test_utf16_and_empty_files(tmp_path: Path) -> None:
    (document,), _ = read(tmp_path, "a.txt", "Ünïcode text".encode("utf-16"))
    assert document.text == "Ünïcode text"
    (document,), _ = read(tmp_path, "empty.txt", b"")
    assert document.text == ""


def test_what_is_known_is_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (source,) = of_paths([str(tmp_path)], {}, ReadReport())
    (again,) = of_paths([str(tmp_path)], {source.name: source.hash}, ReadReport())
    assert again.documents is None
    first = next(of_packages({}, ReadReport(), limit_bytes=2000, processes=0))
    assert first.name.startswith("packages:")
    assert first.documents is not None and first.documents[0].language == "en"
