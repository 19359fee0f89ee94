"""Model families beside transformers': forward with backward, and inference, same weights, same tokens.

Each side runs plain and through torch.compile, in training and in inference, in turns with the other; its
better mode counts. Weights are ours, written into transformers' model through the family's weight map, and
the hidden states must agree before anything is timed. Without dropout, so that both sides do the same
arithmetic. In bf16 the parameters are bf16 too.

The physical bound is the rate of matrix products, measured in the same run: what no side can save are the
products of the layers' projections, 2 FLOPs a weight and token forward and 4 backward.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Bar, finish, interleave, median, options, resume

THREADS, ROUNDS, WORDS = 2, 5, 8000
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
AGREE = 2e-3
"""Largest difference of hidden states in fp32: twelve layers of sums in another order."""


@dataclass(frozen=True)
class Peer:
    """A model of ours beside transformers'."""

    name: str
    bar: float
    """Ratio to reach, in training and in inference."""
    shapes: tuple[tuple[int, int], ...]
    """Rows and tokens of a batch."""
    ours: Callable[[bool], nn.Module]
    """Our model; quick: two layers and few words of it."""
    theirs: Callable[[nn.Module], nn.Module]
    """transformers' model with the weights of ours."""


def bare(family: str, preset: str, quick: bool, **without: Any) -> nn.Module:
    """A published encoder or decoder without its head; quick: two layers and few words of it."""
    from mainspring.models import FAMILIES
    from mainspring.nn import Transformer, initialize

    config = FAMILIES[family].presets[preset]
    changes = {"n_layers": 2, "vocab_size": WORDS} if quick else {}
    changes |= {"dropout": 0.0, "attention_dropout": 0.0, "head": "none", **without}
    return initialize(Transformer(config.replace(**changes)), 0)


def deberta(quick: bool) -> nn.Module:
    """The encoder of DeBERTa-v3 base."""
    from mainspring.models import FAMILIES

    scheme = FAMILIES["deberta_v2"].presets["v3-base"].disentangled
    assert scheme is not None
    positions = [scheme.model_dump(mode="json")]
    return bare("deberta_v2", "v3-base", quick, positions=positions, head_transform=False, head_bias=False)


def bert(quick: bool) -> nn.Module:
    """The encoder of BERT base."""
    return bare("bert", "base", quick, head_transform=False, head_bias=False)


def gpt2(quick: bool) -> nn.Module:
    """The layers of GPT-2 small."""
    return bare("gpt2", "small", quick)


def of_transformers(family: str, prefix: str, model: nn.Module) -> nn.Module:
    """transformers' headless model with the same weights, and SDPA attention where it has that."""
    import transformers

    from mainspring.models import FAMILIES

    config = model.config.replace(head="tokens") if family == "gpt2" else model.config
    values = {**FAMILIES[family].to_hf(config), "use_cache": False}
    kinds: dict[str, Callable[..., nn.Module]] = {
        "deberta_v2": lambda c: transformers.DebertaV2Model(c),
        "bert": lambda c: transformers.BertModel(c, add_pooling_layer=False),
        "gpt2": lambda c: transformers.GPT2Model(c),
    }
    attention = {} if family == "deberta_v2" else {"attn_implementation": "sdpa"}
    theirs = kinds[family](transformers.AutoConfig.for_model(**values, **attention))
    state = FAMILIES[family].weights.write(model.state_dict(), config)
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    theirs.load_state_dict({name: t for name, t in state.items() if not name.startswith("lm_head")})
    return theirs


SHAPES = ((8, 128), (2, 512))
PEERS = (
    Peer("deberta-v3-base", 1.5, SHAPES, deberta, partial(of_transformers, "deberta_v2", "deberta.")),
    Peer("bert-base", 1.1, SHAPES, bert, partial(of_transformers, "bert", "bert.")),
    Peer("gpt2-small", 1.1, SHAPES, gpt2, partial(of_transformers, "gpt2", "transformer.")),
)


class Side:
    """One side's model: a forward to hidden states, plain or compiled."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Tensor], Tensor], compiled: bool) -> None:
        self.model, self.call = model, call
        self.run = torch.compile(model) if compiled else model

    def train(self, ids: Tensor) -> float:
        """Seconds of a forward and backward."""
        self.model.train()
        started = time.perf_counter()
        self.call(self.run, ids).float().square().mean().backward()
        seconds = time.perf_counter() - started
        self.model.zero_grad(set_to_none=True)
        return seconds

    def infer(self, ids: Tensor) -> float:
        """Seconds of a forward."""
        self.model.eval()
        with torch.inference_mode():
            started = time.perf_counter()
            self.call(self.run, ids)
            return time.perf_counter() - started


def call_ours(model: nn.Module, ids: Tensor, causal: bool) -> Tensor:
    """Our hidden states."""
    from mainspring.data.batch import bidirectional_batch, causal_batch

    hidden: Tensor = model(causal_batch(ids) if causal else bidirectional_batch(ids)).hidden
    return hidden


def call_theirs(model: nn.Module, ids: Tensor) -> Tensor:
    """transformers' hidden states. Without a mask, so that it takes its shortest way."""
    hidden: Tensor = model(ids).last_hidden_state
    return hidden


