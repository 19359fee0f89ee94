"""Between documents as they are kept and as the API shows them: `id` and `content` are key and text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mainspring.errors import DataError, UsageError, suggest
from mainspring.products.search import Document, Hit, Index
from mainspring.products.search.documents import Span
from mainspring.products.search.results import Caption, marked
from mainspring.products.search.store import StoredDocument

NAMES: Mapping[str, str] = {
    "id": "key",
    "title": "title",
    "content": "text",
    "url": "url",
    "language": "language",
}
"""Fields that every document has: name in the API to ours."""
ACTION = "@search.action"
_PLAIN = (str, int, float, bool, type(None))


def renamed(name: str, fields: Collection[str]) -> str:
    """Our name of a field to filter or sort by.

    Raises:
        UsageError: no document has it.
    """
    if name in NAMES:
        return NAMES[name]
    if name not in fields:
        raise UsageError(f"Could not find a property named {name!r}; {suggest(name, [*NAMES, *fields])}")
    return name


def check_select(select: Sequence[str], fields: Collection[str]) -> None:
    """Refuse names that no document has.

    Raises:
        UsageError: there is one.
    """
    for name in select:
        if name != "*":
            renamed(name, fields)


def shown(index: Index, document: Hit | StoredDocument, select: Sequence[str]) -> dict[str, Any]:
    """The fields of a document that are asked for; none: all."""
    wanted = set(select) - {"*"} if "*" not in select else set()
    values: dict[str, Any] = {
        "id": document.key,
        "title": document.title,
        "url": document.url,
        "language": document.language,
        **document.fields,
    }
    if not wanted or "content" in wanted:
        values["content"] = index.text(document.key)
    return {name: value for name, value in values.items() if not wanted or name in wanted}


def document_of(row: Mapping[str, Any]) -> Document:
    """The document of an upload.

    Raises:
        DataError: it has no id, or a value of a kind that fields do not have.
    """
    values = {name: value for name, value in row.items() if not name.startswith("@")}
    key = values.pop("id", None)
    if not isinstance(key, str) or not key.strip():
        raise DataError("'id' is missing or empty: each document needs one, as text")
    texts = {name: values.pop(name, None) for name in ("title", "content", "url", "language")}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise DataError(f"document {key!r}: {name!r} should be text, not {type(value).__name__}")
    for name, value in values.items():
        if not isinstance(value, _PLAIN):
            raise DataError(f"document {key!r}: {name!r} should be text, a number, true, false or null")
    try:
        "".join(
            [key, *(t for t in texts.values() if t), *(v for v in values.values() if isinstance(v, str))]
        ).encode()
    except UnicodeEncodeError:
        raise DataError(f"document {key!a}: holds half a surrogate pair, which is not Unicode text") from None
    return Document(
        key, texts["content"] or "", texts["title"] or "", texts["url"], texts["language"] or None, values
    )


def merged(index: Index, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row with what the document of its id has beside it; None where there is none."""
    found = index.store.find(str(row.get("id")))
    return None if found is None else {**shown(index, found, []), **row}


def caption_shape(caption: Caption, highlights: bool, before: str, after: str) -> dict[str, str]:
    """A caption as the API has it; without highlights their text is empty."""
    return {"text": caption.text, "highlights": caption.marked(before, after) if highlights else ""}


def highlight_shape(text: str, spans: Sequence[Span], before: str, after: str) -> list[str]:
    """Words of a query within a field, none where it has none of them."""
    return [marked(text, spans, before, after)] if spans else []
