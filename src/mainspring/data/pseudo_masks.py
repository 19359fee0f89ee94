"""The layout of pseudo-masked text: one row that holds every step of a factorisation order.

Bao et al. 2020 (UniLMv2, arXiv 2002.12804), section 3.2 and figure 3. Tokens of the blocks M_1 .. M_S are
predicted one block after another. The row is the text with those tokens hidden; then, for each step t, a
pseudo-mask for each token of M_t and the token itself. Copies share the position of what they stand for.
With rank t and probe = True at the pseudo-masks, the one rule of attention is the paper's table of who may
see whom:

    what stands                 rank  probe  sees
    text, masks                 0     no     text and masks
    original of step t          t     no     text, masks, originals of steps 1 .. t
    pseudo-mask of step t       t     yes    text, masks, originals of steps 1 .. t-1, pseudo-masks of step t
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mainspring.data.batch import IGNORE
from mainspring.data.token_row import Bools, Ints, TokenRow, join


def draw_blocks(
    maskable: Bools, doc: Ints, rate: float, block_share: float, longest: int, rng: np.random.Generator
) -> list[Ints]:
    """Blocks of neighbouring tokens in the order in which they are to be predicted (3.3, algorithm 1).

    A block begins anywhere with equal chance; it is one token, or, with probability `block_share`, 2 to
    `longest` of them. One that touches another block, a token that is not maskable or a second document is
    drawn again, until `rate` of the maskable tokens is reached, rounded, and at least one. The last block is
    cut short where it would go beyond that (the paper's goes beyond it), so that as much is hidden as in
    masked language modelling, and equally long rows stay equally long.

    Args:
        maskable: bool [T].
        doc: document of each token, [T].
        rate: share of the maskable tokens.
        block_share: probability of a block of several tokens (the paper: 0.4).
        longest: most tokens of a block (the paper: 6).
        rng: the only source of chance.

    Returns:
        Indices of each block's tokens; none where nothing is maskable.
    """
    free = maskable.copy()
    budget = max(1, round(rate * int(maskable.sum())))
    blocks: list[Ints] = []
    taken = 0
    while taken < budget and free.any():
        # A beginning that is not free would be rejected: drawing among the free ones is the same law.
        places = np.flatnonzero(free)
        first = int(places[rng.integers(len(places))])
        length = int(rng.integers(2, longest + 1)) if longest > 1 and rng.random() < block_share else 1
        end = first + min(length, budget - taken)
        if end > len(free) or not free[first:end].all() or (doc[first:end] != doc[first]).any():
            continue
        blocks.append(np.arange(first, end))
        free[first:end] = False
        taken += end - first
    return blocks


def pseudo_masked_row(row: TokenRow, blocks: Sequence[Ints], hidden: Ints, mask: int) -> TokenRow:
    """The row of all steps; labels stand at the hidden tokens of the text and at the pseudo-masks.

    Args:
        row: text that all of its document may see, [T].
        blocks: indices of the tokens of each step; no index twice.
        hidden: what is put in place of the hidden tokens, in order of their indices.
        mask: the token that pseudo-masks are.

    Returns:
        [T + 2 * sum of the blocks' lengths].
    """
    where = np.zeros(row.length, bool)
    for block in blocks:
        where[block] = True
    parts = [row._replace(rank=np.zeros_like(row.rank)).hide(where, hidden)]
    for step, block in enumerate(blocks, start=1):
        original = row.take(block)._replace(
            rank=np.full(len(block), step), labels=np.full(len(block), IGNORE)
        )
        pseudo = original._replace(
            ids=np.full(len(block), mask), probe=np.ones(len(block), bool), labels=row.ids[block]
        )
        parts += [pseudo, original]
    return join(parts)
