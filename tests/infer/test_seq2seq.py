"""Targets from sources: every layout of a pair, random models against the training layout, and models that
have learnt to reverse."""

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, M2M100ForConditionalGeneration

from mainspring.cli.main import main
from mainspring.config import parse, to_toml
from mainspring.data.config import DataConfig
from mainspring.data.pair_batch import TextPair, pair_batch
from mainspring.data.pair_corpora import PairCorpora
from mainspring.data.pairs import PairData
from mainspring.errors import UsageError
from mainspring.infer import Engine, GenerateOptions
from mainspring.infer.beam import beam_search
from mainspring.infer.decode import Row, decode
from mainspring.infer.layout import Layout, layout_of
from mainspring.infer.runner import CachedRunner, PlainRunner
from mainspring.infer.writer import chosen_logits
from mainspring.models import ModelConfig, resolve
from mainspring.models.hub import export_hf
from mainspring.nn import Transformer, initialize
from mainspring.objectives import Vocabulary, build
from mainspring.objectives.base import labelled
from mainspring.recipes.exchange import export_run, import_run
from mainspring.text import Tokenizer, train_tokenizer
from mainspring.train.checkpoint import save
from mainspring.train.checkpoint.state import model_state
from mainspring.train.recipe import Recipe, TrainConfig

OBJECTIVES: dict[str, dict[str, Any]] = {
    "shift": {"kind": "s2s", "mode": "shift"},
    "masked": {"kind": "s2s", "mode": "masked", "source_type": 4, "target_type": 5},
    "pseudo": {"kind": "s2s", "mode": "pseudo"},
    "prefix": {"kind": "prefix"},
    "prefix-causal": {"kind": "prefix", "bidirectional": False},
    "mt": {"kind": "mt", "language_tags": (8, 9)},
    "dae": {"kind": "dae"},
}
LEARNT = ("shift", "masked", "pseudo", "prefix", "mt")
OPTIONS = {
    "greedy": GenerateOptions(max_tokens=10),
    "sampled": GenerateOptions(max_tokens=10, temperature=1.0, seed=3, n=2, top_p=0.95),
    "beam": GenerateOptions(max_tokens=8, num_beams=3, n=2, length_penalty=0.6),
    "trigrams": GenerateOptions(max_tokens=12, num_beams=3, no_repeat_ngram=2, repetition_penalty=1.1),
    "once": GenerateOptions(max_tokens=12, temperature=0.7, no_repeat_ngram=1),
}
WORDS = "abcdefgh"


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """WordPiece whose every letter is a token."""
    return train_tokenizer([" ".join(p) for p in itertools.permutations(WORDS, 3)], "wordpiece", 40)


def model_config(name: str) -> ModelConfig:
    small = {
        "d_model": 48,
        "n_heads": 4,
        "d_ff": 96,
        "max_positions": 32,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    if name in ("mt", "dae"):
        layers: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2, "init_std": 0.1}
        # WordPiece pads with token 0.
        layers |= {"scale_embeddings": False, "positions": [{"kind": "sinusoidal", "offset": 1}]}
        return ModelConfig(family="zcode", preset="tiny", config={**small, **layers})
    types = {"n_layers": 2, "type_vocab": 6, "init_std": 0.1}
    return ModelConfig(family="unilm", preset="tiny", config={**small, **types})


def objective(name: str, words: Tokenizer, **changes: Any) -> Any:
    config = {**OBJECTIVES[name], **changes}
    return build(parse_objective(config), Vocabulary.of_tokenizer(words))


def parse_objective(config: dict[str, Any]) -> Any:
    return parse(Recipe, {**_frame(), "objective": config}).objective


def _frame(name: str = "shift") -> dict[str, Any]:
    return {
        "name": "toy",
        "model": model_config(name).model_dump(),
        "data": DataConfig(path="nowhere", seq_len=32).model_dump(),
        "train": TrainConfig(steps=2, batch_tokens=64).model_dump(),
    }


