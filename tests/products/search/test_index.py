"""An index through its Python face."""

import threading
from pathlib import Path

import numpy as np
import pytest

from mainspring.errors import SearchIndexError, UsageError
from mainspring.products.search import Answer, Document, Evidence, Index
from support.hashed_words import HashedWords

DOCUMENTS = [
    Document(
        "watch",
        "A mainspring drives a watch. It is a coil of steel. Winding stores energy in it.",
        "Mainspring",
    ),
    Document("river", "Rivers run to the sea. Water flows downhill, which is gravity's doing.", "Rivers"),
    Document("tokyo", "东京是日本的首都。大阪也是一个大城市。", "日本", language="zh"),
    Document(
        "feder",
        "Die Feder eines Uhrwerks speichert die Energie, die das Werk antreibt.",
        "Feder",
        fields={"year": 1900},
    ),
    Document("empty", "", "Only a title about volcanoes"),
]
SYNONYMS = {"auto": "car", "automobile": "car"}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index.create(tmp_path / "i", encoder=HashedWords(synonyms=SYNONYMS))
    made.add(DOCUMENTS)
    return made


def keys(index: Index, query: str, **options: object) -> list[str]:
    return [hit.key for hit in index.search(query, **options).hits]  # type: ignore[arg-type]


def test_what_is_added_is_found_and_what_is_deleted_is_not(index: Index) -> None:
    assert keys(index, "what drives a watch")[0] == "watch"
    assert keys(index, "日本首都")[0] == "tokyo"
    assert keys(index, "Uhrwerk Energie")[0] == "feder"
    assert keys(index, "volcanoes")[0] == "empty"
    assert index.delete(["watch", "unknown"]) == 1
    assert "watch" not in keys(index, "what drives a watch", top=50)
    assert index.text("watch") is None
    assert index.text("river") == DOCUMENTS[1].text
    index.add([Document("river", "Now about mountains.")])
    assert "river" not in keys(index, "sea water", semantic=False)
    assert keys(index, "mountains", semantic=False) == ["river"]
    assert index.store.counts() == {"documents": 4, "passages": 4, "encoded": 4}


def test_adding_the_same_again_changes_nothing(index: Index) -> None:
    before = index.store.generation
    changed = index.add(DOCUMENTS)
    assert (changed.unchanged, changed.added, changed.replaced) == (5, 0, 0)
    assert index.store.generation == before
    changed = index.add([Document("a", "one"), Document("a", "two")])
    assert (changed.added, index.text("a")) == (1, "two")


def test_meaning_finds_what_words_do_not(index: Index) -> None:
    index.add([Document("cars", "An automobile has four wheels.")])
    assert "cars" not in keys(index, "auto", semantic=False)
    found = index.search("auto")
    assert found.hits[0].key == "cars"
    caption = found.hits[0].captions[0]
    assert "automobile" in [caption.text[a:b] for a, b in caption.highlights]  # no word of the query's


def test_relevance_falls_from_four_to_zero_and_captions_are_verbatim(index: Index) -> None:
    found = index.search("energy of a mainspring that drives a watch", top=5)
    relevance = [hit.relevance for hit in found.hits]
    assert all(r is not None and 0 <= r <= 4 for r in relevance)
    assert relevance == sorted(relevance, reverse=True)  # type: ignore[type-var]
    for hit in found.hits:
        for caption in hit.captions:
            text = index.text(hit.key) or hit.title
            assert text[caption.start : caption.start + len(caption.text)] == caption.text
    marked = found.hits[0].captions[0].marked("[", "]")
    assert "[" in marked
    assert marked.replace("[", "").replace("]", "") == found.hits[0].captions[0].text


def test_pages_and_filters(index: Index) -> None:
    every = keys(index, "energy watch sea", top=5)
    assert keys(index, "energy watch sea", top=2, skip=2) == every[2:4]
    assert keys(index, "energy", filters={"year": 1900}) == ["feder"]
    assert keys(index, "energy", filters={"language": ["zh", "de"]}, top=5) != []
    assert index.search("x", top=0).hits == []
    assert index.search("energy", captions=False).hits[0].captions == ()


