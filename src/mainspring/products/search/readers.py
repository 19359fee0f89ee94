"""Readers: the bytes of a file as documents, by the end of its name.

Text and Markdown are a document a file, HTML its readable text, JSON lines and tables a document a row, PDF a
document a page range of text. Malformed rows are reported with their line and left out.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mainspring.data.documents import ReadReport
from mainspring.errors import DataError, require
from mainspring.products.search.documents import RESERVED, Document, Value
from mainspring.products.search.html import readable

Reader = Callable[[Path, bytes, ReadReport], Iterator[Document]]

TEXT_COLUMNS = ("text", "content", "body", "passage", "abstract")
"""Names of the column that holds the text of a row, the first that is there."""
TITLE_COLUMNS = ("title", "name", "headline", "subject")
"""Names of its title."""
KEY_COLUMNS = ("key", "id", "_id", "docid")
"""Names of what tells rows apart; without one, the file's path and line do."""
_HEADING = re.compile(r"^\s{0,3}#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(\S.*)\n(?:={3,}|-{3,})[ \t]*$", re.MULTILINE)


class Unreadable(Exception):
    """A file is not what its name says."""


def text(path: Path, data: bytes, report: ReadReport) -> Iterator[Document]:
    """A text file; its title is a first line that stands by itself, else its name."""
    content = decoded(data)
    first, _, rest = content.lstrip().partition("\n")
    alone = rest[:1] in ("", "\n", "=", "-") and 0 < len(first.strip()) <= 100
    yield Document(str(path), content, first.strip() if alone and rest else path.stem, url=path.as_uri())


def markdown(path: Path, data: bytes, report: ReadReport) -> Iterator[Document]:
    """A Markdown file without the marks that only a page needs; its title is its first heading."""
    content = decoded(data)
    heading = _HEADING.search(content) or _UNDERLINED.search(content)
    content = re.sub(r"<!--.*?-->", "", content, flags=re.DOTALL)
    content = re.sub(r"!?\[([^\]]*)\]\([^)\s]*(?:\s\"[^\"]*\")?\)", r"\1", content)
    content = re.sub(r"^\s{0,3}#{1,6}\s+", "", content, flags=re.MULTILINE)
    content = re.sub(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", r"\2", content)
    title = path.stem if heading is None else re.sub(r"[*_`]", "", heading.group(1))
    yield Document(str(path), content, title, url=path.as_uri())


def html(path: Path, data: bytes, report: ReadReport) -> Iterator[Document]:
    """The readable text of a page, with the language that it declares."""
    page = readable(decoded(data))
    yield Document(str(path), page.text, page.title or path.stem, url=path.as_uri(), language=page.language)


def json_lines(path: Path, data: bytes, report: ReadReport) -> Iterator[Document]:
    """A document a line, or an element of one list."""
    content = decoded(data)
    if content.lstrip().startswith("["):
        try:
            rows = list(enumerate(json.loads(content), 1))
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"not valid JSON ({error})") from error
    else:
        rows = []
        for number, line in enumerate(content.splitlines(), 1):
            if not line.strip():
                continue
            try:
                rows.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                report.fault(str(path), number, "not valid JSON", str(error))
    for number, row in rows:
        if not isinstance(row, dict):
            report.fault(str(path), number, "not a JSON object", type(row).__name__)
            continue
        document = _row(path, number, row, report)
        if document is not None:
            yield document


def comma_separated(path: Path, data: bytes, report: ReadReport) -> Iterator[Document]:
    """A document a record of a file with a header."""
    yield from _table(path, csv.reader(io.StringIO(decoded(data), newline="")), report)


def tab_separated(path: Path, data: bytes, report: ReadReport) -> Iterator[Document]:
    """A document a line of a file with a header; tabs have no quoting."""
    yield from _table(path, (line.split("\t") for line in decoded(data).splitlines()), report)


def pdf(path: Path, data: bytes, report: ReadReport) -> Iterator[Document]:
    """The text of a PDF, pages apart.

    Raises:
        MissingExtraError: pypdf is not installed.
        Unreadable: the file is damaged or encrypted, or holds no text (a scan).
    """
    pypdf = require("pypdf", "pdf")
    try:
        document = pypdf.PdfReader(io.BytesIO(data))
        pages = [page.extract_text() for page in document.pages]
        title = str((document.metadata or {}).get("/Title") or "").strip()
    except Exception as error:  # pypdf raises whatever a damaged file leads it to
        raise Unreadable(f"not a PDF that can be read ({type(error).__name__}: {error})") from error
    if not any(page.strip() for page in pages):
        raise Unreadable("holds no text; it may be a scan")
    yield Document(str(path), "\n\n".join(pages), title or path.stem, url=path.as_uri())


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        ".txt": text,
        ".text": text,
        ".rst": text,
        ".md": markdown,
        ".markdown": markdown,
        ".html": html,
        ".htm": html,
        ".xhtml": html,
        ".json": json_lines,
        ".jsonl": json_lines,
        ".ndjson": json_lines,
        ".csv": comma_separated,
        ".tsv": tab_separated,
        ".pdf": pdf,
    }
)
"""Reader of each kind of file, by the end of its name."""


def decoded(data: bytes) -> str:
    """The text of bytes in UTF-8 or UTF-16 with a mark.

    Raises:
        Unreadable: they are neither.
    """
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        content = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(f"not valid UTF-8: byte {error.start + 1}") from error
    if "\0" in content:
        raise Unreadable("not a text: it holds zero bytes")
    return content


def _table(path: Path, records: Iterator[list[str]], report: ReadReport) -> Iterator[Document]:
    try:
        header = [column.strip() for column in next(records, [])]
        for number, record in enumerate(records, 2):
            if not any(cell.strip() for cell in record):
                continue
            if len(record) != len(header):
                report.fault(
                    str(path), number, "wrong number of columns", f"{len(record)}, the header {len(header)}"
                )
                continue
            document = _row(path, number, dict(zip(header, record, strict=True)), report)
            if document is not None:
                yield document
    except csv.Error as error:
        raise Unreadable(f"not a table ({error})") from error


def _row(path: Path, number: int, row: Mapping[str, Any], report: ReadReport) -> Document | None:
    named = {column.lower(): column for column in row}

    def column(choices: Sequence[str]) -> str | None:
        return next((named[c] for c in choices if c in named), None)

    at_text, at_title, at_key = column(TEXT_COLUMNS), column(TITLE_COLUMNS), column(KEY_COLUMNS)
    if at_text is None:
        columns = ", ".join(map(repr, list(row)[:8]))
        report.fault(str(path), number, "no text", f"looked for {', '.join(TEXT_COLUMNS)} among {columns}")
        return None
    known = {at_text, at_title, at_key, named.get("url"), named.get("language"), named.get("lang")}
    fields: dict[str, Value] = {
        name if name not in RESERVED else f"{name}_": value
        for name, value in row.items()
        if name not in known and isinstance(value, str | int | float | bool | None)
    }
    key = f"{path}:{number}" if at_key is None or row[at_key] in (None, "") else str(row[at_key])
    language = row.get(named.get("language", named.get("lang", "")))
    try:
        return Document(
            key,
            str(row[at_text] or ""),
            str(row[at_title] or "") if at_title is not None else "",
            url=str(row[named["url"]]) if row.get(named.get("url", "")) else None,
            language=str(language) if language else None,
            fields=fields,
        )
    except DataError as error:
        report.fault(str(path), number, "not a document", str(error))
        return None
