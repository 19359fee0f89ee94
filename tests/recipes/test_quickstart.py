"""The quickstart itself, small: corpus, plan, two processes, evaluation, reload, completions, report; then
again."""

from __future__ import annotations

import json
import shutil
import tomllib
from functools import partial
from pathlib import Path

import pytest
import torch

from mainspring.errors import UsageError
from mainspring.infer import Engine
from mainspring.planner.processor import multiplies_bf16
from mainspring.products.search import Index, ModelEncoder
from mainspring.products.search.documentation import search_documentation
from mainspring.recipes import quickstart
from mainspring.recipes.quickstart import Corpus, Pairs, Summary, news, pipeline
from mainspring.recipes.quickstart.corpus import Declarations, pieces
from mainspring.recipes.quickstart.specialise import Retrieval, _retrieval, _trained
from mainspring.train import sinks

SMALL = Corpus(limit_bytes=200_000, vocab_size=512, holdout=0.1, languages=4)
FEW = Pairs(limit_bytes=150_000, learnt=60, held_out=20)
QUERIES = ("parse command line arguments", "zzzzz")
SHAPE = [
    "model.config={ d_model = 32, n_heads = 2, n_layers = 2, d_ff = 64, max_positions = 64 }",
    "data.seq_len=64",
    "train.batch_tokens=512",
    "train.checkpoint_every=3",
]


SEARCH = partial(search_documentation, limit_bytes=60_000, queries=QUERIES)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary, list[news.News]]:
    """A quickstart of six steps, its summary and its news."""
    out = tmp_path_factory.mktemp("quickstart") / "run"
    told: list[news.News] = []
    summary = quickstart.run(
        out, overrides=SHAPE, steps=6, corpus=SMALL, pairs=FEW, search=SEARCH, tell=told.append
    )
    return out, summary, told


@pytest.mark.distributed
def test_all_steps(first: tuple[Path, Summary, list[news.News]]) -> None:
    out, summary, told = first
    assert summary.status == "finished"
    assert [item.stage for item in told if isinstance(item, news.StageBegan)] == list(news.STAGES)
    assert set(summary.seconds) == set(news.STAGES)
    events = list(sinks.read(out / "metrics.jsonl"))
    assert [e["world"] for e in events if e["event"] == "run_started"] == [2]
    assert [e["step"] for e in events if e["event"] == "step_done"] == [1, 2, 3, 4, 5, 6]
    assert summary.agreement is not None
    assert summary.agreement.identical
    assert summary.agreement.step == 6
    assert summary.comparison is not None
    assert {"unigram", "kneser_ney_5"} == set(summary.comparison.baselines)
    assert (
        len({(s.tokens, s.bytes) for s in (summary.comparison.model, *summary.comparison.baselines.values())})
        == 1
    )
    samples = json.loads((out / "samples.json").read_text())
    assert [s["prompt"] for s in samples] == list(quickstart.PROMPTS)
    assert all(s["tokens"] > 0 for s in samples)


@pytest.mark.distributed
def test_the_encoder_is_of_the_model_and_searches(first: tuple[Path, Summary, list[news.News]]) -> None:
    out, summary, told = first
    made, narrow = summary.specialised, summary.quantised
    assert made is not None and narrow is not None
    assert (made.learnt, made.held_out) == (60, 20)
    for found in (made.before, made.after, narrow.after):
        assert 0 <= found.first <= found.ten <= 1
    assert narrow.bytes_after < 0.7 * narrow.bytes_before
    vectors = Engine.load(out / "encoder").embed(["A spring.", "A river."]).vectors
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)
    whole, small = (
        ModelEncoder.load(out / name).encode(["A spring."]) for name in ("encoder", "encoder-int8")
    )
    # Whitening enlarges what products of other shapes round otherwise.
    assert whole[0] == pytest.approx(vectors[0].numpy(), abs=2e-4)
    assert float(whole[0] @ small[0]) > 0.9
    (indexed,) = [item for item in told if isinstance(item, news.Indexed)]
    assert 0 < indexed.documents <= indexed.passages
    assert [answer.query for answer in summary.answered] == list(QUERIES)
    with Index.open(out / "search") as index:
        counts = index.store.counts()
        assert counts["encoded"] == counts["passages"] == indexed.passages
        again = index.search(QUERIES[0], top=3)
        assert [hit.title for hit in again.hits] == [found.title for found in summary.answered[0].found]
    assert [answer["query"] for answer in json.loads((out / "summary.json").read_text())["answered"]] == [
        *QUERIES
    ]


def test_without_something_that_searches_there_is_no_such_step() -> None:
    assert "search" in news.STAGES
    assert pipeline._Quickstart(Path("x"), None, lambda _: None).stages == [
        stage for stage in news.STAGES if stage != "search"
    ]


