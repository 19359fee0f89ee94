"""What goes wrong: killed processes, two writers, full disks, damaged files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring.errors import DiskError, SearchIndexError
from mainspring.products.search import Document, Index, repair
from support.hashed_words import HashedWords

HERE = Path(__file__).parent


def documents(count: int, words: int = 40) -> list[Document]:
    return [
        Document(f"d{i}", f"unique{i} " + "some common words " * (words // 3), f"Title {i}")
        for i in range(count)
    ]


@pytest.mark.parametrize("rounds", [6, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path: Path, rounds: int) -> None:
    command = [sys.executable, str(HERE / "kill_rounds.py"), str(tmp_path / "i"), str(rounds), "7"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=40 * rounds)
    assert ran.returncode == 0, ran.stderr
    reports = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(reports) == rounds
    for report in reports:
        wrong = {name: report.get(name, "no report") for name in ("lost", "risen", "unfound", "near")}
        assert wrong == {"lost": [], "risen": [], "unfound": [], "near": []}, ran.stderr
        assert report["status"] == 0
        assert report["agree"], report
    assert reports[-1]["live"] >= rounds * 4


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    first = Index.create(tmp_path / "i", encoder=None)
    first.add(documents(3))
    second = Index.open(tmp_path / "i")
    with pytest.raises(SearchIndexError, match=f"another process \\(number {os.getpid()}\\) is writing"):
        second.add(documents(4))
    assert len(second.search("common words").hits) == 3
    first.close()
    assert second.add(documents(4)).added == 1


def test_a_commit_that_the_lexical_index_missed_is_caught_up(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", encoder=None)
    index.add(documents(3))

    def dies(deleted: object, added: object, again: bool) -> None:
        raise KeyboardInterrupt

    index._lexical.write = dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        index.add(documents(5))
    assert index.text("d4") is not None
    index.close()
    again = Index.open(tmp_path / "i")
    assert [h.key for h in again.search("unique4").hits] == ["d4"]


@pytest.mark.parametrize("part", ["lexical", "dense", "missing", "table"])
def test_damage_is_named_and_mended(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "i"
    encoder = HashedWords(64)
    index = Index.create(folder, encoder=encoder)
    index.add(documents(30))
    index.close()
    names = sorted(index.store.files())
    wanted = next(n for n in names if n.startswith("dense") if n.endswith("sentences.npy"))
    if part != "dense":
        wanted = next(n for n in names if n.startswith("lexical") and n.endswith(".term"))
    if part == "table":
        wanted = "lexical/meta.json"
    path = folder / wanted
    if part == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content if part != "table" else b"{")
    with pytest.raises(SearchIndexError) as told:
        Index.open(folder, encoder=encoder)
    assert wanted in str(told.value)
    assert "search check" in str(told.value)
    assert [d.file for d in repair(folder)] == [wanted]
    mended = Index.open(folder, encoder=encoder)
    mended.encode()
    assert mended.damages() == []
    assert mended.store.counts() == {"documents": 30, "passages": 30, "encoded": 30}
    assert mended.search("unique17", top=1).hits[0].key == "d17"
    mended.close()
    assert repair(folder) == []


def test_a_damaged_store_says_that_the_sources_are_needed(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", encoder=None)
    index.add(documents(200))
    index.store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index.close()
    path = tmp_path / "i" / "store.sqlite"
    content = bytearray(path.read_bytes())
    content[8192:16384] = b"\x55" * 8192
    path.write_bytes(content)
    with pytest.raises(SearchIndexError, match=r"store\.sqlite.*index their sources"):
        Index.open(tmp_path / "i")
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(SearchIndexError, match=r"store\.sqlite.*not a database"):
        Index.open(tmp_path / "i")


def test_a_full_disk_is_said_and_costs_nothing_that_was_kept(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], capture_output=True
        ).returncode
    ):
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        index = Index.create(disk / "i", encoder=HashedWords(64))
        index.add(documents(20))
        kept = 20
        with pytest.raises(DiskError, match=r"disk is full .*free.*Make room"):
            while kept < 20_000:
                index.add(
                    [
                        Document(f"n{kept + i}", f"unique{kept + i} " + "and more words " * 60)
                        for i in range(100)
                    ]
                )
                kept += 100
        index.close()
        filler = disk / "i" / "lexical" / "none"
        assert not filler.exists()
        shutil.copytree(disk / "i", tmp_path / "moved")
    finally:
        subprocess.run(["umount", disk], check=True)
    again = Index.open(tmp_path / "moved", encoder=HashedWords(64))
    assert again.search("unique7", top=1).hits[0].key == "d7"
    assert again.store.counts()["documents"] >= kept
    if kept > 20:
        assert again.search(f"unique{kept - 1}", semantic=False, top=1).hits[0].key == f"n{kept - 1}"
    again.add(documents(1))