def wild(name: str, words: Tokenizer) -> Engine:
    """An engine of random wide weights."""
    config = resolve(model_config(name), words.vocab_size)
    # A decoder that begins with the token that also ends, and has one table, would end at once.
    config = config.model_copy(update={"init_std": 0.4, "tied": not config.is_encoder_decoder})
    layout = layout_of(parse_objective(OBJECTIVES[name]), words, (0, 1))
    return Engine(initialize(Transformer(config), seed=1), words, layout=layout)


SOURCES = ["a b c", "h", "d e f g a b c d e", "c a"]


def tokens(engine: Engine, options: GenerateOptions, sources: Sequence[str] = SOURCES) -> list[list[int]]:
    """Tokens, not text: specials have no text."""
    layout = engine.layout
    runner = (CachedRunner if options.use_cache else PlainRunner)(engine.model, engine.vocabulary, layout)
    prompts = [engine.tokenizer.encode(source) for source in sources]
    first, none = chosen_logits(runner.prefill(prompts, options.max_tokens)), [[] for _ in prompts]
    if options.num_beams == 1:
        rows = [Row(p, n, options.max_tokens) for p in range(len(prompts)) for n in range(options.n)]
        for _ in decode(runner, none, first, rows, options, layout.end):
            pass
        return [row.tokens for row in rows]
    limits, best = [options.max_tokens] * len(prompts), {}
    for done in beam_search(runner, none, first, limits, options, layout.end, lambda _: False):
        best.update(done)
    return [list(h.tokens) for p in range(len(prompts)) for h in best[p][: options.n]]


@pytest.mark.parametrize("how", OPTIONS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_cache_and_batch_change_nothing(name: str, how: str, words: Tokenizer) -> None:
    engine, options = wild(name, words), OPTIONS[how]
    together = tokens(engine, options)
    fields = {f: getattr(options, f) for f in options.__slots__}
    assert tokens(engine, GenerateOptions(**{**fields, "use_cache": False})) == together
    assert [row for s in SOURCES for row in tokens(engine, options, [s])] == together
    assert len({tuple(row) for row in together}) > 1
    if options.no_repeat_ngram:
        size = options.no_repeat_ngram
        for row in together:
            grams = [tuple(row[k : k + size]) for k in range(len(row) - size + 1)]
            assert len(grams) == len(set(grams))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_token_is_what_the_training_layout_predicts(name: str, words: Tokenizer) -> None:
    """Teacher-forced on its own greedy text, the model predicts that text at every place."""
    engine = wild(name, words)
    written = [(s, row) for s, row in zip(SOURCES, tokens(engine, OPTIONS["greedy"]), strict=True) if row[1:]]
    assert written
    for source, row in written:
        clean = {"target_mask_rate": 0.0, "mask_share": 1.0, "random_share": 0.0}
        if name == "dae":
            target = np.array(row if row[-1] != engine.layout.end else row[:-1])
            trained = objective(name, words)
            ids = np.array(words.encode(source))
            views = trained._views([trained._source(ids, 0)], [trained._target(target, 0)], pair_batch([]))
        else:
            # A mask in the place of a token and a mask beside it (mode 2) read the same.
            changes = {"mode": "pseudo", **clean} if name == "masked" else clean if name == "pseudo" else {}
            if name == "shift":
                changes = {"target_mask_rate": 0.0}
            target = np.array(row if row[-1] != engine.layout.end else row[:-1])
            pair = pair_batch([TextPair(words.encode(source), target, 0, 1)])
            # Without language embeddings the languages choose the tag alone.
            views = objective(name, words, **changes).build(pair, [np.random.default_rng(0)])
        view = next(v for key, v in views.items() if key != "source")
        logits = engine.model(view, source=views.get("source"), select=labelled(view)).logits
        predicted = logits[:, : engine.vocabulary].argmax(-1).tolist()
        assert predicted[: len(row)] == row


@cache
def pairs(seed: int = 0) -> tuple[tuple[str, str], ...]:
    """Words and the same backwards, of 1 to 5 letters."""
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(list(WORDS), size=1 + k % 5).tolist() for k in range(24)]
    return tuple((" ".join(letters), " ".join(letters[::-1])) for letters in drawn)


