"""Pieces of parameters know which part they are."""

import pytest
import torch

from mainspring.nn.span import Span, logical_shape, mark, span_of


def test_a_piece_keeps_the_shape_of_the_whole() -> None:
    piece = torch.nn.Parameter(torch.zeros(5))
    mark(piece, Span(torch.Size([3, 4]), 2, 7))
    assert logical_shape(piece) == (3, 4)
    assert span_of(piece) == Span(torch.Size([3, 4]), 2, 7)


def test_a_whole_tensor_is_its_own_logical_shape() -> None:
    assert logical_shape(torch.zeros(2, 3)) == (2, 3)
    assert span_of(torch.zeros(2, 3)) is None


def test_a_piece_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"5 elements.*\[4\]"):
        mark(torch.zeros(4), Span(torch.Size([3, 4]), 2, 7))