def rate(dtype: torch.dtype) -> float:
    """FLOP/s of a feed-forward's product, by the faster of PyTorch's and our linear layer."""
    from mainspring.nn.linear import linear

    x, weight = torch.randn(1024, 768).to(dtype), torch.randn(3072, 768).to(dtype)
    seconds = []
    with torch.inference_mode():
        for product in (F.linear, linear):
            product(x, weight)
            for _ in range(10):
                started = time.perf_counter()
                product(x, weight)
                seconds.append(time.perf_counter() - started)
    return 2 * x.numel() * weight.shape[0] / min(seconds)


def compare(peer: Peer, dtype: str, shape: tuple[int, int], rounds: int, quick: bool) -> list[dict[str, Any]]:
    """Milliseconds of every side, mode and direction at one shape and dtype."""
    torch._dynamo.reset()
    ours = peer.ours(quick)
    theirs = peer.theirs(ours)
    ours_of = partial(call_ours, causal=peer.name.startswith("gpt2"))
    ids = torch.randint(10, WORDS, shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        apart = (ours_of(ours.eval(), ids) - call_theirs(theirs.eval(), ids)).abs().max().item()
    if apart > AGREE:
        raise SystemExit(f"{peer.name}: hidden states differ by {apart:.1e}; nothing was timed")
    ours, theirs = ours.to(DTYPES[dtype]), theirs.to(DTYPES[dtype])
    sides = {
        ("mainspring", "eager"): Side(ours, ours_of, False),
        ("mainspring", "compile"): Side(ours, ours_of, True),
        ("transformers", "eager"): Side(theirs, call_theirs, False),
        ("transformers", "compile"): Side(theirs, call_theirs, True),
    }
    rows = []
    for way in ("train", "infer"):
        label = f"{peer.name} {dtype} {shape[0]}x{shape[1]} {way}"
        candidates: dict[str, Callable[[], float]] = {
            f"{label}: {' '.join(key)}": partial(side.train if way == "train" else side.infer, ids)
            for key, side in sides.items()
        }
        for candidate in candidates.values():  # compiling, and the allocator's first steps
            candidate()
            candidate()
        products = f"{label}: products"  # among the rounds, so that the bound is the machine's of that time
        taken = interleave(rounds, {**candidates, products: partial(rate, DTYPES[dtype])})
        times = {key: median(taken[name]) for key, name in zip(sides, candidates, strict=True)}
        best = {
            side: min((t, mode) for (s, mode), t in times.items() if s == side)
            for side in ("mainspring", "transformers")
        }
        flops = (6 if way == "train" else 2) * ids.numel() * sum(p.numel() for p in ours.layers.parameters())
        rows.append(
            {
                "model": peer.name,
                "batch": f"{shape[0]} x {shape[1]}",
                "dtype": dtype,
                "way": way,
                "mainspring ms": 1e3 * best["mainspring"][0],
                "mainspring mode": best["mainspring"][1],
                "transformers ms": 1e3 * best["transformers"][0],
                "transformers mode": best["transformers"][1],
                "ratio": best["transformers"][0] / best["mainspring"][0],
                "bound ms": 1e3 * flops / median(taken[products]),
                **{f"{side} {mode} ms": 1e3 * t for (side, mode), t in times.items()},
            }
        )
    del sides, ours, theirs
    gc.collect()
    return rows


def main() -> int:
    """Exit status 1 when a bar is missed."""
    names = [f"{peer.name} {dtype}" for peer in PEERS for dtype in DTYPES]
    arguments = options(__doc__ or "", parts=True, only=names)
    chosen = [name for name in arguments.only or names if not arguments.quick or name.endswith("fp32")]
    torch.set_num_threads(THREADS)
    rounds = 2 if arguments.quick else ROUNDS
    rows: list[dict[str, Any]] = []
    bars = []
    for peer in PEERS:
        mine: list[dict[str, Any]] = []
        for dtype in [dtype for dtype in DTYPES if f"{peer.name} {dtype}" in chosen]:
            for shape in peer.shapes[:1] if arguments.quick else peer.shapes:
                key = f"{peer.name} {dtype} {shape[0]}x{shape[1]}" + (" quick" if arguments.quick else "")
                measure = partial(compare, peer, dtype, shape, rounds, arguments.quick)
                mine += resume(arguments.parts, key, measure)
        for row in mine:
            bars.append(
                Bar(" ".join(row[key] for key in ("model", "dtype", "batch", "way")), row["ratio"], peer.bar)
            )
        rows += mine
    return finish(
        "models",
        title="Models beside transformers",
        rows=rows,
        bars=bars,
        notes=[
            *(
                ["Measured here: " + ", ".join(chosen) + "."]
                if len(chosen) < len(names) and not arguments.quick
                else []
            ),
            f"{THREADS} threads; medians of {rounds} interleaved rounds; a side's faster mode counts.",
            "Bare encoders of the published size with the same weights, without dropout"
            + ("; quick: two layers, one shape, fp32." if arguments.quick else "."),
            "bound ms: the layers' own products at the rate of a feed-forward's, measured in the same run. "
            "In bf16 both sides are near it, so that little is left to save.",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
