"""Beam search: the hypotheses of highest length-normalised log-probability (Graves 2012; Wu et al. 2016,
section 7).

For each prompt, `num_beams` open hypotheses are extended by every token and the 2 * num_beams best extensions
are looked at: those that end join the finished ones if they are among the first `num_beams`, the best others
stay open. Twice as many are looked at as are kept because each open hypothesis has one extension that ends
it, so enough stay open. Scores are kept in fp32. The rules of ending are those of transformers' `generate`,
token for token (tests/infer/test_transformers.py).

Shapes: P prompts, K beams, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mainspring.infer.history import History
from mainspring.infer.logits import block
from mainspring.infer.options import GenerateOptions
from mainspring.infer.runner import Runner

_CLOSED = -1e9
"""Score of a beam that is not in use: below any log-probability."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished continuation."""

    tokens: tuple[int, ...]
    """Generated tokens, with the end-of-text token if it ended so."""
    score: float
    """Log-probability / length ** length_penalty."""


@dataclass(slots=True, eq=False)
class _Search:
    """The search of one prompt."""

    prompt: int
    limit: int
    open: list[list[int]]
    scores: list[float]
    finished: list[Hypothesis] = field(default_factory=list)
    done: bool = False


def beam_search(
    runner: Runner,
    histories: Sequence[Sequence[int]],
    first: Tensor,
    limits: Sequence[int],
    options: GenerateOptions,
    eos: int | None,
    ends: Callable[[Sequence[int]], bool],
) -> Iterator[dict[int, list[Hypothesis]]]:
    """Search for each prompt that `runner` holds.

    Args:
        runner: after `prefill`.
        histories: for each prompt the tokens that count as said before, for the options on repetition.
        first: logits after each prompt, [P, V].
        limits: tokens that each prompt's hypotheses may have, 1 or more.
        options: number of beams, length penalty, early stopping, what is said against repetition.
        eos: token that ends a hypothesis.
        ends: whether generated tokens end a hypothesis for another reason (a stop string).

    Yields: after each step the prompts that are done, with their `num_beams` best hypotheses, best first. A
    prompt of a small vocabulary may have fewer.
    """
    beams = options.num_beams
    searches = [
        _Search(p, limit, [[] for _ in range(beams)], [0.0] + [_CLOSED] * (beams - 1))
        for p, limit in enumerate(limits)
    ]
    origin = [search.prompt for search in searches for _ in range(beams)]
    runner.select(origin)
    logits = first[torch.tensor(origin, device=first.device)]
    history = History([histories[p] for p in origin], logits, options)
    while True:
        chosen = _extend(logits, searches, history, options, eos, ends)
        done = {search.prompt: search.finished for search in searches if search.done}
        yield done
        keep = [k for k, search in enumerate(searches) if not search.done]
        searches = [searches[k] for k in keep]
        if not searches:
            return
        rows = [k * beams + beam for k in keep for beam, _ in chosen[k]]
        tokens = [token for k in keep for _, token in chosen[k]]
        runner.select(rows)
        history.select(rows)
        history.add(tokens)
        logits = runner.step(tokens)


def _extend(
    logits: Tensor,
    searches: Sequence[_Search],
    history: History,
    options: GenerateOptions,
    eos: int | None,
    ends: Callable[[Sequence[int]], bool],
) -> list[list[tuple[int, int]]]:
    """Extend every search by one token; for each, the (beam, token) of what stays open."""
    beams = options.num_beams
    logprobs = block(history.penalize(logits.log_softmax(-1)), history.blocked(logits.device))
    vocabulary = logprobs.shape[-1]
    scores = torch.tensor([s.scores for s in searches], dtype=torch.float32, device=logits.device)
    total = (logprobs.view(len(searches), beams, vocabulary) + scores[:, :, None]).flatten(1)
    best = total.topk(min(2 * beams, total.shape[1]), dim=1)
    # Normalised in fp32 for the whole batch; every search of a batch has the same number of tokens.
    length = len(searches[0].open[0]) + 1
    normalised = (best.values / length**options.length_penalty).tolist()
    result = []
    for search, values, places, finals in zip(
        searches, best.values.tolist(), best.indices.tolist(), normalised, strict=True
    ):
        candidates = [
            (value, *divmod(place, vocabulary)) for value, place in zip(values, places, strict=True)
        ]
        result.append(_advance(search, candidates, finals, options, eos, ends))
    return result


def _advance(
    search: _Search,
    candidates: Sequence[tuple[float, int, int]],
    finals: Sequence[float],
    options: GenerateOptions,
    eos: int | None,
    ends: Callable[[Sequence[int]], bool],
) -> list[tuple[int, int]]:
    """Sort one search's candidates (score, beam, token), best first, into finished and open."""
    beams = options.num_beams
    staying: list[tuple[float, int, int]] = []
    for order, (score, beam, token) in enumerate(candidates):
        tokens = [*search.open[beam], token]
        if token == eos or len(tokens) >= search.limit or ends(tokens):
            if order < beams and score > _CLOSED / 2:
                search.finished.append(Hypothesis(tuple(tokens), finals[order]))
        elif len(staying) < beams:
            staying.append((score, beam, token))
    search.finished = sorted(search.finished, key=lambda h: -h.score)[:beams]
    if not staying:
        search.done = True
        return []
    # Stop strings may end more candidates than there are to spare: closed copies keep the batch in shape.
    staying += [(_CLOSED, *staying[0][1:])] * (beams - len(staying))
    search.open = [[*search.open[beam], token] for _, beam, token in staying]
    search.scores = [score for score, _, _ in staying]
    search.done = len(search.finished) == beams and not _may_improve(search, options)
    return [(beam, token) for _, beam, token in staying]


def _may_improve(search: _Search, options: GenerateOptions) -> bool:
    """Whether an open hypothesis can still beat the worst finished one of a full list."""
    if options.early_stopping is True:
        return False
    # The longest it may become flatters a hypothesis most where length is rewarded; the present length is the
    # usual, impatient bound.
    generous = options.early_stopping == "never" and options.length_penalty > 0
    length = search.limit if generous else len(search.open[0])
    bound = torch.tensor(search.scores[0], dtype=torch.float32) / length**options.length_penalty
    return float(bound) > search.finished[-1].score
