"""A layer of experts, forward with backward: ours beside a loop, GShard's einsum, and transformers' blocks.

Same weights, same tokens, nothing dropped, and outputs and gradients must agree before anything is timed.
transformers' blocks are Switch's (one expert a token, ReLU) and Mixtral's (two, SwiGLU), the latter in each
of its implementations that fits in memory (`batched_mm` copies a matrix for every token). The loop finds an
expert's tokens and adds its output, as most code does; the einsum makes a tensor of tokens x experts x slots.

The physical bound is the rate of matrix products, measured in the same run: 6 FLOPs a weight and token.
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

from benchmarks.harness import Bar, finish, interleave, median, multiplies_bf16, options, resume

THREADS, ROUNDS, BAR = 2, 5, 1.5
WIDTH = 512
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Kind:
    """What transformers' block computes."""

    name: str
    top_k: int
    activation: str
    inner: int

    @property
    def maps(self) -> int:
        """Matrices of an expert."""
        return 3 if self.activation == "swiglu" else 2


KINDS = (Kind("switch", 1, "relu", 2048), Kind("mixtral", 2, "swiglu", 1024))


class Ours(nn.Module):
    """Our layer, with the given weights."""

    def __init__(self, kind: Kind, weights: dict[str, Tensor]) -> None:
        super().__init__()
        from mainspring.nn import TransformerConfig
        from mainspring.nn.moe import ExpertFeedForward

        count = weights["gate"].shape[0]
        config = TransformerConfig(
            d_model=WIDTH,
            n_heads=8,
            n_layers=1,
            d_ff=kind.inner,
            activation=kind.activation,  # type: ignore[arg-type]
            bias=False,
            vocab_size=1,
            experts={"count": count, "every": 1, "top_k": kind.top_k, "capacity_factor": None},  # type: ignore[arg-type]
        )
        self.layer = ExpertFeedForward(config, count)
        with torch.no_grad():
            self.layer.gate.weight.copy_(weights["gate"])
            self.layer.experts.up.weight.copy_(
                interleaved(weights["up"]) if kind.maps == 3 else weights["up"]
            )
            self.layer.experts.down.weight.copy_(weights["down"])

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        out: Tensor = self.layer(x)[0]
        return out


def interleaved(up: Tensor) -> Tensor:
    """Rows of gates, then of values, to (gate, value) in turns: [E, 2F, D]."""
    gate, value = up.chunk(2, dim=1)
    return torch.stack([gate, value], dim=2).flatten(1, 2)


