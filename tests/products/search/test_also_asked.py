"""People Also Ask: answered back, each once, in clusters, and made in several goes."""

import json
from pathlib import Path

import numpy as np
import pytest

from mainspring.errors import SearchIndexError, UsageError
from mainspring.finetune.text_reader import FoundSpan, ReadText
from mainspring.products.search import Document, Index
from mainspring.products.search.also_asked import FILE, JOURNAL, VECTORS, AlsoAsked, clustered, make
from mainspring.products.search.heads import Heads, HeadsSettings
from support.hashed_words import HashedWords

DOCUMENTS = [
    Document("spring", "A mainspring is a coil of steel that drives a watch. It is wound by hand."),
    Document("again", "A mainspring is a coil of steel that drives every watch."),
    Document("crown", "Use the crown to set the hands of a watch. The crown is used to wind the mainspring."),
    Document("wrong", "A wrong answer is an answer that nobody finds."),
    Document("river", "A river is a stream of water that runs to the sea."),
]


class Echo:
    """Finds the first word of a text's best sentence, but nothing where a text is wrong."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def read(self, pairs):  # type: ignore[no-untyped-def]
        self.pairs += pairs
        found = []
        for question, text in pairs:
            at = text.find("The crown") if "used for" in question else 0
            score = -3.0 if "wrong" in text else 3.0
            span = FoundSpan(at, at + 4, score)
            found.append(ReadText(score, 0.0, (span,), np.zeros((0, 2), np.int64), np.zeros(0, np.float32)))
        return found


class WithHeads(Index):
    """An index whose heads a test writes."""

    @property
    def heads(self) -> Heads | None:
        return self.written

    written: Heads | None = None


@pytest.fixture
def index(tmp_path: Path) -> WithHeads:
    made = WithHeads.create(tmp_path / "i", encoder=HashedWords(dim=4096))
    made.add(DOCUMENTS)
    made.written = Heads(HeadsSettings(encoder="hashed"), Echo())  # type: ignore[arg-type]
    return made


def test_what_is_answered_back_is_kept_once(index: WithHeads) -> None:
    done = make(index)
    assert done == (5, 6, 5, 4)  # two ask for a mainspring; the wrong one is not answered back
    rows = json.loads((index.folder / FILE).read_text())
    assert [r["question"] for r in rows] == [
        "What is a mainspring?",
        "How do I set the hands of a watch?",
        "What is the crown used for?",
        "What is a river?",
    ]
    for row in rows:
        assert row["answer"] in (index.text(row["key"]) or "")


def test_a_query_gets_the_nearest_but_not_itself(index: WithHeads) -> None:
    make(index)
    asked = AlsoAsked.open(index)
    assert asked is not None and len(asked) == 4
    found = asked.questions("what is a mainspring of a watch?", 4)
    assert found[0][0] == "What is a mainspring?"
    assert found[0][1] == "A mainspring is a coil of steel that drives a watch." and found[0][2] == "spring"
    assert "What is a mainspring?" not in [q for q, _, _ in asked.questions("What is a mainspring?", 4)]
    assert asked.questions("volcanoes", 4) == [] == asked.questions(" ", 4)
    assert len(asked.questions("what is the crown river used for", 1)) == 1
    index.delete(["spring"])
    assert "What is a mainspring?" not in [
        q for q, _, _ in asked.questions("what is a mainspring of a watch?", 4)
    ]


def test_making_goes_on_where_it_was_stopped(index: WithHeads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainspring.products.search.also_asked._AT_ONCE", 2)

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == 5
        if done == 4:
            raise Stopped

    with pytest.raises(Stopped):
        make(index, progress=stop)
    assert AlsoAsked.open(index) is None
    with (index.folder / JOURNAL).open("a") as file:
        file.write('[5, 1, [{"quest')  # as a process that died while it wrote leaves it
    assert index.written is not None
    reader: Echo = index.written.reader  # type: ignore[assignment]
    before = len(reader.pairs)
    assert make(index) == (5, 6, 5, 4)
    assert len(reader.pairs) - before == 1
    assert make(index) == (5, 6, 5, 4) and len(reader.pairs) - before == 1
    assert make(index, fresh=True, most=1) == (1, 1, 1, 1)


def test_clusters_are_of_what_is_alike() -> None:
    angles = np.asarray([0.0, 2.0, 40.0, 90.0, 100.0]) * np.pi / 180  # cosine .88 is 28 degrees, .6 is 53
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    rows = [{"question": str(i), "answer": "", "key": ""} for i in range(5)]
    places, found = clustered(rows, vectors)
    assert places == [0, 2, 3]
    assert [(q.question, q.cluster) for q in found] == [("0", 0), ("2", 0), ("3", 1)]


def test_what_lacks_is_said(index: WithHeads, tmp_path: Path) -> None:
    index.written = None
    with pytest.raises(UsageError, match="no heads are trained"):
        make(index)
    with Index.create(tmp_path / "words", encoder=None) as words:
        words.add(DOCUMENTS)
        with pytest.raises(UsageError, match="without an encoder"):
            make(words)
        assert AlsoAsked.open(words) is None


@pytest.mark.parametrize("file", [FILE, VECTORS])
def test_damaged_questions_are_named(index: WithHeads, file: str) -> None:
    make(index)
    (index.folder / file).write_bytes(b"[{}")
    with pytest.raises(SearchIndexError, match="make it anew: mainspring search questions"):
        AlsoAsked.open(index)
