"""The corpora that every installation has: the documentation of its Python modules, and human rights in 388
languages.

Docstrings are found by parsing source files with `ast`; nothing is imported or executed. The standard library
comes first, then the installed packages in an order given by the hash of each file's name, so that any
beginning of the stream is a fair sample of the packages. The Universal Declaration of Human Rights ships with
the package (NOTICE.txt).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from mainspring.data import docstring_worker
from mainspring.data.documents import Document, ReadReport
from mainspring.text.languages import tag_of_name

SKIPPED = frozenset(
    {
        "test",
        "tests",
        "testing",
        "idlelib",
        "lib2to3",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "mainspring",
    }
)
"""Directories whose files are not documentation, or are not the same from one installation to the next."""

UDHR_FILE = "udhr2.zip"
_BATCH = 32
_LEAST_BYTES = 200
_Parts = list[tuple[str, str]]
_Answer = tuple[_Parts, str | None]


class SourceFile(NamedTuple):
    """A Python source file."""

    path: str
    """Where it is."""
    module: str
    """Dotted name of the module."""


def docstring_documents(
    *,
    limit_bytes: int | None = None,
    source: str = "docstrings",
    processes: int = 2,
    roots: Sequence[Path] | None = None,
    report: ReadReport | None = None,
) -> Iterator[Document]:
    """A document for each installed module that is documented: signatures and docstrings in order of the
    source.

    A docstring that occurs in several places is given once, modules of little documentation are left out.

    Args:
        limit_bytes: stop after this much text.
        source: name that the documents carry.
        processes: parse in this many processes of their own; 0 parses in this one, more slowly.
        roots: directories to search in place of the standard library and the installed packages.
        report: takes files that could not be parsed.
    """
    account = ReadReport() if report is None else report
    files = [
        file
        for number, root in enumerate(_roots() if roots is None else roots)
        for file in _source_files(root, shuffle=number > 0)
    ]
    seen: set[bytes] = set()
    total = 0
    with contextlib.closing(
        _parse(files, processes if sys.executable and len(files) > _BATCH else 0)
    ) as parsed:
        for file, (parts, fault) in parsed:
            account.files += 1
            if fault is not None:
                account.fault(file.path, None, *fault.split(": ", 1))
            text = _join(parts, seen)
            size = len(text.encode("utf-8"))
            if size < _LEAST_BYTES:
                continue
            yield Document(text, source, "en", file.module)
            total += size
            if limit_bytes is not None and total >= limit_bytes:
                return


def udhr_documents(*, source: str = "udhr", report: ReadReport | None = None) -> Iterator[Document]:
    """The Universal Declaration of Human Rights, a document for each of 388 languages and varieties, by name
    of tag."""
    data = resources.files("mainspring.data").joinpath(UDHR_FILE).read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".txt"):
                continue
            lines = archive.read(name).decode("utf-8").splitlines()
            text = "\n".join(line for line in map(str.strip, lines) if line)
            if report is not None:
                report.files += 1
            yield Document(text, source, str(tag_of_name(Path(name).stem)), f"{UDHR_FILE}!{name}")


def _roots() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(p) for p in dict.fromkeys([paths["stdlib"], paths["purelib"], paths["platlib"]])]


def _source_files(root: Path, *, shuffle: bool) -> list[SourceFile]:
    found: list[SourceFile] = []
    for directory, inside, names in os.walk(root):
        inside[:] = sorted(name for name in inside if name not in SKIPPED and name.isidentifier())
        parts = Path(directory).relative_to(root).parts
        for name in sorted(names):
            if name.endswith(".py"):
                dotted = ".".join([*parts, name.removesuffix(".py")]).removesuffix(".__init__")
                found.append(SourceFile(os.path.join(directory, name), dotted))  # noqa: PTH118
    return sorted(found, key=_hash_of_module) if shuffle else found


def _hash_of_module(file: SourceFile) -> str:
    return hashlib.sha256(file.module.encode("utf-8", "surrogateescape")).hexdigest()


def _join(parts: _Parts, seen: set[bytes]) -> str:
    kept: list[str] = []
    for heading, doc in parts:
        mark = hashlib.blake2b(doc.encode("utf-8"), digest_size=12).digest()
        if mark not in seen:
            seen.add(mark)
            kept.append(f"{heading}\n\n{doc}")
    return "\n\n\n".join(kept)


def _parse(files: list[SourceFile], processes: int) -> Generator[tuple[SourceFile, _Answer], None, None]:
    """Documentation of each file in their order, worked out by `processes` workers in turn."""
    if processes == 0:
        for file in files:
            yield file, docstring_worker.module_documentation(file.path, file.module)
        return
    batches = deque(files[i : i + _BATCH] for i in range(0, len(files), _BATCH))
    asked: deque[tuple[subprocess.Popen[bytes], list[SourceFile]]] = deque()
    with ExitStack() as stack:
        command = [sys.executable, "-I", "-S", docstring_worker.__file__]
        workers = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(processes)
        ]
        for worker in workers:
            stack.callback(_stop, worker)
        for worker in workers * 2:  # one batch in work and one waiting, each short enough for the pipe
            if batches:
                asked.append((worker, _ask(worker, batches.popleft())))
        while asked:
            worker, batch = asked.popleft()
            assert worker.stdout is not None
            yield from zip(batch, _answer(worker.stdout.readline(), batch), strict=True)
            if batches:
                asked.append((worker, _ask(worker, batches.popleft())))


def _answer(line: bytes, batch: list[SourceFile]) -> list[_Answer]:
    if not line.endswith(b"\n"):  # the worker died, for want of memory perhaps: do its work here
        return [docstring_worker.module_documentation(file.path, file.module) for file in batch]
    return [([(heading, doc) for heading, doc in parts], fault) for parts, fault in json.loads(line)]


def _stop(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # a request that it did not live to take
        worker.stdin.close()


def _ask(worker: subprocess.Popen[bytes], batch: list[SourceFile]) -> list[SourceFile]:
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its answer will be missing, which is noticed there
        worker.stdin.write(json.dumps(batch).encode("ascii") + b"\n")
        worker.stdin.flush()
    return batch