@pytest.fixture(scope="module", params=LEARNT)
def run(request: pytest.FixtureRequest, words: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that has learnt the pairs by heart."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    data = PairData.encode(pairs(), words, langs=(0, 1))
    data.save(folder / "pairs")
    recipe = parse(Recipe, {**_frame(name), "objective": OBJECTIVES[name]})
    recipe = recipe.replace(data={**recipe.data.model_dump(), "pairs": str(folder / "pairs")})
    (folder / "recipe.toml").write_text(to_toml(recipe))
    words.save(folder / "tokenizer.json")
    torch.manual_seed(0)
    model = initialize(Transformer(resolve(recipe.model, words.vocab_size)), seed=0).train()
    trained = objective(name, words)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = pair_batch([data.pair(k) for k in range(data.count)])
    for step in range(250):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 20) * (1 - step / 250)
        views = trained.build(batch, [np.random.default_rng([step, row]) for row in range(data.count)])
        [loss] = trained.loss(model, views).values()
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    save(folder / "checkpoints", 250, model_state(model), {})
    return folder


def test_what_was_learnt_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine.load(run)
    sources, targets = zip(*pairs(), strict=True)
    for options in (
        GenerateOptions(max_tokens=12),
        GenerateOptions(max_tokens=12, num_beams=3, length_penalty=0.0, logprobs=1),
        GenerateOptions(max_tokens=12, temperature=0.1, top_k=2),
    ):
        completions = engine.generate(list(sources), options)
        assert [c.text for c in completions] == list(targets)
        assert {c.finish for c in completions} == {"stop"}
    best = engine.generate([sources[3]], GenerateOptions(max_tokens=12, num_beams=2, logprobs=0))[0]
    assert best.logprobs is not None and best.score is not None
    assert sum(t.logprob or 0.0 for t in best.logprobs) / best.tokens > best.score - 1e-3
    assert main(["generate", str(run), sources[4], "--temperature", "0"]) == 0
    assert capsys.readouterr().out == targets[4] + "\n"


