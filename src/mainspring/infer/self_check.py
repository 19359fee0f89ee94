"""Self-check: what an engine computes beside the plain module in fp32, on the same tokens.

Whatever was done to the module - precision, packing, compilation, a cache - its logits are compared where the
plain module writes greedily (or with what it gives for texts), and an engine that is further off than its
precision may be is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mainspring.errors import RunFault
from mainspring.finetune.heads import TaskModel
from mainspring.infer.load import Network
from mainspring.infer.reader import Reader
from mainspring.infer.runner import Runner
from mainspring.nn.transformer import Transformer
from mainspring.text.framing import Frame

LENGTHS = (5, 17, 40)
"""Tokens of the probes."""
NEW = 12
"""Tokens that are written after each."""


class SelfCheckError(RunFault):
    """What was computed is further from fp32 than the precision allows."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What a self-check found."""

    compared: str
    """"logits" or "hidden states"."""
    difference: float
    """Greatest difference from the plain module in fp32."""
    relative: float
    """That, in standard deviations of what the plain module gives."""
    agreement: float
    """Part of the tokens that are the same where each takes the most probable one (of encoders: of rows
    whose greatest element is the same)."""
    values: int
    """Rows of logits or hidden states that were compared."""
    tolerance: float
    """Greatest `relative` that passes."""

    @property
    def passed(self) -> bool:
        """Whether the engine may be used."""
        return self.relative <= self.tolerance

    def __str__(self) -> str:
        """In one line."""
        return (
            f"{self.compared} differ from fp32 by {self.difference:.2e} at most, {self.relative:.2e} of "
            f"their spread (allowed: {self.tolerance:g}); greedy choices agree in {self.agreement:.1%} of "
            f"{self.values}"
        )

    def require(self, name: str) -> None:
        """Raises SelfCheckError where it did not pass; `name` says what was checked."""
        if not self.passed:
            raise SelfCheckError(f"{name} failed its self-check: {self}")


def probes(vocabulary: int, positions: int | None, room: int = 0) -> list[list[int]]:
    """Token rows that are the same on every machine, as long as the model allows."""
    generator = torch.Generator().manual_seed(0)
    most = max(1, (positions or 1024) - room)
    return [
        torch.randint(vocabulary, (min(length, most),), generator=generator).tolist() for length in LENGTHS
    ]


def check_writer(
    plain: Runner, runner: Runner, prompts: Sequence[Sequence[int]], new: int, tolerance: float
) -> SelfCheck:
    """Compare what two runners say, at every token that the plain one writes greedily.

    Args:
        plain: the reference, without a cache, in fp32.
        runner: what is checked.
        prompts: token rows.
        new: tokens to write after each.
        tolerance: greatest difference, in standard deviations of the reference.
    """
    expected, found = [], []
    rows = [list(prompt) for prompt in prompts]
    first = [torch.cat(one.prefill(rows, new)) for one in (plain, runner)]
    for logits, other in _steps(plain, runner, first, new):
        expected.append(logits)
        found.append(other)
    return _compare("logits", torch.cat(expected), torch.cat(found), tolerance)


def _steps(plain: Runner, runner: Runner, first: list[Tensor], new: int) -> list[tuple[Tensor, Tensor]]:
    steps = [(first[0], first[1])]
    for _ in range(new - 1):
        tokens = steps[-1][0].argmax(-1).tolist()
        steps.append((plain.step(tokens), runner.step(tokens)))
    return steps


def check_reader(
    plain: Network, network: Network, reader: Reader, rows: Sequence[Sequence[int]], tolerance: float
) -> SelfCheck:
    """Compare what a network gives through a reader, for texts, with what a plain one does: hidden states, of
    a task model logits."""
    frames = [_frame(row, number) for number, row in enumerate(rows)]
    encoder = plain if isinstance(plain, Transformer) else plain.encoder
    reference = Reader(encoder, causal=reader.causal, packs=False)
    expected, found = _read(plain, reference, frames), _read(network, reader, frames)
    what = "logits" if isinstance(network, TaskModel) else "hidden states"
    return _compare(what, expected, found, tolerance)


def _frame(row: Sequence[int], number: int) -> Frame:
    count = len(row)
    return Frame(list(row), [0] * count, [0] * count, [(0, 0)] * count, [0] * count, number, False)


@torch.inference_mode()
def _read(model: Network, reader: Reader, frames: Sequence[Frame]) -> Tensor:
    """In the order of the frames, without padding, fp32 [N, ...]."""
    rows: dict[int, Tensor] = {}
    for batch in reader.run(frames):
        given = model.read(batch.hidden) if isinstance(model, TaskModel) else batch.hidden
        for number, values in zip(batch.numbers, given.float().cpu(), strict=True):
            rows[number] = values[None] if values.ndim == 1 else values[: len(frames[number].ids)]
    return torch.cat([rows[number] for number in range(len(frames))])


def _compare(what: str, expected: Tensor, found: Tensor, tolerance: float) -> SelfCheck:
    expected, found = expected.float().cpu(), found.float().cpu()
    difference = float((expected - found).abs().max())
    # Not a number compares as nothing, and must not pass.
    difference = difference if difference == difference else float("inf")
    return SelfCheck(
        what,
        difference,
        difference / max(float(expected.std()), 1e-12),
        float((expected.argmax(-1) == found.argmax(-1)).float().mean()),
        len(expected),
        tolerance,
    )
