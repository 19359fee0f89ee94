"""The embedded corpora: deterministic, clean, without importing what they read."""

import sys
from itertools import islice
from pathlib import Path

import pytest

from mainspring.data import (
    Document,
    ReadReport,
    SourceConfig,
    docstring_documents,
    docstring_worker,
    embedded,
    read,
    udhr_documents,
)

MODULE = '''"""Arithmetic of the
    second kind, explained at some length."""
import nowhere_to_be_found

class Number(int, metaclass=Odd):
    """A number that knows what it is, and says so."""
    def add(self, other: int = 3, *args, key="v", **kw) -> "Number":
        """Add another number.

            Indented example
        as the end shows.
        """
    async def later(self): "Wait for the number."
    def undocumented(self): pass

def twice(x): r"""Two \\d times."""
'''


def write(root: Path, name: str, text: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_document_is_signatures_and_docstrings(tmp_path: Path) -> None:
    write(tmp_path, "package/sums.py", MODULE)
    found = list(docstring_documents(roots=[tmp_path], processes=0))
    assert [(d.source, d.lang, d.id) for d in found] == [("docstrings", "en", "package.sums")]
    assert found[0].text.split("\n\n\n") == [
        "module package.sums\n\nArithmetic of the\nsecond kind, explained at some length.",
        "class Number(int):\n\nA number that knows what it is, and says so.",
        "def Number.add(self, other: int=3, *args, key='v', **kw) -> 'Number':\n\n"
        "Add another number.\n\n    Indented example\nas the end shows.",
        "async def Number.later(self):\n\nWait for the number.",
        "def twice(x):\n\nTwo \\d times.",
    ]


def test_broken_files_are_reported_and_the_rest_kept(tmp_path: Path) -> None:
    write(tmp_path, "a.py", '"""' + "Long enough to be worth parsing. " * 3 + '"""\ndef broken(:')
    write(tmp_path, "b.py", b'"""' + b"Not UTF-8 \xff and long enough for it. " * 3 + b'"""')
    write(tmp_path, "c.py", MODULE)
    write(tmp_path, "d.py", '"""' + "A surrogate \\ud800 that has no bytes. " * 8 + '"""')
    report = ReadReport()
    found = list(docstring_documents(roots=[tmp_path], processes=0, report=report))
    assert [d.id for d in found] == ["c"]
    assert {Path(f.file).name for f in report.examples} == {"a.py", "b.py", "d.py"}
    assert (report.files, report.faults) == (4, 3)


def test_tests_and_repeats_are_left_out(tmp_path: Path) -> None:
    for name in ("a.py", "copy.py", "tests/t.py", "idlelib/i.py", "not-a-package/x.py", "__init__.py"):
        write(tmp_path, name, MODULE)
    assert [d.id for d in docstring_documents(roots=[tmp_path], processes=0)] == ["__init__"]


def test_processes_give_what_one_gives(tmp_path: Path) -> None:
    for i in range(150):
        write(tmp_path, f"p{i % 7}/m{i}.py", MODULE.replace("number", f"number {i}"))
    alone = list(docstring_documents(roots=[tmp_path], processes=0))
    assert len(alone) == 150
    assert list(docstring_documents(roots=[tmp_path], processes=2)) == alone
    assert list(islice(docstring_documents(roots=[tmp_path], processes=2), 5)) == alone[:5]


def test_a_dead_process_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(150):
        write(tmp_path, f"m{i}.py", MODULE.replace("number", f"number {i}"))
    broken = tmp_path / "broken_worker"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr(embedded.docstring_worker, "__file__", str(broken))
    assert len(list(docstring_documents(roots=[tmp_path], processes=2))) == 150


def test_installed_documentation() -> None:
    before = set(sys.modules)
    documents = list(docstring_documents(limit_bytes=300_000))
    size = sum(len(d.text.encode()) for d in documents)
    assert 300_000 <= size < 900_000
    assert documents == list(docstring_documents(limit_bytes=300_000))
    assert len({d.text for d in documents}) == len(documents)
    assert len({d.id for d in documents}) == len(documents)
    assert not [
        name for name in set(sys.modules) - before if name.partition(".")[0] in ("antigravity", "this")
    ]
    assert any(d.id == "argparse" for d in documents)


def test_files_with_little_documentation_are_not_parsed(tmp_path: Path) -> None:
    write(tmp_path, "a.py", '"""Short but there, at least forty letters of it."""\n' + "x = 1\n" * 5000)
    assert docstring_worker.module_documentation(str(tmp_path / "a.py"), "a") == ([], None)


def test_declaration_in_every_language() -> None:
    documents = list(udhr_documents())
    tags = [d.lang for d in documents]
    assert len(documents) == len(set(tags)) == 388
    assert 5_000_000 < sum(len(d.text.encode()) for d in documents) < 6_000_000
    english = next(d for d in documents if d.lang == "en")
    assert english.text.startswith("Universal Declaration of Human Rights\nPreamble\nWhereas recognition")
    assert all(d.text == d.text.strip() and "\n\n" not in d.text for d in documents)
    assert {"fr", "zh-Hans", "zh-Hant", "sr-Cyrl", "sr-Latn", "pt-BR"} <= set(tags)


def test_notice_states_the_file_that_is_shipped() -> None:
    import hashlib

    folder = Path(embedded.__file__).parent
    digest = hashlib.sha256((folder / "udhr2.zip").read_bytes()).hexdigest()
    assert digest in (folder / "NOTICE.txt").read_text()


def test_as_sources() -> None:
    udhr = list(read(SourceConfig(name="rights", path="embedded:udhr")))
    assert isinstance(udhr[0], Document)
    assert (len(udhr), udhr[0].source) == (388, "rights")
    docs = list(read(SourceConfig(name="d", path="embedded:docstrings", limit_bytes=50_000)))
    assert sum(len(d.text.encode()) for d in docs) >= 50_000
