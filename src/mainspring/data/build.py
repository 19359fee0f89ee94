"""Building token shards: sources are read, normalised, split, encoded and written in one stream of bounded
memory."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mainspring.config import parse
from mainspring.data import shards
from mainspring.data.build_report import BuildReport, Progress
from mainspring.data.config import BuildConfig, SourceConfig
from mainspring.data.documents import Document, ReadReport
from mainspring.data.encoding import encode
from mainspring.data.hash_sample import HashSample
from mainspring.data.readers import read, utf8_length
from mainspring.errors import DataError, TokenizerError
from mainspring.text.normalize import NormalizeConfig, normalize
from mainspring.text.tokenizer import Tokenizer
from mainspring.text.train import TokenizerSpec, train

__all__ = ["BuildReport", "Progress", "Source", "build", "build_from", "source_of"]

SHARD_TOKENS = 1 << 25
"""Tokens in a shard, about: what is held in memory before it is written."""
REPLAY = 64 << 20
"""Bytes of a source that are kept from the tokenizer's sample for the encoding, so that it is read once."""

SCAN = 8
"""The tokenizer's sample is drawn from this many times its size, at most."""
_LOOSE = 8192

Source = SourceConfig | tuple[str, Iterable[Document]]
"""Where to read, or a name and documents that can be iterated more than once."""


@dataclass
class _Stream:
    """What a stream of one split has gathered."""

    source: str
    lang: str | None
    bytes: int = 0
    pending: list[NDArray[Any]] = field(default_factory=list)
    lengths: array[int] = field(default_factory=lambda: array("q"))
    segments: list[shards.Segment] = field(default_factory=list)
    loose: int = 0

    def add(self, ids: NDArray[Any], end: NDArray[Any], size: int) -> None:
        """Take a document; many small arrays are joined, as each costs a hundred bytes beside its ids."""
        self.pending += [ids, end]
        self.lengths.append(len(ids) + 1)
        self.bytes += size
        self.loose += 2
        if self.loose >= _LOOSE:
            self.pending[-self.loose :] = [np.concatenate(self.pending[-self.loose :])]
            self.loose = 0

    def clear(self) -> None:
        """Forget what has been written."""
        self.pending, self.lengths, self.loose = [], array("q"), 0