class Plain(nn.Module):
    """The layer in twenty lines: as a loop over experts, or as einsums over slots."""

    def __init__(self, kind: Kind, weights: dict[str, Tensor], einsum: bool) -> None:
        super().__init__()
        self.kind, self.einsum = kind, einsum
        for name, tensor in weights.items():
            self.register_parameter(name, nn.Parameter(tensor.clone()))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        flat = x.flatten(0, 1)
        probabilities = F.linear(flat.float(), self.gate.float()).softmax(1)
        factors, experts = probabilities.topk(self.kind.top_k, dim=1)
        if self.kind.top_k > 1:
            factors = factors / factors.sum(1, keepdim=True)
        run = self._slots if self.einsum else self._loop
        return run(flat, factors.to(x.dtype), experts).view(x.shape)

    def _activate(self, inner: Tensor) -> Tensor:
        if self.kind.maps == 2:
            return inner.relu()
        gate, value = inner.chunk(2, dim=-1)
        return F.silu(gate) * value

    def _loop(self, x: Tensor, factors: Tensor, experts: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for expert, (up, down) in enumerate(zip(self.up.unbind(), self.down.unbind(), strict=True)):
            token, choice = torch.where(experts == expert)
            y = F.linear(self._activate(F.linear(x[token], up)), down) * factors[token, choice, None]
            out = out.index_add(0, token, y)
        return out

    def _slots(self, x: Tensor, factors: Tensor, experts: Tensor) -> Tensor:
        chosen = F.one_hot(experts, len(self.gate))
        place = (chosen.flatten(0, 1).cumsum(0) - 1).view_as(chosen).gather(2, experts[..., None])[..., 0]
        slots = F.one_hot(place, int(place.max()) + 1).to(x.dtype)
        dispatch = torch.einsum("ske,skc->sec", chosen.to(x.dtype), slots)
        combine = torch.einsum("sk,ske,skc->sec", factors, chosen.to(x.dtype), slots)
        inner = torch.einsum("ecd,efd->ecf", torch.einsum("sec,sd->ecd", dispatch, x), self.up)
        y = torch.einsum("ecf,edf->ecd", self._activate(inner), self.down)
        return torch.einsum("sec,ecd->sd", combine, y)


def of_transformers(kind: Kind, weights: dict[str, Tensor], implementation: str) -> nn.Module:
    """transformers' block with the given weights."""
    import transformers
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    from transformers.models.switch_transformers.modeling_switch_transformers import (
        SwitchTransformersSparseMLP,
    )

    count = weights["gate"].shape[0]
    if kind.name == "switch":
        config = transformers.SwitchTransformersConfig(
            d_model=WIDTH, d_ff=kind.inner, num_experts=count, expert_capacity=1 << 30, dropout_rate=0.0,
            router_jitter_noise=0.0,
        )  # fmt: skip
        block: Any = SwitchTransformersSparseMLP(config).to(weights["gate"].dtype)
        with torch.no_grad():
            block.router.classifier.weight.copy_(weights["gate"])
            for expert in range(count):
                block.experts[f"expert_{expert}"].wi.weight.copy_(weights["up"][expert])
                block.experts[f"expert_{expert}"].wo.weight.copy_(weights["down"][expert])
        return block
    config = transformers.MixtralConfig(
        hidden_size=WIDTH, intermediate_size=kind.inner, num_local_experts=count,
        num_experts_per_tok=kind.top_k, experts_implementation=implementation,
    )  # fmt: skip
    block = MixtralSparseMoeBlock(config).to(weights["gate"].dtype)
    with torch.no_grad():
        block.gate.weight.copy_(weights["gate"])
        block.experts.gate_up_proj.copy_(weights["up"])
        block.experts.down_proj.copy_(weights["down"])
    return block


def random_weights(kind: Kind, count: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Gate [E, D], up [E, F or 2F, D] and down [E, D, F]."""
    torch.manual_seed(0)
    inner = kind.inner * (kind.maps - 1)
    return {
        "gate": torch.randn(count, WIDTH, dtype=dtype) * 0.04,
        "up": torch.randn(count, inner, WIDTH, dtype=dtype) * 0.04,
        "down": torch.randn(count, WIDTH, kind.inner, dtype=dtype) * 0.04,
    }


def sides(kind: Kind, count: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Every way to compute the layer."""
    weights = random_weights(kind, count, dtype)
    with torch.device("cpu"):
        made: dict[str, nn.Module] = {"ours": Ours(kind, weights).to(dtype)}
        made["loop"] = Plain(kind, weights, einsum=False)
        made["einsum"] = Plain(kind, weights, einsum=True)
        for one in ("eager",) if kind.name == "switch" else ("eager", "grouped_mm"):
            made[f"transformers {one}"] = of_transformers(kind, weights, one)
    return made


def seconds(module: nn.Module, x: Tensor, grad: Tensor) -> float:
    """Of a forward and backward, with gradients of weights and input."""
    x = x.detach().requires_grad_()
    began = time.perf_counter()
    module(x).backward(grad)
    took = time.perf_counter() - began
    module.zero_grad(set_to_none=True)
    return took


def check_agreement(made: dict[str, nn.Module], x: Tensor, grad: Tensor, kind: Kind, gate: Tensor) -> None:
    """Outputs and gradients of the input agree in fp32.

    Left out are tokens whose experts a rounding may change; gradients are compared as a whole, since a
    rounding may also put an inner unit on the other side of ReLU's corner.
    """
    scores = F.linear(x.double(), gate.double()).sort(-1, descending=True).values
    decided = scores[..., kind.top_k - 1] - scores[..., kind.top_k] > 1e-4
    results = {}
    for name, module in made.items():
        given = x.detach().requires_grad_()
        out = module(given)
        (by_x,) = torch.autograd.grad(out, given, grad)
        results[name] = out.detach()[decided], by_x[decided]
    wanted, wanted_gradient = results["loop"]
    for name, (out, gradient) in results.items():
        torch.testing.assert_close(out, wanted, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
        apart = float((gradient - wanted_gradient).norm() / wanted_gradient.norm())
        assert apart < 0.01, f"{name}: the gradient is {apart:.1%} off"


def gemm_rate(dtype: torch.dtype, rows: int) -> float:
    """FLOPs a second of a large product in the faster of PyTorch's ways."""
    from mainspring.nn.linear import linear

    a, b = torch.randn(rows, WIDTH, dtype=dtype), torch.randn(2048, WIDTH, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        with torch.no_grad():
            linear(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * rows * WIDTH * 2048 / best


def measure(kind: Kind, count: int, dtype: str, tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of a case: one for each side."""
    x = torch.randn(tokens // 256, 256, WIDTH, dtype=DTYPES[dtype])
    grad = torch.randn_like(x)
    made = sides(kind, count, DTYPES[dtype])
    if dtype == "fp32":
        check_agreement(made, x, grad, kind, random_weights(kind, count, torch.float32)["gate"])
    if tokens * tokens * kind.top_k > 1 << 25:
        del made["einsum"]  # it would take minutes: reported at fewer tokens
    for module in made.values():
        seconds(module, x, grad)
    runs: dict[str, Callable[[], float]] = {
        name: lambda module=module: seconds(module, x, grad) for name, module in made.items()
    }
    taken = {name: median(times) for name, times in interleave(rounds, runs).items()}
    flops = 6.0 * tokens * kind.top_k * kind.maps * WIDTH * kind.inner
    rate = gemm_rate(DTYPES[dtype], tokens)
    return [
        {
            "layer": kind.name,
            "experts": count,
            "dtype": dtype,
            "tokens": tokens,
            "side": name,
            "tokens_per_second": tokens / took,
            "of_gemm_rate": flops / took / rate,
        }
        for name, took in taken.items()
    ]


def ratio(rows: list[dict[str, Any]]) -> float:
    """Our speed over the best of transformers' blocks, of a case's rows."""
    rates = {row["side"]: float(row["tokens_per_second"]) for row in rows}
    return rates["ours"] / max(rate for side, rate in rates.items() if side.startswith("transformers"))


def main() -> int:
    """Run the benchmark, in bf16 where the processor computes in it, or where told (`--only`)."""
    cases = {f"{k.name} {n} {d}": (k, n, d) for d in DTYPES for k in KINDS for n in (8, 64)}
    arguments = options(__doc__ or "", parts=True, only=list(cases))
    torch.set_num_threads(THREADS)
    tokens, rounds = (1024, 3) if arguments.quick else (4096, ROUNDS)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    chosen = arguments.only or (
        list(cases) if multiplies_bf16() else [n for n in cases if n.endswith("fp32")]
    )
    for name in chosen:
        kind, count, dtype = cases[name]
        found = resume(arguments.parts, name, partial(measure, kind, count, dtype, tokens, rounds))
        rows += found
        bars.append(Bar(f"{kind.name} {count} experts {dtype}", ratio(found), BAR))
        gc.collect()
    left_out = [name for name in cases if name not in chosen]
    return finish(
        "moe",
        title="A layer of experts, forward and backward",
        rows=rows,
        bars=bars,
        notes=[
            f"{THREADS} threads; width {WIDTH}; nothing dropped; gradients of weights and of the input",
            "each bar is our speed over the fastest of transformers' implementations of that block",
            "the einsum makes tensors of tokens x experts x slots and runs only with --quick",
            *(
                [f"not measured: {', '.join(left_out)}; this processor has no bf16 products"]
                if left_out
                else []
            ),
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
