"""Answers to search requests, apart from HTTP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mainspring.errors import UsageError, few
from mainspring.products.search import Index, Results
from mainspring.products.search.captions import Query
from mainspring.products.search.filters import FIELD, Filter, sql
from mainspring.serve.search import odata, shapes
from mainspring.serve.search.errors import SearchApiError
from mainspring.serve.search.schema import SearchRequest, answer_settings, caption_settings

_SORTED = 1000
_COLUMNS = ("key", "title", "url", "language")


def search(index: Index, request: SearchRequest) -> dict[str, Any]:
    """The body of the answer to a search.

    Raises:
        UsageError: a filter, an order or a field is impossible.
        SearchApiError: semantic ranking is asked for and not to be had.
    """
    semantic = request.query_type == "semantic"
    fields = index.field_names()
    shapes.check_select(request.select, fields)
    condition = None
    if request.filter is not None and request.filter.strip():
        condition = odata.read(request.filter, lambda name: shapes.renamed(name, fields))
    order = [o._replace(field=_order_field(o.field, fields)) for o in odata.order(request.orderby)]
    _check_highlight(request.highlight)
    if request.search_fields and not semantic and set(request.search_fields) != {"title", "content"}:
        raise UsageError("searchFields: title and content are searched together; leave it out")
    if request.search.strip() in ("", "*"):
        return _everything(index, request, condition, order)
    if semantic and index.encoder is None and request.semantic_error_handling == "fail":
        raise SearchApiError(400, f"Semantic search is not enabled for this service: {index.missing}")
    return _found(index, request, condition, order, semantic)


def _found(
    index: Index,
    request: SearchRequest,
    condition: Filter | None,
    order: Sequence[odata.Order],
    semantic: bool,
) -> dict[str, Any]:
    captions, marks = caption_settings(request.captions)
    answers, threshold = answer_settings(request.answers)
    text = request.search
    if request.search_mode == "all":
        text = " ".join(w if w[:1] in '+-"' else f"+{w}" for w in re.findall(r'[+-]?"[^"]*"|\S+', text))
    top, skip = (_SORTED, 0) if order else (request.top, request.skip)
    found = index.search(
        text, top=top, skip=skip, captions=captions, answers=answers, filters=condition, semantic=semantic
    )
    hits = list(found.hits)
    if order:
        hits = _sorted(index, hits, order)[request.skip : request.skip + request.top]
    body: dict[str, Any] = {}
    if request.count:
        body["@odata.count"] = found.count
    if answers:
        body["@search.answers"] = _answers(found, threshold, request)
    if semantic and index.encoder is None:
        body["@search.semanticPartialResponseReason"] = "transient"
        body["@search.semanticPartialResponseType"] = "baseResults"
    reading = Query(text, index.languages_of(text), None) if request.highlight else None
    rows = []
    for hit in hits:
        row: dict[str, Any] = {"@search.score": hit.score}
        if semantic:
            row["@search.rerankerScore"] = hit.relevance
        if captions:
            tags = (request.highlight_pre_tag, request.highlight_post_tag)
            row["@search.captions"] = [shapes.caption_shape(c, marks, *tags) for c in hit.captions]
        if reading is not None:
            row["@search.highlights"] = _highlights(index, hit.key, hit.title, reading, request)
        rows.append({**row, **shapes.shown(index, hit, request.select)})
    return {**body, "value": rows}


def _everything(
    index: Index, request: SearchRequest, condition: Filter | None, order: Sequence[odata.Order]
) -> dict[str, Any]:
    """Every document that passes the filter, in order; nothing is ranked (`search=*`)."""
    where, values = ("1", []) if condition is None else sql(condition)
    clauses: list[str] = []
    names: list[Any] = []
    for field, descending in order:
        if field == "search.score()":
            continue
        direction = "DESC" if descending else "ASC"
        clauses.append(f"{field if field in _COLUMNS else FIELD} {direction}")
        names += [] if field in _COLUMNS else [field]
    keys = index.store.keys(
        where, values, limit=request.top, offset=request.skip, order=", ".join(clauses), order_values=names
    )
    body: dict[str, Any] = {}
    if request.count:
        body["@odata.count"] = index.store.count(where, values)
    if answer_settings(request.answers)[0]:
        body["@search.answers"] = []
    rows = []
    for key in keys:
        document = index.store.find(key)
        if document is not None:
            rows.append({"@search.score": 1.0, **shapes.shown(index, document, request.select)})
    return {**body, "value": rows}


def _answers(found: Results, threshold: float, request: SearchRequest) -> list[dict[str, Any]]:
    tags = (request.highlight_pre_tag, request.highlight_post_tag)
    return [
        {
            "key": a.key,
            "text": a.text,
            "highlights": a.marked(*tags),
            "score": a.score,
            **({} if a.verdict is None else {"verdict": "yes" if a.verdict else "no"}),
        }
        for a in found.answers or ()
        if a.score >= threshold
    ]


def _highlights(
    index: Index, key: str, title: str, reading: Query, request: SearchRequest
) -> dict[str, list[str]]:
    tags = (request.highlight_pre_tag, request.highlight_post_tag)
    texts = {"title": title, "content": index.text(key) or ""}
    found = {
        name: shapes.highlight_shape(texts[name], reading.matched(texts[name]), *tags)
        for name in request.highlight
    }
    return {name: marked for name, marked in found.items() if marked}


def _sorted(index: Index, hits: Sequence[Any], order: Sequence[odata.Order]) -> list[Any]:
    rows = list(hits)
    for field, descending in reversed(order):

        def value(hit: Any, field: str = field) -> tuple[bool, str, Any]:
            if field == "search.score()":
                return True, "", hit.score
            held = getattr(hit, field) if field in _COLUMNS else hit.fields.get(field)
            kind = "" if isinstance(held, int | float) else "text"
            return held is not None, kind, held if held is not None else 0

        rows.sort(key=value, reverse=descending)
    return rows


def _order_field(name: str, fields: Sequence[str]) -> str:
    if name == "search.score()":
        return name
    ours = shapes.renamed(name, fields)
    if ours == "text":
        raise UsageError("orderby 'content': is searched, not sorted by")
    return ours


def _check_highlight(names: Sequence[str]) -> None:
    wrong = [name for name in names if name not in ("title", "content")]
    if wrong:
        raise UsageError(f"highlight {few(wrong)}: should be title or content")
