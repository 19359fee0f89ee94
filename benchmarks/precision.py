"""The quality gate of narrow precisions: what int8 and int4 cost a trained model, on text it never saw.

Kind: direction (one model, one seed), with the bars of the engine. `mainspring train` makes the model of
`compression/gpt.toml` on Wikipedia's text; the engine then loads it in each precision, as a service would.
Measured on held-out passages:

- perplexity, every token once;
- greedy continuations of 64 beginnings: tokens as fp32 writes them, until the first that differs in a text
  (what follows continues another text), and texts that are the same to the end;
- at every token of held-out text, whether the most probable next one is fp32's; where it is not, by how many
  nats fp32 prefers its own, on average and at most.

Training is broken off by a signal and goes on with the next call; `--quick` trains 60 steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.compression.texts import data_folder
from benchmarks.compression.training import train
from benchmarks.harness import Bar, finish, options, resume
from benchmarks.pretraining.corpora import paragraphs
from mainspring.data import TokenData, build
from mainspring.evaluate.language_model import evaluate, held_out
from mainspring.infer import Engine
from mainspring.infer.runner import CachedRunner
from mainspring.recipes.catalogue import load
from mainspring.text import TokenizerSpec
from mainspring.train.run import Run

WORK = Path("runs/benchmark-precision")
RECIPE = Path(__file__).parent / "compression" / "gpt.toml"
PRECISIONS = ("fp32", "int8", "int8-weight", "int4")
PROMPTS, GIVEN, NEW = 64, 32, 32
SEQ_LEN, COMPARED = 128, 8192
MOST = {"int8": 1.005, "int4": 1.03}
"""Perplexity over fp32's, at most."""


def trained(steps: int | None, work: Path) -> Path:
    """The folder of the finished run."""
    data = work / "data"
    if not (data / "manifest.json").is_file():
        spec = TokenizerSpec(kind="bpe", vocab_size=4096)
        build([("wikipedia", list(paragraphs(data_folder())))], spec, data, holdout=0.03)
    changes = [f"data.path={data}"] + ([] if steps is None else [f"train.steps={steps}"])
    train(load(RECIPE, changes), work / "run")
    return work / "run"


def measure(run: Path, tokens: int, prompts: int) -> list[dict[str, Any]]:
    """A row for each precision.

    Args:
        run: folder of the run.
        tokens: held-out tokens to score.
        prompts: texts to continue.
    """
    data = TokenData.open(Run(run).read_recipe().data.path)
    begun = beginnings(data, prompts)
    wanted: tuple[Tensor, Tensor] | None = None
    rows: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        engine = Engine.load(run, precision=precision)
        score = evaluate(engine.model, data, seq_len=SEQ_LEN, max_tokens=tokens)
        texts, logits = continued(engine, begun), next_logits(engine, data)
        wanted = (texts, logits) if wanted is None else wanted
        rows.append(
            {"precision": precision, "perplexity": float(score.perplexity), "tokens": score.tokens}
            | agreement(texts, wanted[0])
            | choices(logits, wanted[1])
        )
        print(rows[-1], flush=True)
    return rows


def beginnings(data: TokenData, count: int) -> list[list[int]]:
    """The first tokens of rows of held-out text."""
    rows = torch.cat([batch.ids for batch in held_out(data, SEQ_LEN, count * SEQ_LEN)])
    return [row[:GIVEN].tolist() for row in rows[:count]]


@torch.inference_mode()
def next_logits(engine: Engine, data: TokenData) -> Tensor:
    """At every token of held-out text, fp32 [tokens, V]."""
    batches = held_out(data, SEQ_LEN, COMPARED)
    found = [engine.model(batch._replace(labels=None)).logits.flatten(0, 1) for batch in batches]
    return torch.cat(found)[:, : engine.vocabulary].float()


def continued(engine: Engine, prompts: list[list[int]]) -> Tensor:
    """Greedy continuations, int64 [P, N]."""
    runner = CachedRunner(engine.model, engine.vocabulary)
    tokens = [torch.cat(runner.prefill(prompts, NEW)).argmax(-1)]
    for _ in range(NEW - 1):
        tokens.append(runner.step(tokens[-1].tolist()).argmax(-1))
    return torch.stack(tokens, 1)


def agreement(texts: Tensor, wanted: Tensor) -> dict[str, float]:
    """Shares of texts, and of tokens up to the first that differs, that are as wanted."""
    same = (texts == wanted).long().cumprod(1)
    return {"same texts": float(same[:, -1].float().mean()), "same tokens": float(same.float().mean())}


def choices(logits: Tensor, wanted: Tensor) -> dict[str, float]:
    """How often the most probable token is the wanted one, and how near those were, where it is not."""
    chosen, best = logits.argmax(-1), wanted.argmax(-1)
    log_p = wanted.log_softmax(-1)
    gap = (log_p.gather(1, best[:, None]) - log_p.gather(1, chosen[:, None]))[chosen != best]
    return {
        "same choices": float((chosen == best).float().mean()),
        "nats where not": float(gap.mean()) if len(gap) else 0.0,
        "at most": float(gap.max()) if len(gap) else 0.0,
    }


def bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """The engine's gate."""
    by_name = {row["precision"]: row for row in rows}
    exact = by_name["fp32"]["perplexity"]
    found = [
        Bar(f"{name}: perplexity over fp32's", by_name[name]["perplexity"] / exact, most, at_most=True)
        for name, most in MOST.items()
    ]
    return [Bar("int8: greedy texts as fp32's", by_name["int8"]["same texts"], 1.0), *found]


def main() -> int:
    """Train or go on, then measure."""
    arguments = options(__doc__.splitlines()[0], parts=True)
    steps, tokens, prompts = (60, 8192, 8) if arguments.quick else (None, 65536, PROMPTS)
    run = trained(steps, WORK / "quick" if arguments.quick else WORK)
    rows = resume(arguments.parts, f"{steps} steps", lambda: measure(run, tokens, prompts))
    recipe = Run(run).read_recipe()
    return finish(
        "precision",
        title="What int8 and int4 cost a trained model (direction)",
        rows=rows,
        bars=bars(rows),
        notes=[
            f"The model: {recipe.name}, {recipe.train.steps} steps of {recipe.train.batch_tokens} tokens "
            "(`benchmarks/compression/gpt.toml`), one seed; text: held-out paragraphs of WikiText-2 and "
            "BoolQ.",
            f"Texts and tokens: {prompts} greedy texts of {NEW} tokens after {GIVEN} given ones; a token is "
            "the same until its text first differs. Choices: the most probable next token at "
            f"{COMPARED} tokens of held-out text; where it is another, the nats by which fp32 prefers its "
            "own, on average and at most.",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