@pytest.mark.parametrize("layout", ["hf", "safetensors"])
def test_it_is_written_from_exported_folders_too(
    run: Path, tmp_path: Path, layout: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The objective goes with the weights, out and back in."""
    folder = export_run(run, tmp_path / "out", layout)
    sources, targets = zip(*pairs(), strict=True)
    back = import_run(folder, tmp_path / "back", data="nowhere").dir
    for place in (folder, back):
        completions = Engine.load(place).generate(list(sources), GenerateOptions(max_tokens=12))
        assert [c.text for c in completions] == list(targets)
    assert main(["generate", str(folder), sources[4], "--temperature", "0"]) == 0
    assert capsys.readouterr().out == targets[4] + "\n"
    if layout == "hf" and "mt" in run.name:
        for beams in (1, 3):
            assert _transformers_write(folder, sources, beams) == list(targets)


def _transformers_write(folder: Path, sources: Sequence[str], beams: int) -> list[str]:
    """What transformers' model and tokenizer write, from the source's language tag and text to text."""
    theirs, tokenizer = (
        M2M100ForConditionalGeneration.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    end, tag = tokenizer.sep_token, tokenizer.convert_ids_to_tokens(OBJECTIVES["mt"]["language_tags"][1])
    texts = [f"{tag} {source} {end}" for source in sources]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    rows = theirs.eval().generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=12,
        num_beams=beams,
        do_sample=False,
    )
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def test_models_of_others_and_damaged_files(words: Tokenizer, tmp_path: Path) -> None:
    model = model_config("pseudo")
    config = resolve(model, words.vocab_size)
    words.save(tmp_path / "tokenizer.json")
    state = initialize(Transformer(config), seed=0).state_dict()
    folder = export_hf(model, config, state, tmp_path / "tokenizer.json", tmp_path / "theirs")
    assert Engine.load(folder).layout == layout_of(parse_objective({"kind": "s2s"}), words)
    assert import_run(folder, tmp_path / "run", data="nowhere").read_recipe().objective.kind == "s2s"
    (folder / "mainspring_objective.json").write_text('{"objective": {"kind": "pmlm"}}')
    with pytest.raises(UsageError, match="unilm does not continue text"):
        Engine.load(folder).start(["a"])
    (folder / "mainspring_objective.json").write_text("{")
    with pytest.raises(UsageError, match=r"mainspring_objective.json: .* export the model again"):
        Engine.load(folder)


def test_one_of_several_directions_is_chosen(words: Tokenizer, tmp_path: Path) -> None:
    data = {
        name: PairData.encode(pairs(), words, langs=langs)
        for name, langs in (("en-de", (0, 1)), ("de-en", (1, 0)))
    }
    PairCorpora.of(data, ("en", "de")).save(tmp_path / "pairs")
    recipe = parse(Recipe, {**_frame("mt"), "objective": OBJECTIVES["mt"]})
    recipe = recipe.replace(data={**recipe.data.model_dump(), "pairs": str(tmp_path / "pairs")})
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(to_toml(recipe))
    words.save(run / "tokenizer.json")
    model = initialize(Transformer(resolve(recipe.model, words.vocab_size)), seed=0)
    save(run / "checkpoints", 2, model_state(model), {})
    folder = export_run(run, tmp_path / "out", "safetensors")
    for place in (run, folder):
        for direction, tag in (("en-de", 9), ("de-en", 8)):
            layout = Engine.load(place, direction=direction).layout
            assert layout.before == (tag,) and layout.langs == data[direction].langs
        with pytest.raises(UsageError, match="choose one of de-en, en-de"):
            Engine.load(place)
        with pytest.raises(UsageError, match="did you mean 'en-de'"):
            Engine.load(place, direction="en-dee")


def test_limits_and_refusals(words: Tokenizer) -> None:
    masked, encoder = wild("pseudo", words), wild("mt", words)
    assert masked.max_positions == 32 and encoder.max_positions is None
    # [CLS] 28 letters [SEP] leave two positions, which the masks take.
    assert len(masked.generate([[12] * 28], GenerateOptions(max_tokens=9, num_beams=2, n=2))) == 2
    assert masked._limit([12] * 28, GenerateOptions()) == 2
    with pytest.raises(UsageError, match=r"30 tokens and 2 around it .* 32 positions .* to 29 tokens"):
        masked.start([[12] * 30])
    with pytest.raises(UsageError, match="prompt 1 is empty; give a source"):
        encoder.start(["a", ""])
    with pytest.raises(UsageError, match="leave out one of the two"):
        encoder.start(["a"], GenerateOptions(echo=True, logprobs=1))
    echoed = encoder.generate(["a b"], GenerateOptions(echo=True, max_tokens=1))[0]
    assert echoed.text.startswith("a b") and echoed.prompt_tokens == 2


def test_layouts(words: Tokenizer) -> None:
    assert layout_of(parse_objective({"kind": "mlm"}), words) is None
    assert layout_of(parse_objective({"kind": "clm"}), words) == Layout(end=words.eos)
    tagged = layout_of(parse_objective(OBJECTIVES["mt"]), words, (0, 1))
    assert tagged is not None
    assert tagged.source([20]).ids.tolist() == [9, 20, words.sep]
    assert tagged.row([20], [21]).ids.tolist() == [words.sep, 21]
