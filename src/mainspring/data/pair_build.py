"""Building pairs: files of parallel text, of one or several directions, into a folder that runs read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from mainspring.data.documents import ReadReport
from mainspring.data.pair_corpora import PairCorpora
from mainspring.data.pair_reader import read_pairs
from mainspring.data.pairs import PairData
from mainspring.errors import DataError, suggest
from mainspring.text.languages import language_tag
from mainspring.text.tokenizer import Tokenizer


class PairSource(NamedTuple):
    """Files of one direction."""

    source_lang: str
    """BCP 47 tag of the sources."""
    target_lang: str
    """BCP 47 tag of the targets."""
    source: str
    """File of the sources, or, without a target, of two columns parted by a tab."""
    target: str | None = None
    """File whose line n is the translation of line n of the sources."""


@dataclass
class PairReport:
    """What a build read, left out and wrote."""

    directory: Path
    """Where it was written."""
    languages: tuple[str, ...] = ()
    """Tags, in order of their indices."""
    directions: dict[str, dict[str, int]] = field(default_factory=dict)
    """Pairs and tokens of each direction."""
    read: dict[str, ReadReport] = field(default_factory=dict)
    """What was read, by direction as it was given."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "directory": str(self.directory),
            "languages": list(self.languages),
            "directions": self.directions,
            "read": {name: report.to_dict() for name, report in self.read.items()},
        }


def build_pairs(
    sources: Sequence[PairSource],
    tokenizer: Tokenizer,
    out_dir: str | Path,
    *,
    languages: Sequence[str] = (),
    both_ways: bool = False,
    max_tokens: int = 254,
) -> PairReport:
    """Encode pairs into `out_dir`; malformed lines are left out and named in the report.

    Args:
        sources: what to read; those of one direction are joined in their order.
        tokenizer: the run's, that is, its data's.
        out_dir: what an earlier build left there is replaced.
        languages: tags in order of the indices that models know them by; empty: those of the sources,
            sorted.
        both_ways: also write each direction the other way round.
        max_tokens: longest side; longer ones are cut.

    Raises:
        DataError: nothing to read, a file is missing or shorter than its partner, a direction has no pair, a
            tag is malformed or not among `languages`.
    """
    if not sources:
        raise DataError("no pairs to read: name at least one file")
    if max_tokens < 1:
        raise DataError(f"max_tokens = {max_tokens}: a side has 1 token or more")
    named: dict[tuple[str, str], list[PairSource]] = {}
    for source in sources:
        tags = str(language_tag(source.source_lang)), str(language_tag(source.target_lang))
        named.setdefault(tags, []).append(source)
    known = tuple(str(language_tag(tag)) for tag in languages) or tuple(sorted({*chain(*named)}))
    if missing := sorted({*chain(*named)} - set(known)):
        raise DataError(f"language {missing[0]!r} is not among the languages; {suggest(missing[0], known)}")
    report = PairReport(Path(out_dir), known)
    corpora: dict[str, PairData] = {}
    for (one, two), some in named.items():
        account = report.read[f"{one}-{two}"] = ReadReport()
        pairs = list(chain.from_iterable(read_pairs(s.source, s.target, account) for s in some))
        ways = [(one, two, pairs)]
        if both_ways:
            ways.append((two, one, [(target, source) for source, target in pairs]))
        for here, there, texts in ways:
            name = f"{here}-{there}"
            if name in corpora:
                raise DataError(f"direction {name} comes twice: leave it out, or do not ask for both ways")
            indices = known.index(here), known.index(there)
            corpora[name] = _encoded(name, texts, tokenizer, indices, max_tokens, account)
            report.directions[name] = {"pairs": corpora[name].count, "tokens": len(corpora[name].tokens)}
    PairCorpora.of(corpora, known).save(out_dir)
    return report


def _encoded(
    name: str,
    texts: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    langs: tuple[int, int],
    max_tokens: int,
    report: ReadReport,
) -> PairData:
    try:
        return PairData.encode(texts, tokenizer, langs=langs, max_tokens=max_tokens)
    except DataError as error:
        faults = "; ".join(str(fault) for fault in report.examples[:3])
        raise DataError(f"{name}: {error}" + (f" ({faults})" if faults else "")) from None
