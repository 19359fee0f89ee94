"""RoBERTa's positions: padding takes no position, and has a row of the table of its own."""

from __future__ import annotations

from torch import Tensor


def padded_positions(valid: Tensor) -> Tensor:
    """Positions that count valid tokens only; padding stands at -1.

    With a position table whose offset is 2, position 0 is row 2 and padding is row 1: fairseq's rule, by
    which every RoBERTa and XLM-R checkpoint was trained.

    >>> import torch
    >>> padded_positions(torch.tensor([[False, True, True], [True, True, False]])).tolist()
    [[-1, 0, 1], [0, 1, -1]]

    Args:
        valid: bool [B, T], False at padding.

    Returns:
        int64 [B, T].
    """
    counted = valid.long().cumsum(dim=1)
    return (counted * valid) - 1
