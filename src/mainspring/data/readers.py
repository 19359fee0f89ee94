"""Readers: text, JSON lines, CSV and TSV become documents, in a stream, in bounded memory.

What is malformed is left out and reported with its file and line; everything else is kept. CSV is RFC 4180
(quoted fields may hold separators, quotes and line breaks); TSV has no quoting (IANA
text/tab-separated-values).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mainspring.data import embedded
from mainspring.data.config import SourceConfig
from mainspring.data.documents import Document, ReadReport
from mainspring.data.files import DAMAGE, Opened, expand, open_streams
from mainspring.errors import DataError, suggest
from mainspring.text.languages import language_tag

MAX_LINE = 64 << 20
"""Bytes of a line, at most; longer ones are reported and left out."""
MAX_QUOTED = 4 << 20
"""Bytes of a CSV record that spans lines, at most; beyond it the quote is taken as never closed."""

_FIELD = re.compile(r'"((?:[^"]|"")*)"|([^,"]*)')
_Lines = Iterator[tuple[int, str]]


def read(source: SourceConfig | str | Path, report: ReadReport | None = None) -> Iterator[Document]:
    """Documents of a source in a fixed order.

    Args:
        source: where to read, or simply a path.
        report: takes the counts and the faults; read it after the stream has ended.

    Raises:
        DataError: the path stands for no file, or the text column is not in a file's header (its columns are
            listed).
    """
    config = source if isinstance(source, SourceConfig) else SourceConfig(name="text", path=str(source))
    account = ReadReport() if report is None else report
    for document in _documents(config, account):
        try:
            size = len(document.text) if document.text.isascii() else len(document.text.encode())
        except UnicodeEncodeError as error:
            file, _, line = document.id.rpartition(":")
            account.fault(
                file, int(line), "lone surrogate, replaced by U+FFFD", f"character {error.start + 1}"
            )
            document = document._replace(text=_mended(document.text))
            size = len(document.text.encode())
        account.documents += 1
        account.bytes += size
        yield document
        if config.limit_bytes is not None and account.bytes >= config.limit_bytes:
            return


def utf8_length(text: str) -> int:
    """Bytes of a text in UTF-8 (a lone surrogate counts three)."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _mended(text: str) -> str:
    """A text with U+FFFD for lone surrogates; a pair of them becomes the letter it stands for."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _documents(config: SourceConfig, report: ReadReport) -> Iterator[Document]:
    if config.path == "embedded:docstrings":
        yield from embedded.docstring_documents(
            limit_bytes=config.limit_bytes, source=config.name, report=report
        )
    elif config.path == "embedded:udhr":
        yield from embedded.udhr_documents(source=config.name, report=report)
    else:
        for path in expand(config.path):
            for opened in open_streams(path, report):
                yield from _of_stream(opened, config, report)


def _of_stream(opened: Opened, config: SourceConfig, report: ReadReport) -> Iterator[Document]:
    kind = opened.format if config.format == "auto" else config.format
    numbered = numbered_lines(opened, config.encoding, report)
    lines = ((number, line) for number, line in numbered if line is not None)
    if kind == "text":
        yield from _text(lines, opened.name, config)
    elif kind == "jsonl":
        yield from _json_lines(lines, opened.name, config, report)
    else:
        records = _quoted(lines, opened.name, report) if kind == "csv" else _tabbed(lines)
        yield from _columns(records, opened.name, config, report)


def numbered_lines(opened: Opened, encoding: str, report: ReadReport) -> Iterator[tuple[int, str | None]]:
    """Numbered lines without their ends; undecodable and endless ones are reported and come as None, a
    damaged end stops the file."""
    number = 0
    decode = codecs.getdecoder(encoding)
    stream: IO[bytes] = opened.stream
    while True:
        try:
            line = stream.readline(MAX_LINE)
        except DAMAGE as error:
            report.fault(opened.name, number + 1, "damaged file, rest lost", str(error))
            return
        if not line:
            return
        number += 1
        if len(line) >= MAX_LINE and not line.endswith(b"\n"):
            report.fault(opened.name, number, "line too long", f"over {MAX_LINE} bytes")
            try:
                while len(more := stream.readline(MAX_LINE)) >= MAX_LINE and not more.endswith(b"\n"):
                    pass
            except DAMAGE as error:
                report.fault(opened.name, number, "damaged file, rest lost", str(error))
                return
            yield number, None
            continue
        if number == 1 and line.startswith(codecs.BOM_UTF8):
            line = line[3:]
        try:
            text = decode(line)[0].rstrip("\r\n")
        except UnicodeDecodeError as error:
            report.fault(
                opened.name, number, f"not valid {encoding}", f"byte {error.start + 1}: {error.reason}"
            )
            yield number, None
            continue
        yield number, text


def _text(lines: _Lines, name: str, config: SourceConfig) -> Iterator[Document]:
    """Text files: each document is gathered from lines until it ends or is full."""
    pending: list[str] = []
    size = first = 0

    def flush() -> Iterator[Document]:
        text = "\n".join(pending)
        if text.strip():
            yield Document(text, config.name, config.lang, f"{name}:{first}")
        pending.clear()

    for number, whole in lines:
        for line in _chunks(whole, config.max_document_bytes):
            ends = config.documents == "line" or (config.documents == "paragraph" and not line.strip())
            length = utf8_length(line) + 1
            if pending and (ends or size + length > config.max_document_bytes):
                yield from flush()
            if not pending:
                first, size = number, 0
            pending.append(line)
            size += length
    yield from flush()


def _chunks(line: str, limit: int) -> Iterator[str]:
    """A line in parts of at most `limit` bytes, cut after white space where there is some."""
    while utf8_length(line) > limit:
        part = line[:limit] if line.isascii() else line[: max(1, limit // 4)]
        space = max(part.rfind(" "), part.rfind("\t"))
        cut = space + 1 if space >= len(part) // 2 else len(part)
        yield line[:cut]
        line = line[cut:]
    yield line


def _json_lines(lines: _Lines, name: str, config: SourceConfig, report: ReadReport) -> Iterator[Document]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            report.fault(name, number, "not valid JSON", str(error))
            continue
        text = _field(value, config.text_field)
        if not isinstance(text, str):
            known = (
                suggest(config.text_field, value)
                if isinstance(value, dict) and value
                else type(value).__name__
            )
            what = "missing" if text is None else f"{type(text).__name__}, not text"
            report.fault(name, number, f"field {config.text_field!r} is {what}", known)
            continue
        if text.strip():
            yield Document(text, config.name, _lang(value, name, number, config, report), f"{name}:{number}")


def _columns(
    records: Iterator[tuple[int, list[str]]], name: str, config: SourceConfig, report: ReadReport
) -> Iterator[Document]:
    header: list[str] | None = None
    text_at: int | None = _place(config.text_field)
    lang_at: int | None = None if config.lang_field is None else _place(config.lang_field)
    for number, record in records:
        if header is None and (text_at is None or (config.lang_field is not None and lang_at is None)):
            header = [column.strip() for column in record]
            text_at = _column(header, config.text_field, name) if text_at is None else text_at
            if config.lang_field is not None and lang_at is None:
                lang_at = _column(header, config.lang_field, name)
            continue
        if text_at is None or text_at >= len(record):
            place = 0 if text_at is None else text_at + 1
            report.fault(name, number, "too few columns", f"{len(record)}, the text is column {place}")
            continue
        if record[text_at].strip():
            fields = {} if lang_at is None or lang_at >= len(record) else {config.lang_field: record[lang_at]}
            lang = _lang(fields, name, number, config, report)
            yield Document(record[text_at], config.name, lang, f"{name}:{number}")


def _tabbed(lines: _Lines) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in lines if line)


def _quoted(lines: _Lines, name: str, report: ReadReport) -> Iterator[tuple[int, list[str]]]:
    """CSV records. An unclosed quote costs its own line; reading goes on with the line after it."""
    ahead: list[tuple[int, str]] = []
    source = iter(lines)
    while True:
        number, line = ahead.pop() if ahead else next(source, (0, ""))
        if number == 0:
            return
        if '"' not in line:
            if line:
                yield number, line.split(",")
            continue
        held, size, quotes = [(number, line)], len(line), line.count('"')
        while quotes % 2 and size <= MAX_QUOTED:
            following = ahead.pop() if ahead else next(source, None)
            if following is None:
                break
            held.append(following)
            size += len(following[1]) + 1
            quotes += following[1].count('"')
        record = None if quotes % 2 else _split("\n".join(text for _, text in held))
        if record is not None:
            yield number, record
            continue
        detail = "a quote is not closed" if quotes % 2 else "text beside a quoted field"
        report.fault(name, number, "not valid CSV", detail)
        ahead.extend(reversed(held[1:]))


def _split(record: str) -> list[str] | None:
    fields: list[str] = []
    at = 0
    while True:
        match = _FIELD.match(record, at)
        assert match is not None  # the second alternative matches the empty string
        quoted, plain = match.groups()
        fields.append(plain if quoted is None else quoted.replace('""', '"'))
        at = match.end()
        if at == len(record):
            return fields
        if record[at] != ",":
            return None
        at += 1


def _field(value: Any, path: str) -> Any:
    if isinstance(value, dict) and path in value:
        return value[path]
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _lang(value: Any, name: str, number: int, config: SourceConfig, report: ReadReport) -> str | None:
    if config.lang_field is None:
        return config.lang
    tag = _field(value, config.lang_field)
    if not isinstance(tag, str) or not tag.strip():
        return config.lang
    try:
        return str(language_tag(tag))
    except DataError as error:
        report.fault(name, number, "bad language tag, document kept without", str(error))
        return config.lang


def _place(column: str) -> int | None:
    return int(column[1:]) - 1 if re.fullmatch(r"#[1-9][0-9]*", column) else None


def _column(header: list[str], column: str, name: str) -> int:
    if column in header:
        return header.index(column)
    raise DataError(
        f"{name}: no column {column!r} in the header; {suggest(column, header)} "
        "(in files without a header name it by its place: '#1')"
    )
