"""Suggestions from queries, titles and a model, and what is remembered."""

import threading
from pathlib import Path

import pytest

from mainspring.errors import DiskError
from mainspring.products.suggest import QueryLog, Suggester, Suggestion


class Model:
    def complete(self, typed: str, limit: int) -> list[Suggestion]:
        return [Suggestion(f"{typed} of a model {i}", 1 / (i + 1), "phrase") for i in range(9)][:limit]


def test_queries_come_before_titles_and_titles_before_phrases() -> None:
    suggester = Suggester({"spring water": 3, "spring": 9}, ["Springs and watches", "Spring water"], Model())
    found = suggester.suggest("spring", 4)
    assert [(s.text, s.kind) for s in found] == [
        ("spring water", "query"),
        ("Springs and watches", "title"),
        ("spring of a model 0", "phrase"),
        ("spring of a model 1", "phrase"),
    ]
    assert suggester.suggest("x" * 500) == []
    assert suggester.suggest("", 3) == [] or suggester.suggest("", 3)[0].kind == "phrase"


def test_the_last_word_is_finished() -> None:
    suggester = Suggester({"mainspring": 5}, ["Mainland winters", "Winter of mainframes"])
    assert suggester.autocomplete("cold main", 2) == [
        ("mainspring", "cold mainspring"),
        ("mainframes", "cold mainframes"),
    ]
    assert suggester.autocomplete("main ", 2) == []
    assert suggester.autocomplete("", 2) == []
    suggester.update({}, ["Mainz"])
    assert suggester.autocomplete("main", 2) == [("mainz", "mainz")]


def test_queries_are_remembered_over_processes_and_rare_ones_kept_back(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "q.jsonl")
    for query in ("Spring  water", "spring water", "my secret", " ", "x" * 999, "line\nbreak"):
        log.add(query)
    with (tmp_path / "q.jsonl").open("a") as file:
        file.write('"torn li')
    again = QueryLog(tmp_path / "q.jsonl")
    assert again.counts() == {"spring water": 2, "my secret": 1, "line break": 1}
    assert again.counts(2) == {"spring water": 2}
    assert (tmp_path / "q.jsonl").stat().st_mode & 0o077 == 0


def test_many_may_add_at_once(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "q.jsonl")
    threads = [threading.Thread(target=lambda: [log.add("same") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.counts() == QueryLog(tmp_path / "q.jsonl").counts() == {"same": 200}


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "none" / "q.jsonl")
    with pytest.raises(DiskError, match="past queries cannot be kept"):
        log.add("x")
