"""Encoders of this stack: means of tokens, read as the model was trained to, through one layer at most."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mainspring.data.batch import causal_batch
from mainspring.errors import UsageError
from mainspring.finetune.heads import HeadConfig, TaskModel
from mainspring.finetune.native import export_native_task
from mainspring.finetune.pooling import DenseConfig, EmbedConfig, Embedder
from mainspring.infer import Engine
from mainspring.models import ModelConfig, resolve
from mainspring.models.native import export_native
from mainspring.nn import Transformer, initialize
from mainspring.products.search import Document, Index, ModelEncoder
from mainspring.products.search.documents import Span
from mainspring.text.train import train_tokenizer

TEXT = "the cat sat on the mat. a spring drives a watch."
PARTS = [Span(0, 23), Span(24, 48), Span(48, 48)]
LAYER = {"width": 5, "activation": "none"}


def embedder(folder: Path, family: str = "gpt2", **settings: object) -> tuple[Embedder, Path]:
    tokenizer = train_tokenizer([TEXT] * 4, "bpe", 290)
    config = resolve(ModelConfig(family="gpt2", preset="tiny"), tokenizer.vocab_size)
    given = {
        "pooling": ("mean",),
        "dense": (DenseConfig.model_validate(LAYER),),
        "normalize": True,
        **settings,
    }
    model = initialize(Embedder(config, EmbedConfig.model_validate(given)), seed=0).eval()
    return model, export_native_task(model, tokenizer, folder, family=family)


def test_vectors_are_those_of_the_formula(tmp_path: Path) -> None:
    model, folder = embedder(tmp_path / "encoder")
    encoder = ModelEncoder.load(folder)
    assert (encoder.name, encoder.dim) == ("encoder", 5)
    ids, offsets = encoder.tokenizer.encode_offsets(TEXT)
    around = [
        one
        for one in (encoder.tokenizer.cls, encoder.tokenizer.bos, encoder.tokenizer.eos)
        if one is not None
    ]
    assert around == [encoder.tokenizer.eos]  # the one special token that this tokenizer has, after the text
    with torch.inference_mode():
        states = model.encoder(causal_batch(torch.tensor([[*ids, *around]]))).hidden[0]

        def vector(rows: list[int]) -> np.ndarray:
            mean = states[rows].mean(0)
            return torch.nn.functional.normalize(model.dense[0](mean), dim=-1).numpy()

        (found,) = encoder.encode_parts([TEXT], [PARTS])
        assert found.whole == pytest.approx(vector(list(range(len(ids) + 1))), abs=1e-5)
        for part, got in zip(PARTS[:2], found.parts, strict=False):
            inside = [i for i, (start, _) in enumerate(offsets) if part.start <= start < part.stop]
            assert got == pytest.approx(vector(inside), abs=1e-5)
    assert found.parts[2] == pytest.approx(found.whole)  # a part without tokens is as the whole
    engine = Engine.load(folder).embed([TEXT]).vectors[0].numpy()
    assert encoder.encode([TEXT])[0] == pytest.approx(engine, abs=1e-5)
    assert np.isfinite(encoder.encode(["", TEXT, " "])).all()


def test_another_precision_gives_vectors_near_by(tmp_path: Path) -> None:
    _, folder = embedder(tmp_path / "encoder")
    exact, rounded = (ModelEncoder.load(folder, precision=p).encode([TEXT])[0] for p in ("fp32", "bf16"))
    assert 0.98 < float(exact @ rounded) < 1.0
    with pytest.raises(UsageError, match="int7"):
        ModelEncoder.load(folder, precision="int7")


def test_an_index_finds_its_encoder_again(tmp_path: Path) -> None:
    _, folder = embedder(tmp_path / "encoder")
    with Index.create(tmp_path / "i", encoder=folder) as index:
        index.add([Document("cat", "the cat sat on the mat."), Document("watch", "a spring drives a watch.")])
        before = index.search("a spring drives a watch.")
    with Index.open(tmp_path / "i") as again:
        found = again.search("a spring drives a watch.")
        assert [(h.key, h.relevance) for h in found.hits] == [(h.key, h.relevance) for h in before.hits]
        again.warm()


@pytest.mark.parametrize(
    "settings",
    [{"pooling": ("max",)}, {"pooling": ("mean", "cls")}, {"dense": ({"width": 4, "activation": "tanh"},)}],
)
def test_what_has_no_means_is_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    _, folder = embedder(tmp_path / "encoder", **settings)
    with pytest.raises(UsageError, match="pooling"):
        ModelEncoder.load(folder)


def test_heads_and_tokenizers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    _, folder = embedder(tmp_path / "bidirectional", family="bert")
    with pytest.raises(UsageError, match=r"no \[CLS\] and \[SEP\]"):
        ModelEncoder.load(folder)
    tokenizer = train_tokenizer([TEXT] * 4, "bpe", 290)
    config = resolve(ModelConfig(family="gpt2", preset="tiny"), tokenizer.vocab_size)
    head = HeadConfig(task="classify", labels=("a", "b"))
    task = initialize(TaskModel(config, head), seed=0)
    export_native_task(task, tokenizer, tmp_path / "task", family="gpt2")
    with pytest.raises(UsageError, match="gives no vectors"):
        ModelEncoder.load(tmp_path / "task")


def test_a_model_of_its_own_names_is_read_and_a_decoder_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer([TEXT] * 4, "bpe", 290)
    tokenizer.save(tmp_path / "tokenizer.json")
    for family in ("gpt2", "zcode"):
        named = ModelConfig(family=family, preset="tiny")
        config = resolve(named, tokenizer.vocab_size)
        state = initialize(Transformer(config), seed=0).state_dict()
        export_native(named, config, state, tmp_path / "tokenizer.json", tmp_path / family)
    vectors = ModelEncoder.load(tmp_path / "gpt2").encode([TEXT, ""])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="a decoder gives no vectors"):
        ModelEncoder.load(tmp_path / "zcode")