def test_fifty_are_ranked_however_few_are_wanted(tmp_path: Path) -> None:
    """The best by meaning lies deep in recall: it comes first even where one document is asked for."""
    seen: list[int] = []

    class Last:
        def relevance(self, query: str, texts: list[str], evidence: list[Evidence]) -> np.ndarray:
            seen.append(len(texts))
            return np.asarray([4.0 if "needle" in text else 1.0 for text in texts])

    index = Index.create(tmp_path / "i", encoder=HashedWords())
    index.ranker = Last()  # type: ignore[assignment]
    hay = [Document(str(i), f"spring spring number {i}") for i in range(80)]
    index.add([*hay, Document("needle", "one needle of spring amid many other words of straw and hay")])
    first = index.search("spring", top=1).hits[0]
    assert seen == [50]
    assert (first.key, first.relevance) == ("needle", 4.0) or first.relevance == 1.0
    many = index.search("spring", top=70).hits
    assert [hit.relevance is None for hit in many] == [False] * 50 + [True] * 20


def test_answers_are_for_questions(index: Index) -> None:
    assert index.search("what drives a watch?", answers=3).answers is None  # nothing here answers

    class First:
        def answers(self, question, passages, documents, limit):  # type: ignore[no-untyped-def]
            text = passages[0].text.split(".")[0]
            return [Answer(text, documents[0].key, passages[0].start, 0.9)][:limit]

    index.answerer = First()
    found = index.search("what drives a watch?", answers=3)
    assert found.answers == [Answer("A mainspring drives a watch", "watch", 0, 0.9)]
    assert index.search("mainspring watch", answers=3).answers == []
    assert index.search("what drives a watch?").answers is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top": -1}, "top = -1"),
        ({"top": 1001}, "0 to 1000"),
        ({"skip": -1}, "skip"),
        ({"answers": 11}, "0 to 10"),
    ],
)
def test_impossible_numbers_are_refused(index: Index, options: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        index.search("x", **options)  # type: ignore[arg-type]


def test_documents_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="key is empty"):
        Document(" ", "x")
    with pytest.raises(UsageError, match="'text'"):
        Document("a", "x", fields={"text": 1})


def test_reopening(index: Index, tmp_path: Path) -> None:
    index.close()
    again = Index.open(tmp_path / "i", encoder=HashedWords(synonyms=SYNONYMS))
    assert keys(again, "what drives a watch")[0] == "watch"
    with pytest.raises(SearchIndexError, match="is here already"):
        Index.create(tmp_path / "i")
    with pytest.raises(SearchIndexError, match="no index is here"):
        Index.open(tmp_path / "nothing")
    other = Index.open(tmp_path / "i", encoder=HashedWords(name="other"))
    with pytest.raises(UsageError, match=r"vectors of 'hashed'.*'other'"):
        other.search("x")


def test_words_alone_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    alone = Index.create(tmp_path / "alone", encoder=None)
    alone.add(DOCUMENTS)
    found = alone.search("mainspring")
    assert found.hits[0].relevance is None
    assert "without an encoder" in (found.missing or "")
    assert alone.search("mainspring", semantic=False).missing is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    index = Index.create(tmp_path / "default")
    index.add(DOCUMENTS)
    assert "mainspring[search]" in (index.search("mainspring").missing or "")


def test_vectors_may_follow_later_and_segments_merge(tmp_path: Path) -> None:
    encoder = HashedWords()
    index = Index.create(tmp_path / "i", encoder=encoder)
    for i in range(40):
        index.add([Document(str(i), f"text about thing{i}")])
    assert len(index.store.segments()) < 16
    assert keys(index, "thing17")[0] == "17"
    assert encoder.texts >= 40
    index.add([Document("late", "no vector yet for zebra")], encode=False)
    assert index.store.counts()["encoded"] == 40
    assert keys(index, "zebra")[0] == "late"
    told: list[int] = []
    assert index.encode(told.append) == 1
    assert told == [1]


def test_threads_search_while_one_writes(index: Index) -> None:
    stop = threading.Event()
    faults: list[BaseException] = []

    def look() -> None:
        try:
            while not stop.is_set():
                # Replaced over and over, it is found all the time.
                assert "watch" in keys(index, "mainspring watch", top=3, captions=False)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(15):
        index.add([Document("watch", f"A mainspring drives a watch, edition {i}.", "Mainspring")])
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []
