"""Runs of elements as boxes, and boxes as whole tensors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import CheckpointError
from mainspring.nn.span import Span, mark
from mainspring.train.checkpoint.boxes import flat_boxes, held
from mainspring.train.checkpoint.cover import fault
from mainspring.train.checkpoint.staging import spread

SHAPES = st.lists(st.integers(1, 4), max_size=4)


@given(SHAPES, st.data())
def test_boxes_of_a_run_are_its_elements_in_order(shape: list[int], data: st.DataObject) -> None:
    total = math.prod(shape)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    whole = np.arange(total).reshape(shape)
    found = list(flat_boxes(shape, start, stop))
    inside = [
        whole[tuple(slice(o, o + s) for o, s in zip(*box, strict=True))].reshape(-1).tolist() for box in found
    ]
    assert [i for box in inside for i in box] == list(range(start, stop))
    assert len(found) <= max(1, 2 * len(shape) - 1)


@given(SHAPES, st.lists(st.integers(0, 256), max_size=4))
def test_pieces_of_all_ranks_are_whole_and_each_is_needed(shape: list[int], cuts: list[int]) -> None:
    whole = torch.arange(math.prod(shape))
    ends = sorted({0, len(whole), *(c % (len(whole) + 1) for c in cuts)})
    found = []
    for start, stop in itertools.pairwise(ends):
        piece = whole[start:stop].clone()
        mark(piece, Span(torch.Size(shape), start, stop))
        found += list(held("x", piece).boxes)
    again = torch.full(shape, -1)
    for box in found:
        again[tuple(slice(o, o + s) for o, s in zip(box.offsets, box.sizes, strict=True))] = box.data
    assert torch.equal(again.reshape(-1), whole)
    extents = [(box.offsets, box.sizes) for box in found]
    assert fault(shape, extents) == ""
    for index, (_, sizes) in enumerate(extents):
        rest = extents[:index] + extents[index + 1 :]
        assert fault(shape, rest) == f"{math.prod(sizes)} of {len(whole)} elements are in no slice"
        assert "overlap" in fault(shape, [*extents, extents[index]])


@given(st.data())
def test_overlap_is_found_wherever_there_is_one(data: st.DataObject) -> None:
    """Beside counting how often every element occurs."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    extents = []
    for _ in range(data.draw(st.integers(1, 5))):
        offsets = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
        sizes = tuple(data.draw(st.integers(1, n - o)) for n, o in zip(shape, offsets, strict=True))
        extents.append((offsets, sizes))
    times = np.zeros(shape, int)
    for offsets, sizes in extents:
        times[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))] += 1
    said = fault(shape, extents)
    assert ("overlap" in said) == bool((times > 1).any())
    assert (said == "") == bool((times == 1).all())


def test_a_box_outside_is_said() -> None:
    assert fault((2, 2), [((1, 0), (2, 2))]) == "a slice of [2, 2] at [1, 0] is not inside its shape [2, 2]"


def test_boxes_are_views() -> None:
    piece = torch.zeros(7)
    mark(piece, Span(torch.Size([4, 3]), 2, 9))
    for number, box in enumerate(held("x", piece).boxes, 1):
        box.data.fill_(number)
    assert piece.tolist() == [1, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_replicated_state_is_spread_evenly_and_once(world: int) -> None:
    state = {
        "b": torch.arange(35.0).view(7, 5),
        "a": torch.arange(11, dtype=torch.int16),
        "c": torch.arange(8.0).view(2, 4).t(),
        "empty": torch.zeros(0, 3),
        "step": torch.tensor(3.0),
    }
    sizes = []
    seen = {name: torch.full_like(value, -1) for name, value in state.items()}
    extents: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {name: [] for name in state}
    for rank in range(world):
        mine = {name: held(name, value) for name, value in spread(state, rank, world).items()}
        assert {"step", "empty"} <= mine.keys()
        sizes.append(sum(b.data.nbytes for one in mine.values() for b in one.boxes))
        for name, one in mine.items():
            assert one.shape == state[name].shape and one.dtype == state[name].dtype
            for box in one.boxes:
                where = tuple(slice(o, o + s) for o, s in zip(box.offsets, box.sizes, strict=True))
                seen[name][where] = box.data
                extents[name].append((box.offsets, box.sizes))
    assert max(sizes) - min(sizes) <= 8, "as much for each, to an element"
    for name, value in state.items():
        assert torch.equal(seen[name], value), name
        if name not in ("step", "empty"):
            assert fault(value.shape, extents[name]) == ""


def test_values_that_are_not_there_are_never_saved() -> None:
    freed = torch.ones(4)
    freed.untyped_storage().resize_(0)
    with pytest.raises(CheckpointError, match=r"model\.w: .* its storage was freed"):
        held("model.w", freed)
    with pytest.raises(CheckpointError, match=r"model\.w: .* meta"):
        held("model.w", torch.ones(4, device="meta"))
    assert held("model.w", torch.zeros(0, 4)).boxes[0].sizes == (0, 4)
