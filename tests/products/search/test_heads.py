"""Heads over the default encoder, and what is told where there are none."""

import json
import shutil
from pathlib import Path

import pytest

from mainspring.errors import UsageError, WeightsError
from mainspring.finetune.reader import Reader, ReaderConfig
from mainspring.products.search import Document, Index, ModelEncoder, heads
from mainspring.recipes.search.curves import AnswerCurve, VerdictCurve
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
def folder(encoder: ModelEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads that have learnt nothing, and show whatever they find."""
    made = tmp_path_factory.mktemp("untrained")
    reader = Reader(encoder.model, ReaderConfig(apart=5, rank=1, width=4), seed=3)
    settings = heads.HeadsSettings(
        encoder=encoder.name,
        reader=reader.config,
        answer=AnswerCurve(threshold=0.0),
        verdict=VerdictCurve(margin=0.0, weight=0.0),
    )
    heads.save(made, reader, settings)
    return made


def test_answers_are_word_for_word_and_for_questions_alone(folder: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "i") as index:
        index.add(DOCUMENTS)
    with Index.open(tmp_path / "i", heads=folder) as index:
        found = index.search("who invented the mainspring?", answers=3)
        assert found.answers and found.missing is None
        for answer in found.answers:
            text = index.text(answer.key) or ""
            assert text[answer.start : answer.start + len(answer.text)] == answer.text
            (mark,) = answer.highlights
            assert 0 <= mark.start < mark.stop <= len(answer.text)
        (verdict,) = index.search("is a mainspring of steel?", answers=3).answers or ()
        assert verdict.verdict is not None and verdict.text in (index.text(verdict.key) or "")
        assert index.search("mainspring", answers=3).answers == []
        for hit in found.hits:
            for caption in hit.captions:
                stops = [span.stop for span in caption.highlights]
                assert stops == sorted(stops) and all(stop <= len(caption.text) for stop in stops)


def test_heads_are_written_and_read_back(folder: Path, encoder: ModelEncoder) -> None:
    reader = Reader(encoder.model, ReaderConfig(apart=5, rank=1, width=4), seed=3)
    again = heads.load(folder, encoder)
    assert again.settings.answer.threshold == 0.0 and again.settings.reader == reader.config
    for name, value in again.reader.reader.verdict.state_dict().items():
        assert (value - reader.verdict.state_dict()[name]).abs().max() < 1e-3  # fp16


def test_heads_that_do_not_fit_are_refused_by_name(
    folder: Path, encoder: ModelEncoder, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no heads are here"):
        heads.load(tmp_path / "none", encoder)
    copy = tmp_path / "heads"
    shutil.copytree(folder, copy)
    (copy / heads.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="damaged"):
        heads.load(copy, encoder)
    shutil.copy(folder / heads.WEIGHTS, copy)
    values = json.loads((copy / heads.SETTINGS).read_text())
    (copy / heads.SETTINGS).write_text(json.dumps({**values, "encoder": "other"}))
    with pytest.raises(UsageError, match="stand on the encoder 'other'"):
        heads.load(copy, encoder)
    with Index.create(tmp_path / "i", encoder=HashedWords()) as index:
        index.add(DOCUMENTS)
    with pytest.raises(UsageError, match="this index has 'hashed'"):
        Index.open(tmp_path / "i", encoder=HashedWords(), heads=folder)


def test_the_package_has_heads_for_an_encoder_or_says_that_it_has_none(encoder: ModelEncoder) -> None:
    assert heads.shipped("unknown") is None
    folder = heads.shipped(encoder.name)
    if folder is None:
        return
    assert (folder / heads.WEIGHTS).stat().st_size < 4 << 20
    settings = heads.load(folder, encoder).settings
    assert settings.recipe and settings.metrics and settings.data
    for source in settings.data:
        assert source["licence"] and "NC" not in source["licence"] and "?" not in source["licence"]


def test_without_heads_what_lacks_is_said_and_the_rest_works(tmp_path: Path) -> None:
    with Index.create(tmp_path / "i", encoder=HashedWords()) as index:
        index.add(DOCUMENTS)
        assert index.heads is None
        found = index.search("what is a mainspring?", answers=1)
        assert found.hits[0].key == "spring" and found.answers is None
        assert found.missing is not None and "no heads for the encoder 'hashed'" in found.missing
        assert index.search("what is a mainspring?").missing is None  # none were asked for
        assert index.search("mainspring", answers=1).missing is None
