"""The page of languages that are corrected: families, data, and quality as the benchmark measured it."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from mainspring.products.spelling import LANGUAGES
from mainspring.products.spelling.lexicon import Lexicons
from mainspring.products.spelling.speller import LEXICONS
from tools.tables import table

RESULT = Path(__file__).resolve().parent.parent / "benchmarks/results/spelling/languages.json"
INTRO = """{count} languages in {families} families.

Pairs: misspellings of the language that were learnt from; 0 is zero-shot, served by its family or by what
all share. Unknown: share of words of running text that the lexicon lacks, as estimated when it was made.
Top-1, top-5: share of misspelt words whose word comes first or among five, words of held-out sentences with
noise; best peer: the highest top-1 of aspell, hunspell and pyspellchecker where one has a dictionary
({covered} languages). Right: words of sentences with a fifth of the words misspelt that are right before and
after correction. False: words of clean held-out sentences that were changed. An empty cell was not measured:
there is too little held-out text."""
_PEERS = ("aspell", "hunspell", "pyspellchecker", "symspellpy")


def spelling_languages() -> str:
    """The page's text."""
    index = Lexicons(Path(str(files("mainspring.products.spelling").joinpath("data", LEXICONS)))).index
    results = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else []
    rows = [_row(tag, index[tag], results) for tag in sorted(index)]
    covered = sum(bool(row["best peer"]) for row in rows)
    shown = INTRO.format(count=len(rows), families=len({r["family"] for r in rows}), covered=covered)
    return f"# Languages of the speller\n\n{shown}\n\n{table(rows)}"


def _row(tag: str, facts: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    noise = {r["system"]: r for r in results if r.get("language") == tag and r.get("set") == "noise"}
    clean = [
        r
        for r in results
        if r.get("language") == tag and r.get("set") == "clean" and r["system"] == "Mainspring"
    ]
    ours = noise.get("Mainspring", {})
    peers = {name: noise[name]["top-1"] for name in _PEERS if name in noise and noise[name]["words"]}
    best = max(peers, key=lambda name: peers[name], default=None)
    return {
        "tag": tag,
        "language": LANGUAGES[tag].name,
        "family": LANGUAGES[tag].family,
        "words": facts["words"],
        "sources": ", ".join(facts["sources"]),
        "pairs": facts["pairs"],
        "unknown": facts["unknown"],
        "top-1": _share(ours.get("top-1")),
        "top-5": _share(ours.get("top-5")),
        "best peer": f"{peers[best]:.3f} {best}" if best else "",
        "right before": _share(ours.get("words right, copied")),
        "right after": _share(ours.get("words right")),
        "false": f"{clean[0]['false']:.4f}" if clean else "",
    }


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
