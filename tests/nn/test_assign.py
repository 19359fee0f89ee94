"""A whole tensor's values reach every kind of part of a parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mainspring.nn.assign import assign
from mainspring.nn.span import Cut, Span, mark, mark_cut

WHOLE = torch.arange(24.0).view(4, 6)
BOX = Cut.whole(WHOLE.shape).narrow(1, 2, 3, "tensor").narrow(0, 1, 2, "expert")


def test_a_whole_parameter() -> None:
    parameter = nn.Parameter(torch.zeros(4, 6))
    assign(parameter, WHOLE)
    assert torch.equal(parameter, WHOLE)


def test_a_box() -> None:
    parameter = mark_cut(nn.Parameter(torch.zeros(2, 3)), BOX)
    assign(parameter, WHOLE)
    assert torch.equal(parameter, WHOLE[1:3, 2:5])


def test_a_piece_and_a_piece_of_a_box() -> None:
    piece, of_box = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(4))
    mark(piece, Span(WHOLE.shape, 3, 8))
    mark(mark_cut(of_box, BOX), Span(torch.Size((2, 3)), 1, 5))
    for parameter in (piece, of_box):
        assign(parameter, WHOLE)
    assert piece.tolist() == [3, 4, 5, 6, 7]
    assert of_box.tolist() == [9, 10, 14, 15]


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[6, 4\] for \[4, 6\]"):
        assign(mark_cut(nn.Parameter(torch.zeros(2, 3)), BOX), WHOLE.t())