def build(
    sources: Sequence[Source] | Sequence[Document],
    tokenizer: Tokenizer | TokenizerSpec | str | Path,
    out_dir: str | Path,
    *,
    holdout: float = 0.02,
    normalization: NormalizeConfig | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> BuildReport:
    """Build token shards in `out_dir` and return an account.

    The same text and settings give the same files under the same names. Each document ends with the
    tokenizer's separator. A document is held out where the hash of its text says so, so copies of it are on
    the same side; if chance holds out no document at all, the one with the smallest hash is.

    Args:
        sources: what to read, in order; the documents of a (name, documents) pair must be iterable twice. Or
            simply documents, which make a source for each name that they carry.
        tokenizer: one that exists, a path to load it from, or what to train on a sample of the sources.
        out_dir: directory to write; what an earlier build left there is replaced.
        holdout: share of documents to hold out, 0 to below 1.
        normalization: what happens to text first; None for the defaults.
        progress: called a few times a second.

    Raises:
        DataError: a source does not exist, two have one name, or no document was found.
        TokenizerError: the tokenizer cannot be loaded or trained, or has no separator.
    """
    builder = _Builder(
        _grouped(sources), Path(out_dir), holdout, normalization or NormalizeConfig(), progress
    )
    return builder.run(tokenizer)


def build_from(
    config: BuildConfig, out_dir: str | Path, *, progress: Callable[[Progress], None] | None = None
) -> BuildReport:
    """Build what a configuration describes; see `build`."""
    return build(
        config.sources,
        config.tokenizer,
        out_dir,
        holdout=config.holdout,
        normalization=config.normalize,
        progress=progress,
    )


class _Builder:
    def __init__(
        self,
        sources: Sequence[Source],
        out_dir: Path,
        holdout: float,
        normalization: NormalizeConfig,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        names = [s.name if isinstance(s, SourceConfig) else s[0] for s in sources]
        if not names:
            raise DataError("no sources: name at least one file, directory or embedded corpus")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"two sources are called {twice[0]!r}; give each its own name")
        if not 0.0 <= holdout < 1.0:
            raise DataError(f"holdout = {holdout}: a share from 0 to below 1 is possible")
        self.sources = dict(zip(names, sources, strict=True))
        self.out_dir = out_dir
        self.holdout = holdout
        self.normalization = normalization
        self.progress = progress
        self.replay: dict[str, list[Document]] = {}
        self.smallest = 1 << 64
        self.report = BuildReport(out_dir)
        self.began = time.perf_counter()
        self.told = 0.0

    def run(self, tokenizer: Tokenizer | TokenizerSpec | str | Path) -> BuildReport:
        vocabulary = self._tokenizer(tokenizer)
        self.report.vocab_size = vocabulary.vocab_size
        (self.out_dir / shards.SHARDS).mkdir(parents=True, exist_ok=True)
        threshold = int(self.holdout * (1 << 64))
        self._start()
        streams = self._encode(vocabulary, threshold)
        counts = self.report.documents
        if self.holdout > 0 and min(counts.values()) == 0 < sum(counts.values()):
            # Few documents, and chance put all on one side: hold out one of several, none of one.
            streams = self._encode(vocabulary, self.smallest + 1 if sum(counts.values()) > 1 else 0)
        self._finish(vocabulary, streams)
        self.report.seconds = time.perf_counter() - self.began
        return self.report

    def _tokenizer(self, given: Tokenizer | TokenizerSpec | str | Path) -> Tokenizer:
        if isinstance(given, TokenizerSpec):
            self._start()
            given = train(self._sample(given.sample_bytes), given)
            self.report.tokenizer_seconds = time.perf_counter() - self.began
        elif not isinstance(given, Tokenizer):
            given = Tokenizer.load(given)
        if given.separator is None:
            raise TokenizerError(
                "the tokenizer has no token that ends a document (eos or sep); add one, or name it in "
                "special_tokens_map.json"
            )
        return given

    def _sample(self, budget: int) -> Iterator[str]:
        sample = HashSample(budget)
        for name in self.sources:
            kept: list[Document] | None = []
            scanned = 0
            limit = max(1, SCAN * budget // len(self.sources))
            for documents, document in enumerate(self._read(name), 1):
                size = utf8_length(document.text)
                scanned += size
                sample.add(document.text, _hash(document.text), size)
                if kept is not None:
                    kept.append(document)
                    kept = kept if scanned <= REPLAY // len(self.sources) else None
                self._tell("sample", name, documents, scanned, 0)
                if scanned > limit:
                    kept = None
                    break
            if kept is not None:
                self.replay[name] = kept
        self._tell("tokenizer", "", len(sample), sample.bytes, 0, force=True)
        return sample.texts()

    def _read(self, name: str) -> Iterator[Document]:
        """Normalised documents of a source; what is read of it is counted afresh."""
        source = self.sources[name]
        report = self.report.sources[name] = ReadReport()
        if isinstance(source, SourceConfig):
            documents: Iterable[Document] = read(source, report)
        else:
            documents = _counted(source[1], name, report)
        for document in documents:
            text = normalize(document.text, self.normalization)
            if text:
                yield document._replace(text=text)

    def _documents(self, threshold: int) -> Iterator[tuple[tuple[str, str, str | None, int], str]]:
        """(split, stream, language, bytes) and text of every document."""
        taken = size = 0
        for name, source in self.sources.items():
            by_language = isinstance(source, SourceConfig) and source.split_languages
            for document in self.replay[name] if name in self.replay else self._read(name):
                mark = _hash(document.text)
                self.smallest = min(self.smallest, mark)
                length = utf8_length(document.text)
                taken, size = taken + 1, size + length
                key = f"{name}/{document.lang or 'und'}" if by_language else name
                lang = document.lang if by_language else getattr(source, "lang", None)
                yield ("holdout" if mark < threshold else "train", key, lang, length), document.text
                self._tell("encode", name, taken, size, sum(self.report.tokens.values()))

    def _encode(self, tokenizer: Tokenizer, threshold: int) -> dict[tuple[str, str], _Stream]:
        report = self.report
        report.documents, report.tokens = {"train": 0, "holdout": 0}, {"train": 0, "holdout": 0}
        report.bytes = 0
        self.files: dict[str, shards.ShardFile] = {}
        dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        end = np.array([tokenizer.separator], dtype=dtype)
        streams: dict[tuple[str, str], _Stream] = {}
        held = 0
        for (split, key, lang, length), ids in encode(self._documents(threshold), tokenizer, dtype):
            stream = streams.setdefault((split, key), _Stream(key.partition("/")[0], lang))
            stream.add(ids, end, length)
            held += len(ids) + 1
            report.documents[split] += 1
            report.tokens[split] += len(ids) + 1
            report.bytes += length
            if held >= SHARD_TOKENS:
                self._write(streams, dtype)
                held = 0
        if held:
            self._write(streams, dtype)
        return streams

    def _write(self, streams: dict[tuple[str, str], _Stream], dtype: np.dtype[Any]) -> None:
        ready = {"\x1f".join(key): stream for key, stream in sorted(streams.items()) if stream.lengths}
        groups = [(key, stream.pending, stream.lengths) for key, stream in ready.items()]
        name, entry, segments = shards.write_shard(self.out_dir / shards.SHARDS, groups, dtype)
        self.files[name] = entry
        for key, stream in ready.items():
            stream.segments.append(segments[key])
            stream.clear()

    def _finish(self, tokenizer: Tokenizer, streams: dict[tuple[str, str], _Stream]) -> None:
        report = self.report
        if not streams:
            found = "; ".join(str(fault) for r in report.sources.values() for fault in r.examples[:3])
            raise DataError(
                f"no document was found in {', '.join(self.sources)}" + (f" ({found})" if found else "")
            )
        if self.holdout > 0 and report.documents["holdout"] == 0:
            report.warnings.append(
                "nothing is held out: there is one document only, so evaluation has no text; add "
                "documents, or lower max_document_bytes so that a file becomes several"
            )
        for name in self.sources:
            if not any(stream.source == name for stream in streams.values()):
                report.warnings.append(f"source {name!r} gave no document")
        tokenizer.save(self.out_dir)
        splits: dict[str, dict[str, Any]] = {"train": {}, "holdout": {}}
        for (split, key), stream in sorted(streams.items()):
            splits[split][key] = {
                "source": stream.source,
                "lang": stream.lang,
                "bytes": stream.bytes,
                "tokens": sum(s.tokens for s in stream.segments),
                "documents": sum(s.documents for s in stream.segments),
                "segments": [list(segment) for segment in stream.segments],
            }
        shards.write_manifest(
            self.out_dir,
            {
                "format": shards.FORMAT,
                "version": shards.VERSION,
                "dtype": "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32",
                "tokenizer": {
                    "hash": tokenizer.hash,
                    "vocab_size": tokenizer.vocab_size,
                    "separator": tokenizer.separator,
                },
                "holdout": self.holdout,
                "normalize": self.normalization.model_dump(mode="json"),
                "shards": {name: entry._asdict() for name, entry in self.files.items()},
                "splits": splits,
                "read": {name: read_report.to_dict() for name, read_report in report.sources.items()},
            },
        )
        shards.remove_strays(self.out_dir / shards.SHARDS, set(self.files))
        report.shards = len(self.files)

    def _start(self) -> None:
        self.began, self.told = time.perf_counter(), 0.0

    def _tell(
        self, stage: str, source: str, documents: int, size: int, tokens: int, *, force: bool = False
    ) -> None:
        if self.progress is None:
            return
        now = time.perf_counter()
        if force or now - self.told > 0.2:
            self.told = now
            self.progress(Progress(stage, source, documents, size, tokens, now - self.began))


def source_of(path: str, name: str | None = None, **settings: Any) -> SourceConfig:
    """A source for a path given by hand; its name is that of the file without endings."""
    plain = path.rpartition("/")[2] if not path.startswith("embedded:") else path.partition(":")[2]
    letters = "".join(
        c if c.isascii() and (c.isalnum() or c in "._+-") else "-" for c in plain.partition(".")[0]
    )
    return parse(
        SourceConfig, {"name": name or letters.strip("-._+")[:64] or "text", "path": path, **settings}
    )


def _grouped(sources: Sequence[Source] | Sequence[Document]) -> list[Source]:
    groups: dict[str, list[Document]] = {}
    found: list[Source] = []
    for item in sources:
        if isinstance(item, Document):
            groups.setdefault(item.source, []).append(item)
        else:
            found.append(item)
    return found + list(groups.items())


def _hash(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def _counted(documents: Iterable[Document], name: str, report: ReadReport) -> Iterator[Document]:
    for document in documents:
        report.documents += 1
        report.bytes += utf8_length(document.text)
        yield document._replace(source=name)
