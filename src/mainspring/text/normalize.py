"""Unicode normalisation of documents before they become tokens (Unicode Standard Annex 15)."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from mainspring.config import Section

Form = Literal["none", "nfc", "nfkc", "nfd", "nfkd"]

_FORMS: dict[Form, Literal["NFC", "NFKC", "NFD", "NFKD"]] = {
    "nfc": "NFC",
    "nfkc": "NFKC",
    "nfd": "NFD",
    "nfkd": "NFKD",
}
# Control (Cc) but tab, newline and carriage return; U+FEFF inside text; lone surrogates; noncharacters.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_ASCII_CONTROL = bytes(code for code in (*range(32), 127) if code not in b"\t\n")
_BLANKS = re.compile(r"[^\S\n]+")
_MANY_LINES = re.compile(r"\n{3,}")


class NormalizeConfig(Section):
    """What happens to a document's text before it is tokenised."""

    form: Form = "nfc"
    """Unicode normalisation form; nfkc also folds compatibility letters (ligatures, full width), which loses
    detail."""
    newlines: Literal["keep", "unify"] = "unify"
    """Write every line break (CR LF, CR, NEL, LS, PS, VT, FF) as a newline."""
    control: Literal["keep", "remove"] = "remove"
    """Control characters other than white space, byte-order marks, lone surrogates and noncharacters."""
    whitespace: Literal["keep", "trim", "collapse"] = "trim"
    """trim: no white space at line ends, at most one empty line, none around the text; collapse: also one
    space for each run of blanks."""


KEEP = NormalizeConfig(form="none", newlines="keep", control="keep", whitespace="keep")
"""Changes nothing."""


def normalize(text: str, config: NormalizeConfig) -> str:
    """Normalise a text; doing so twice changes nothing more.

    >>> normalize("cafe\\u0301 \\r\\n", NormalizeConfig())
    'café'
    """
    plain = _is_plain(text)
    if not plain:
        if config.newlines == "unify":
            text = _BREAKS.sub("\n", text)
        if config.control == "remove":
            text = _CONTROL.sub("", text)
        if config.form != "none":
            text = unicodedata.normalize(_FORMS[config.form], text)
    if config.whitespace == "keep":
        return text
    if config.whitespace == "collapse":
        text = _BLANKS.sub(" ", text)
    if not plain or " \n" in text or "\t\n" in text:
        text = "\n".join(line.rstrip() for line in text.split("\n"))
    return (_MANY_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()


def _is_plain(text: str) -> bool:
    """Whether a text is ASCII letters, tabs and newlines, so that only its white space can need work."""
    return text.isascii() and len(text.encode("ascii").translate(None, _ASCII_CONTROL)) == len(text)