def test_the_layer_brings_pairs_together() -> None:
    """Pairs that agree in some directions, under noise that is larger in others."""
    generator = torch.Generator().manual_seed(0)
    meant = torch.randn(400, 1, 16, generator=generator).expand(-1, 2, -1)
    loud = 3 * torch.randn(400, 2, 16, generator=generator) + 3
    means = torch.cat([meant + 0.3 * torch.randn(400, 2, 16, generator=generator), loud], -1)
    layer = _trained(means[100:])
    before, after = _retrieval(means[:100]), _retrieval(layer(means[:100]))
    assert before.first < 0.3
    assert after.first > 0.6
    assert _retrieval(torch.eye(5)[:, None].expand(-1, 2, -1)) == Retrieval(1.0, 1.0)
    assert _retrieval(torch.stack([torch.eye(3), torch.eye(3).roll(1, 0)], 1)).first == 0.0


@pytest.mark.distributed
def test_the_precision_is_one_that_the_processor_multiplies(
    first: tuple[Path, Summary, list[news.News]],
) -> None:
    out, _, _ = first
    recipe = tomllib.loads((out / "recipe.toml").read_text(encoding="utf-8"))
    assert recipe["train"]["precision"] == ("bf16" if multiplies_bf16() else "fp32")


@pytest.mark.distributed
def test_the_plan_comes_before_training(first: tuple[Path, Summary, list[news.News]]) -> None:
    _, _, told = first
    kinds = [type(item) for item in told]
    plan = next(item for item in told if isinstance(item, news.PlanReady))
    assert plan.forecast.recipe.plan.zero == 2
    assert plan.forecast.recipe.plan.world == 2
    assert kinds.index(news.PlanReady) < [getattr(i, "stage", "") for i in told].index("train")


@pytest.mark.distributed
def test_the_report_stands_alone(first: tuple[Path, Summary, list[news.News]]) -> None:
    page = (first[0] / "report.html").read_text()
    for part in (
        "Held-out text",
        "Kneser-Ney 5-gram",
        "planned",
        "measured",
        "Completions",
        "Specialised, quantised, searched with",
        "parse command line arguments",
        "recipe.toml",
        "<svg",
    ):
        assert part in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


@pytest.mark.distributed
def test_again_there_is_nothing_left_to_do(first: tuple[Path, Summary, list[news.News]]) -> None:
    out, before, _ = first
    told: list[news.News] = []
    summary = quickstart.run(out, overrides=SHAPE, corpus=SMALL, pairs=FEW, search=SEARCH, tell=told.append)
    assert (summary.specialised, summary.quantised) == (before.specialised, before.quantised)
    assert [[f.title for f in a.found] for a in summary.answered] == [
        [f.title for f in a.found] for a in before.answered
    ]
    assert any(isinstance(item, news.TrainingSkipped) for item in told)
    assert next(i for i in told if isinstance(i, news.CorpusReady)).report is None
    assert summary.comparison == before.comparison
    assert summary.samples == before.samples
    assert summary.seconds["train"] == before.seconds["train"]


@pytest.mark.distributed
def test_other_settings_are_refused(first: tuple[Path, Summary, list[news.News]]) -> None:
    with pytest.raises(UsageError, match=r"train.steps is 6, you ask for 7.*--fresh"):
        quickstart.run(first[0], overrides=SHAPE, steps=7, corpus=SMALL)


@pytest.mark.distributed
def test_fewer_steps_where_time_is_short(
    first: tuple[Path, Summary, list[news.News]], tmp_path: Path
) -> None:
    class StopHereError(Exception):
        pass

    told: list[news.News] = []

    def tell(item: news.News) -> None:
        told.append(item)
        if isinstance(item, news.PilotDone):
            raise StopHereError

    shutil.copytree(first[0] / "data", tmp_path / "run" / "data")
    with pytest.raises(StopHereError):
        quickstart.run(tmp_path / "run", overrides=SHAPE, corpus=SMALL, minutes=1e-6, tell=tell)
    pilot = told[-1]
    assert isinstance(pilot, news.PilotDone)
    assert pilot.steps == 20 < pilot.wanted
    assert pilot.seconds_per_step > 0
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["data", "summary.json"]


def test_declarations_can_be_read_again() -> None:
    documents = Declarations(3)
    once = [d.text for d in documents]
    assert once == [d.text for d in documents]
    assert len({d.lang for d in documents}) == 3
    assert len({d.id for d in documents}) == len(once) > 9


@pytest.mark.parametrize("size", [1, 5, 40, 10_000])
def test_pieces_are_the_text(size: int) -> None:
    text = "\n".join(f"line {i} " + "x" * (i % 7) for i in range(50))
    cut = list(pieces(text, size))
    assert "\n".join(cut) == text
    assert all(len(piece) >= min(size, len(text)) for piece in cut)
