"""Token data on disk, opened: streams of ids with their document boundaries, memory-mapped."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.data import shards
from mainspring.data.shards import Segment
from mainspring.errors import DataError, suggest
from mainspring.text.tokenizer import Tokenizer

SPLITS = ("train", "holdout")


class Window(NamedTuple):
    """Consecutive tokens of a stream."""

    ids: NDArray[np.int64]
    """Vocabulary indices, [n]."""
    doc: NDArray[np.int64]
    """Document of each token, counted from 0 at the window's first, [n]."""


class TokenStream:
    """The documents of one source (or of one language of it) in one split, joined end to end.

    Each document ends with the separator. Nothing is read until a window is asked for.
    """

    def __init__(
        self,
        name: str,
        source: str,
        lang: str | None,
        size: int,
        segments: Sequence[Segment],
        maps: Mapping[str, tuple[NDArray[Any], NDArray[np.int64]]],
    ) -> None:
        self.name = name
        """Name of the stream: the source's, or `source/language`."""
        self.source = source
        """Name of the source."""
        self.lang = lang
        """BCP 47 tag where all documents share one."""
        self.bytes = size
        """UTF-8 bytes of its text."""
        self.tokens = sum(segment.tokens for segment in segments)
        """Its length."""
        self.documents = sum(segment.documents for segment in segments)
        """Its number of documents."""
        self._segments = list(segments)
        self._maps = maps
        self._starts = list(np.cumsum([0, *(segment.tokens for segment in segments)]).tolist())

    def rows(self, seq_len: int) -> int:
        """Rows of `seq_len` inputs, each with a label, that fit: row k takes tokens k*seq_len ..
        (k+1)*seq_len."""
        return max(0, (self.tokens - 1) // seq_len)

    def window(self, start: int, length: int) -> Window:
        """Tokens start .. start+length-1.

        Raises:
            DataError: they are not all in the stream.
        """
        if start < 0 or length < 0 or start + length > self.tokens:
            raise DataError(
                f"stream {self.name!r}: tokens {start}..{start + length - 1} of {self.tokens} do not exist"
            )
        ids = np.empty(length, dtype=np.int64)
        doc = np.zeros(length, dtype=np.int64)
        at = bisect_right(self._starts, start) - 1
        filled = 0
        while filled < length:
            segment = self._segments[at]
            tokens, offsets = self._maps[segment.shard]
            first = segment.first_token + start + filled - self._starts[at]
            take = min(length - filled, segment.first_token + segment.tokens - first)
            ids[filled : filled + take] = tokens[first : first + take]
            # A document that begins inside adds one to all after it, and every segment begins a document.
            low = int(np.searchsorted(offsets, first, side="left" if filled else "right"))
            high = int(np.searchsorted(offsets, first + take, side="left"))
            doc[offsets[low:high] - first + filled] += 1
            filled, at = filled + take, at + 1
        return Window(ids, np.cumsum(doc, out=doc))

    def document(self, index: int) -> NDArray[np.int64]:
        """Ids of one document, its separator included.

        Raises:
            DataError: there is no such document.
        """
        if not 0 <= index < self.documents:
            raise DataError(f"stream {self.name!r}: document {index} of {self.documents} does not exist")
        for segment in self._segments:
            if index < segment.documents:
                tokens, offsets = self._maps[segment.shard]
                place = segment.first_document + index
                return np.asarray(tokens[offsets[place] : offsets[place + 1]], dtype=np.int64)
            index -= segment.documents
        raise AssertionError("segments hold fewer documents than their sum")


class SourceInfo(NamedTuple):
    """A source with its size in each split."""

    name: str
    """Name of the source."""
    langs: tuple[str, ...]
    """Languages of its streams, where known."""
    tokens: dict[str, int]
    """Tokens by split."""
    documents: dict[str, int]
    """Documents by split."""
    bytes: dict[str, int]
    """UTF-8 bytes of text by split."""


class TokenData:
    """A directory that `build` wrote."""

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory = directory
        """Where it is."""
        self.manifest = manifest
        """What the build recorded."""
        self._maps = {
            name: self._map(name, shards.ShardFile(**entry)) for name, entry in manifest["shards"].items()
        }
        self._splits = {split: self._streams(split) for split in SPLITS}

    @classmethod
    def open(cls, directory: str | Path, *, verify: bool = False) -> TokenData:
        """Open a build.

        Args:
            directory: where it is.
            verify: read all of it and compare checksums; sizes are compared in any case.

        Raises:
            DataError: it is missing, of another version, or a file is not what was written.
        """
        place = Path(directory)
        manifest = shards.read_manifest(place)
        try:
            data = cls(place, manifest)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{place / shards.MANIFEST}: incomplete ({error}); build the data again"
            ) from error
        if verify:
            data.verify()
        return data

    def verify(self) -> None:
        """Compare every file's checksum with the manifest.

        Raises:
            DataError: one differs; the file and both checksums are named.
        """
        for name, entry in self.manifest["shards"].items():
            for end, expected in (("bin", entry["bin_sha256"]), ("idx", entry["idx_sha256"])):
                path = self.directory / shards.SHARDS / f"{name}.{end}"
                actual = shards.file_sha256(path)
                if actual != expected:
                    raise DataError(
                        f"{path}: damaged: SHA-256 is {actual}, the manifest says {expected}; build it again"
                    )
        expected = self.manifest["tokenizer"]["hash"]
        if self.tokenizer.hash != expected:
            raise DataError(
                f"{self.directory / 'tokenizer.json'}: not the tokenizer these shards were built with: "
                f"hash {self.tokenizer.hash}, the manifest says {expected}"
            )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids."""
        return Tokenizer.load(self.directory)

    def describe(self, *, samples: int = 3) -> dict[str, Any]:
        """What a person wants to know of the data, as plain values; see `mainspring.data.describe`."""
        from mainspring.data.describe import describe

        return describe(self, samples=samples)

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer."""
        return int(self.manifest["tokenizer"]["vocab_size"])

    @property
    def separator(self) -> int:
        """Id that ends each document."""
        return int(self.manifest["tokenizer"]["separator"])

    @cached_property
    def sources(self) -> dict[str, SourceInfo]:
        """Each source with its languages and sizes."""
        streams = [(split, stream) for split in SPLITS for stream in self._splits[split].values()]
        result: dict[str, SourceInfo] = {}
        for name in sorted({stream.source for _, stream in streams}):
            own = [(split, stream) for split, stream in streams if stream.source == name]
            result[name] = SourceInfo(
                name,
                tuple(sorted({stream.lang for _, stream in own if stream.lang})),
                *(
                    {
                        split: sum(getattr(stream, kind) for at, stream in own if at == split)
                        for split in SPLITS
                    }
                    for kind in ("tokens", "documents", "bytes")
                ),
            )
        return result

    def split(self, name: str) -> dict[str, TokenStream]:
        """Streams of "train" or "holdout" by name, in order of their names.

        Raises:
            DataError: there is no such split.
        """
        if name not in self._splits:
            raise DataError(f"no split {name!r}; {suggest(name, SPLITS)}")
        return self._splits[name]

    def _streams(self, split: str) -> dict[str, TokenStream]:
        return {
            name: TokenStream(
                name,
                entry["source"],
                entry["lang"],
                entry["bytes"],
                [Segment(*segment) for segment in entry["segments"]],
                self._maps,
            )
            for name, entry in sorted(self.manifest["splits"][split].items())
        }

    def _map(self, name: str, entry: shards.ShardFile) -> tuple[NDArray[Any], NDArray[np.int64]]:
        base = self.directory / shards.SHARDS / name
        dtype = np.dtype(self.manifest["dtype"]).newbyteorder("<")
        return (
            _memory_map(base.with_suffix(".bin"), dtype, entry.tokens),
            _memory_map(base.with_suffix(".idx"), np.dtype("<i8"), entry.documents + 1),
        )


def _memory_map(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    expected = count * dtype.itemsize
    try:
        actual = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: missing ({error.strerror}); build the data again") from error
    if actual != expected:
        state = "truncated" if actual < expected else "damaged"
        raise DataError(
            f"{path}: {state}: {actual} bytes, the manifest says {expected}; build the data again"
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=(count,)).view(
        np.ndarray
    )  # plain arrays slice faster
