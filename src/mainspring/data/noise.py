"""Noise on a text that a decoder has to undo: spans behind sentinels, or words in another order.

Raffel et al. 2020 (T5, arXiv 1910.10683), section 3.1.4 and figure 2, for the spans, which are drawn as in
the published code: so many tokens and spans, lengths by a random composition. Lample et al. 2018 (arXiv
1711.00043), section 2.3, for order: token i sorts by i + U(0, k), so none moves by k places or more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mainspring.data.token_row import Bools, Ints


def noise_spans(length: int, rate: float, mean_span: float, rng: np.random.Generator) -> Bools:
    """Which tokens of a text are noise: bool [length]; it begins with a token that is not.

    round(length * rate) tokens (at least one, and one is left) in round(that / mean_span) spans, which never
    touch; every way to cut the two kinds of tokens into so many parts has the same chance.

    Args:
        length: of the text, 2 or more.
        rate: share of noise.
        mean_span: mean length of a span, in tokens.
        rng: the only source of chance.
    """
    noise = min(max(round(length * rate), 1), length - 1)
    spans = max(1, min(round(noise / mean_span), noise, length - noise))
    kept, hidden = (_composition(total, spans, rng) for total in (length - noise, noise))
    lengths = np.stack([kept, hidden], axis=1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def corrupted(ids: Ints, noise: Bools, sentinels: Sequence[int]) -> tuple[Ints, Ints]:
    """A text with each span of noise behind a sentinel, and the target that names the spans.

    The target is `sentinel_0 span_0 sentinel_1 span_1 ...`; its end is the objective's business.

    Args:
        ids: [T].
        noise: bool [T].
        sentinels: tokens for the spans in order; spans beyond them stay as they are.

    Returns:
        Source and target, both without an end.
    """
    starts = noise & ~np.concatenate([[False], noise[:-1]])
    number = np.cumsum(starts) - 1
    noise = noise & (number < len(sentinels))
    starts &= noise
    marks = np.asarray(sentinels, np.int64)[np.clip(number, 0, len(sentinels) - 1)]
    source = np.where(starts, marks, ids)[~noise | starts]
    pieces = [
        np.concatenate([marks[at : at + 1], ids[noise & (number == number[at])]])
        for at in np.flatnonzero(starts)
    ]
    return source, np.concatenate(pieces) if pieces else np.zeros(0, np.int64)


def infilled(ids: Ints, noise: Bools, mask: int) -> Ints:
    """A text with one mask token for each span of noise (Lewis et al. 2020, section 2.2: text infilling)."""
    starts = noise & ~np.concatenate([[False], noise[:-1]])
    return np.asarray(np.where(starts, mask, ids)[~noise | starts])


def shuffled(ids: Ints, distance: float, rng: np.random.Generator) -> Ints:
    """A text whose tokens have each moved by less than `distance` places (0 or 1: none)."""
    keys = np.arange(len(ids)) + rng.random(len(ids)) * distance
    return np.asarray(ids[np.argsort(keys, kind="stable")])


def _composition(total: int, parts: int, rng: np.random.Generator) -> Ints:
    """Lengths of `parts` parts of 1 or more that sum to `total`, all compositions alike: [parts]."""
    cuts = np.sort(rng.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]])).astype(np.int64)
