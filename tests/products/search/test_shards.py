"""Shards: the same results as one index, and what is left where one of them is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mainspring.errors import UsageError
from mainspring.products.search import Answer, Document, Index
from mainspring.products.search.bm25 import Match, Statistics, summed, understated
from mainspring.products.search.results import Results
from mainspring.products.search.shards import IndexShard, LostShardError, ShardedIndex, shard_of, split
from support.hashed_words import HashedWords

WORDS = [
    f"{a}{b}" for a in ("spr", "riv", "wat", "sto", "ener", "met") for b in ("ing", "er", "ch", "al", "gy")
]
SHARDS = 3
QUERIES = [
    "spring water energy",
    "river river metal",
    "what is a watch?",
    '"metal energy" river',
    "+watch stoal",
    'spring -watch "storing"',
    "enerch",
    "zzz",
    "",
]


def documents() -> list[Document]:
    """Uneven ones: long and short, titles here and there, rare words in a few shards only, two languages."""
    rng = random.Random(0)
    made = []
    for number in range(150):
        words = rng.choices(WORDS, weights=range(1, len(WORDS) + 1), k=rng.choice([4, 30, 90, 250]))
        text = " ".join(words[:12]) + ". " + " ".join(words[12:])
        title = " ".join(rng.sample(WORDS, 2)) if number % 3 else ""
        fields = {"year": 1900 + number % 10}
        made.append(
            Document(f"d{number}", text, title, language="de" if number % 7 == 0 else "en", fields=fields)
        )
    return made


class FirstSentence:
    """Answers with the first sentence of each passage."""

    def answers(self, question, passages, documents, limit):  # type: ignore[no-untyped-def]
        found = zip(passages, documents, strict=True)
        return [Answer(p.text.split(".")[0], d.key, p.start, 0.5) for p, d in found][:limit]


class Failing(IndexShard):
    """A shard that can be lost."""

    lost = False

    def _refuse(self) -> None:
        if self.lost:
            raise LostShardError("it is gone")

    def tell(self):  # type: ignore[no-untyped-def]
        self._refuse()
        return super().tell()

    def lists(self, wanted, statistics):  # type: ignore[no-untyped-def]
        self._refuse()
        return super().lists(wanted, statistics)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    folder = tmp_path_factory.mktemp("whole") / "i"
    with Index.create(folder, encoder=HashedWords()) as index:
        index.answerer = FirstSentence()
        index.add(documents())
        yield index


@pytest.fixture(scope="module")
def shards(whole: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Index]]:
    folders = split(whole, tmp_path_factory.mktemp("shards") / "s", SHARDS)
    opened = [Index.open(folder, encoder=HashedWords()) for folder in folders]
    yield opened
    for index in opened:
        index.close()


@pytest.fixture
def sharded(whole: Index, shards: list[Index]) -> Iterator[ShardedIndex]:
    made = ShardedIndex({str(i): Failing(index) for i, index in enumerate(shards)}, whole.models())
    yield made
    made.close()


def same(one: Results, many: Results) -> None:
    assert [hit.key for hit in many.hits] == [hit.key for hit in one.hits]
    for a, b in zip(one.hits, many.hits, strict=True):
        assert b.score == pytest.approx(a.score, rel=1e-5)
        assert (b.relevance is None) == (a.relevance is None)
        assert b.relevance is None or b.relevance == pytest.approx(a.relevance, rel=1e-4)
        assert (b.title, b.language, b.fields, b.captions) == (a.title, a.language, a.fields, a.captions)
    assert (many.answers, many.count, many.missing) == (one.answers, one.count, one.missing)


@pytest.mark.parametrize("semantic", [True, False])
@pytest.mark.parametrize("query", QUERIES)
def test_results_are_those_of_one_index(
    whole: Index, sharded: ShardedIndex, query: str, semantic: bool
) -> None:
    options = {"top": 60, "answers": 2, "semantic": semantic}
    one = whole.search(query, **options)  # type: ignore[arg-type]
    many = sharded.search(query, **options)  # type: ignore[arg-type]
    same(one, many)
    assert many.lost == ()


def test_filters_and_pages(whole: Index, sharded: ShardedIndex) -> None:
    for options in ({"filters": {"year": [1903, 1905]}}, {"top": 5, "skip": 7}, {"captions": False}):
        same(whole.search("river energy", **options), sharded.search("river energy", **options))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="top = -1"):
        sharded.search("x", top=-1)


def test_a_single_list_by_words_is_exact_however_short(whole: Index, shards: list[Index]) -> None:
    """What is left out of a shard's hits could not have been among the best."""
    query, languages = "spring water energy metal", ["en", "de"]
    parts = [index.snapshot().lexical for index in shards]
    statistics = summed(part.statistics(query, languages) for part in parts)
    assert statistics.passages == whole.snapshot().lexical.passages
    for limit in (1, 3, 10, 40):
        hits = [
            h.score for part in parts for h in part.search_by(query, limit, statistics, languages=languages)
        ]
        best = whole.snapshot().lexical.search(query, limit, languages=languages)
        assert sorted(hits, reverse=True)[:limit] == pytest.approx([h.score for h in best], rel=1e-5)


def test_statistics_add_up() -> None:
    parts = [
        Statistics(10, {"text": 100}, {("text", "a"): 3}),
        Statistics(30, {"text": 900, "title": 60}, {("text", "a"): 1, ("text", "b"): 2}),
    ]
    both = summed(parts)
    assert both == Statistics(40, {"text": 1000, "title": 60}, {("text", "a"): 4, ("text", "b"): 2})
    assert both.average("title") == 1.5
    assert both.rarity("text", "nowhere") == 0
    for length in (1, 10, 400):
        match = Match("text", ("a",), 1.0, 2.0, length)
        for part in parts:  # with the part's lengths and the whole's rarity
            local = both._replace(tokens={"text": part.average("text") * both.passages})
            assert match.score(both) <= match.score(local) * understated(part, both) * (1 + 1e-9)


def test_a_lost_shard_is_named_and_comes_back(whole: Index, shards: list[Index]) -> None:
    held = [Failing(index) for index in shards]
    searched = ShardedIndex({f"shard {i}": shard for i, shard in enumerate(held)}, whole.models())
    query = "river energy"
    every = [hit.key for hit in whole.search(query, top=200).hits]
    held[1].lost = True
    partial = searched.search(query, top=200)
    assert partial.lost == ("shard 1",)
    assert {hit.key for hit in partial.hits} == {key for key in every if shard_of(key, SHARDS) != 1}
    held[1].lost = False
    same(whole.search(query, top=200), searched.search(query, top=200))
    for shard in held:
        shard.lost = True
    with pytest.raises(LostShardError, match="none of 3 shards answers"):
        searched.search(query)
    searched.close()


def test_a_split_holds_each_document_once(whole: Index, shards: Sequence[Index]) -> None:
    counts = [index.store.counts() for index in shards]
    for name in ("documents", "passages", "encoded"):
        assert sum(count[name] for count in counts) == whole.store.counts()[name]
    for number, index in enumerate(shards):
        assert {shard_of(key, SHARDS) for key in index.store.keys()} == {number}  # noqa: SIM118
        key = index.store.keys(limit=1)[0]
        assert index.text(key) == whole.text(key)


def test_a_split_refuses(whole: Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 shards"):
        split(whole, tmp_path / "s", 0)
