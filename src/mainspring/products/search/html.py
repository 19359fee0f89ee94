"""The readable text of a web page: what a person would read, paragraphs apart, no script or style."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import NamedTuple

_UNREAD = frozenset({"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "nav"})
_BLOCKS = frozenset(
    {
        *("address", "article", "aside", "blockquote", "body", "caption", "details", "dialog", "div", "dl"),
        *("figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr"),
        *("main", "ol", "p", "pre", "section", "summary", "table", "ul"),
    }
)
_ROWS = frozenset({"td", "th", "li", "tr", "dd", "dt"})
_EMPTY = frozenset(
    {*("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track"), "wbr"}
)


class Page(NamedTuple):
    """A page as text."""

    title: str
    """Its title, else its first heading; empty where it has neither."""
    text: str
    """What it says."""
    language: str | None
    """The language that it declares."""


def readable(html: str) -> Page:
    """The readable text of a page, however malformed."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    text = re.sub(r"[ \t\f\r\v]*\n[ \t\f\r\v]*", "\n", "".join(parser.parts))
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    title = " ".join("".join(parser.title).split()) or " ".join("".join(parser.heading).split())
    return Page(title, text, parser.language)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self.heading: list[str] = []
        self.language: str | None = None
        self._hidden: list[str] = []
        self._in: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "html":
            self.language = next(
                (value for name, value in attrs if name in ("lang", "xml:lang") and value), None
            )
        if tag in _UNREAD:
            self._hidden.append(tag)
        self._apart(tag)
        if tag == "br":
            self.parts.append("\n")
        if tag not in _EMPTY:
            self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            while self._hidden.pop() != tag:
                continue
        if tag in self._in:
            while self._in.pop() != tag:
                continue
        self._apart(tag)

    def _apart(self, tag: str) -> None:
        if tag in _BLOCKS or tag in _ROWS:
            self.parts.append("\n\n" if tag in _BLOCKS else "\n")

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if "title" in self._in:
            self.title.append(data)
            return
        if "h1" in self._in and (not self.heading or self._in[-1] == "h1"):
            self.heading.append(data)
        self.parts.append(data if "pre" in self._in else re.sub(r"\s+", " ", data))
