"""The heads that come with the package, over the default encoder, and what is told where there are none."""

import json
import shutil
from pathlib import Path

import pytest

from mainspring.errors import UsageError, WeightsError
from mainspring.products.search import Document, Index, ModelEncoder, heads
from support.hashed_words import HashedWords

DOCUMENTS = [
    Document(
        "spring",
        "A mainspring is a coil of steel. It was invented by Peter Henlein in the early fifteenth century. "
        "Winding the crown stores energy in it.",
        "Mainspring",
        language="en",
    ),
    Document("river", "Rivers run to the sea. The Nile is 6,650 km long and flows through Egypt.", "Rivers"),
    Document("bread", "Bread is baked from flour, water and yeast in a hot oven.", "Bread"),
]


@pytest.fixture(scope="module")
def encoder() -> ModelEncoder:
    return ModelEncoder.load()


@pytest.fixture(scope="module")
def index(encoder: ModelEncoder, tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index.create(tmp_path_factory.mktemp("heads") / "i")
    made.add(DOCUMENTS)
    return made


def test_a_question_is_answered_word_for_word(index: Index) -> None:
    found = index.search("who invented the mainspring?", answers=3)
    assert found.answers
    best = found.answers[0]
    assert best.key == "spring" and "Peter Henlein" in best.text
    text = index.text("spring") or ""
    assert text[best.start : best.start + len(best.text)] == best.text
    short = best.text[best.highlights[0].start : best.highlights[0].stop]
    assert "Henlein" in short and 0 < best.score <= 1
    assert found.missing is None
    assert index.search("mainspring", answers=3).answers == []  # not a question


def test_relevance_is_from_zero_to_four_and_tells_right_from_wrong(index: Index) -> None:
    hits = index.search("how long is the Nile?", top=3).hits
    assert hits[0].key == "river"
    assert hits[0].relevance is not None and hits[-1].relevance is not None
    assert 4 >= hits[0].relevance > 2 > hits[-1].relevance >= 0


def test_what_is_shipped_says_where_it_is_from(encoder: ModelEncoder) -> None:
    folder = heads.shipped(encoder.name)
    assert folder is not None
    assert (folder / heads.WEIGHTS).stat().st_size < 4 << 20
    settings = heads.load(folder, encoder).settings
    assert settings.recipe and settings.metrics and settings.data
    for source in settings.data:
        assert source["licence"] and "NC" not in source["licence"] and "?" not in source["licence"]


def test_heads_that_do_not_fit_are_refused_by_name(encoder: ModelEncoder, tmp_path: Path) -> None:
    shipped = heads.shipped(encoder.name)
    assert shipped is not None
    folder = tmp_path / "heads"
    with pytest.raises(UsageError, match="no heads are here"):
        heads.load(folder, encoder)
    shutil.copytree(shipped, folder)
    (folder / heads.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="damaged"):
        heads.load(folder, encoder)
    values = json.loads((folder / heads.SETTINGS).read_text())
    (folder / heads.SETTINGS).write_text(json.dumps({**values, "encoder": "other"}))
    shutil.copy(shipped / heads.WEIGHTS, folder)
    with pytest.raises(UsageError, match="stand on the encoder 'other'"):
        heads.load(folder, encoder)
    with Index.create(tmp_path / "i", encoder=HashedWords()) as index:
        index.add(DOCUMENTS)
    with pytest.raises(UsageError, match="this index has 'hashed'"):
        Index.open(tmp_path / "i", encoder=HashedWords(), heads=shipped)


def test_without_heads_what_lacks_is_said_and_the_rest_works(tmp_path: Path) -> None:
    with Index.create(tmp_path / "i", encoder=HashedWords()) as index:
        index.add(DOCUMENTS)
        assert index.heads is None
        found = index.search("what is a mainspring?", answers=1)
        assert found.hits[0].key == "spring" and found.answers is None
        assert found.missing is not None and "no heads for the encoder 'hashed'" in found.missing
        assert index.search("what is a mainspring?").missing is None  # none were asked for
        assert index.search("mainspring", answers=1).missing is None


def test_heads_are_written_and_read_back(encoder: ModelEncoder, tmp_path: Path) -> None:
    from mainspring.finetune.reader import Reader, ReaderConfig

    reader = Reader(encoder.model, ReaderConfig(apart=5, rank=1, width=4), seed=3)
    settings = heads.HeadsSettings(encoder=encoder.name, reader=reader.config)
    heads.save(tmp_path / "h", reader, settings)
    again = heads.load(tmp_path / "h", encoder)
    assert again.settings == settings
    for name, value in again.reader.reader.verdict.state_dict().items():
        assert (value - reader.verdict.state_dict()[name]).abs().max() < 1e-3
