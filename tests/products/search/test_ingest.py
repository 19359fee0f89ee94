"""Sources into an index: new, changed and gone."""

from pathlib import Path

import pytest

from mainspring.errors import DataError
from mainspring.products.search import Index
from mainspring.products.search.ingest import Progress, ingest
from support.hashed_words import HashedWords


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    made.mkdir()
    (made / "a.txt").write_text("alpha is the first letter")
    (made / "b.md").write_text("# Beta\n\nbeta is the second letter")
    (made / "rows.jsonl").write_text('{"id": "r1", "text": "row one"}\n{"id": "r2", "text": "row two"}\n')
    (made / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (made / ".hidden.txt").write_text("hidden")
    return made


def test_only_what_changed_is_done_again(folder: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", encoder=HashedWords())
    told: list[Progress] = []
    done = ingest(index, [str(folder)], progress=told.append)
    assert (done.added, done.encoded, done.report.faults) == (4, 4, 1)
    assert "bad.txt" in done.report.examples[0].file
    assert [p.stage for p in told] == ["reading"] * 4 + ["encoding"]
    assert (told[3].done, told[3].total) == (4, 4)
    assert told[3].eta == pytest.approx(0)
    again = ingest(index, [str(folder)])
    assert (again.added, again.replaced, again.deleted, again.unchanged, again.encoded) == (0, 0, 0, 3, 0)

    (folder / "a.txt").write_text("alpha was changed")
    (folder / "b.md").unlink()
    (folder / "rows.jsonl").write_text('{"id": "r1", "text": "row one"}\n{"id": "r3", "text": "row three"}\n')
    third = ingest(index, [str(folder)])
    assert (third.added, third.replaced, third.unchanged, third.deleted) == (1, 1, 1, 2)
    assert sorted(index.store.keys()) == sorted([str((folder / "a.txt").resolve()), "r1", "r3"])
    assert index.text("r2") is None


def test_other_folders_are_left_alone(folder: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", encoder=None)
    ingest(index, [str(folder)])
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.txt").write_text("gamma")
    done = ingest(index, [str(other)])
    assert (done.added, done.deleted) == (1, 0)
    (folder / "a.txt").unlink()
    assert ingest(index, [str(other / "c.txt")]).deleted == 0
    assert ingest(index, [str(folder)]).deleted == 1
    with pytest.raises(DataError, match="no such file"):
        ingest(index, [str(tmp_path / "none")])


def test_a_file_that_cannot_be_read_any_more_keeps_its_documents(folder: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", encoder=None)
    ingest(index, [str(folder)])
    (folder / "a.txt").write_bytes(b"\xff\xfe\x00")
    done = ingest(index, [str(folder)])
    assert (done.deleted, done.report.faults) == (0, 2)
    assert index.search("alpha").hits


def test_the_installed_packages_are_the_default(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", encoder=None)
    done = ingest(index, limit_bytes=200_000)
    assert done.added > 10
    again = ingest(index, limit_bytes=200_000)
    assert (again.added, again.unchanged) == (0, done.added)
    assert index.search("return the absolute value").hits
    assert index.search("module", filters={"package": index.search("module").hits[0].fields["package"]}).hits
