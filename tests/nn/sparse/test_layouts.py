"""Layouts: published ones of eight blocks drawn by hand, and what holds for all of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.config import parse
from mainspring.errors import ConfigError
from mainspring.nn.sparse import BigBird, BSLongformer, Fixed, SlidingWindow, Variable, layout_of

GOLDEN = {
    "fixed": (
        Fixed(),
        """
        ####...#
        ####...#
        ####...#
        ####...#
        ...#####
        ...#####
        ...#####
        ...#####
        """,
    ),
    "fixed, causal": (
        Fixed(attention="unidirectional"),
        """
        #.......
        ##......
        ###.....
        ####....
        ...##...
        ...###..
        ...####.
        ...#####
        """,
    ),
    "fixed, of 3 with a short last window": (
        Fixed(local_blocks=3, horizontal=True),
        """
        ###..#.#
        ###..#.#
        ########
        ..####.#
        ..####.#
        ########
        ..#..###
        ########
        """,
    ),
    "variable": (
        Variable(local_windows=(1, 2), global_blocks=(0, 5), global_ends=(1, 7)),
        """
        #....##.
        ###..##.
        ###..##.
        #..####.
        #..####.
        #....##.
        #....##.
        #....###
        """,
    ),
    "variable, causal": (
        Variable(local_windows=(3,), global_blocks=(1,), attention="unidirectional"),
        """
        #.......
        ##......
        ###.....
        .#.#....
        .#.##...
        .#.###..
        .#....#.
        .#....##
        """,
    ),
    "bigbird without chance": (
        BigBird(random_blocks=0),
        """
        ########
        ###.....
        ####....
        #.###...
        #..###..
        #...###.
        #....###
        #.....##
        """,
    ),
    "bslongformer": (
        BSLongformer(global_blocks=(0, 4)),
        """
        ########
        ###.#...
        #####...
        #.###...
        ########
        #...###.
        #...####
        #...#.##
        """,
    ),
    "bslongformer, causal": (
        BSLongformer(window_blocks=5, attention="unidirectional"),
        """
        #.......
        ##......
        ###.....
        ####....
        #.###...
        #..###..
        #...###.
        #....###
        """,
    ),
    "sliding window": (
        SlidingWindow(attention="unidirectional"),
        """
        #.......
        ##......
        .##.....
        ..##....
        ...##...
        ....##..
        .....##.
        ......##
        """,
    ),
}


def drawn(picture):
    return torch.tensor([[cell == "#" for cell in row] for row in picture.split()])


@pytest.mark.parametrize("name", GOLDEN)
def test_drawn_by_hand(name):
    config, picture = GOLDEN[name]
    (got,) = layout_of(config, 4, 8)
    assert torch.equal(got, drawn(picture)), f"\n{got.int()}"


def test_heads_of_fixed_take_turns_with_other_representatives():
    layout = layout_of(Fixed(global_patterns=4), 6, 8)
    columns = [[j for j in range(8) if layout[h, :, j].all()] for h in range(6)]
    assert columns == [[3, 7], [2, 6], [1, 5], [0, 4], [3, 7], [2, 6]]


def test_random_blocks():
    config = BigBird(random_blocks=3, per_head=True, seed=5)
    layout = layout_of(config, 4, 64)
    assert torch.equal(layout, layout_of(config, 4, 64))
    assert not torch.equal(layout, layout_of(config.replace(seed=6), 4, 64))
    assert not torch.equal(layout[0], layout[1])
    more = layout[:, 2:].sum(2) - layout_of(BigBird(random_blocks=0), 1, 64)[:, 2:].sum(2)
    assert more.min() >= 0 and more.max() == 3 and more.float().mean() > 2.5
    everywhere = layout_of(BigBird(random_blocks=1, per_head=True), 64, 16)[:, 8].float().mean(0)
    assert everywhere.min() > 0  # no block is left out by all of 64 heads
    assert layout_of(BigBird(random_blocks=9), 4, 4).shape == (1, 4, 4)  # more than there are: all


CONFIGS = st.one_of(
    st.builds(
        lambda windows, count, patterns, attention: Fixed(
            local_blocks=windows * count,
            global_blocks=count,
            global_patterns=min(patterns, windows),
            attention=attention,
        ),
        st.integers(1, 4), st.integers(1, 3), st.integers(1, 4),
        st.sampled_from(["bidirectional", "unidirectional"]),
    ),
    st.builds(
        Variable,
        random_blocks=st.integers(0, 3),
        local_windows=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
        global_blocks=st.lists(st.integers(0, 9), max_size=3).map(tuple),
        attention=st.sampled_from(["bidirectional", "unidirectional"]),
        per_head=st.booleans(),
    ),
    st.builds(
        BigBird,
        random_blocks=st.integers(0, 3),
        window_blocks=st.sampled_from([1, 3, 5]),
        global_blocks=st.integers(0, 3),
        attention=st.sampled_from(["bidirectional", "unidirectional"]),
        per_head=st.booleans(),
    ),
    st.builds(
        BSLongformer,
        window_blocks=st.sampled_from([1, 3, 5]),
        global_blocks=st.lists(st.integers(0, 9), max_size=3).map(tuple),
        attention=st.sampled_from(["bidirectional", "unidirectional"]),
    ),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(CONFIGS, st.integers(1, 12), st.integers(1, 4))
def test_every_block_sees_itself_and_a_causal_layout_is_lower_triangular(config, blocks, heads):
    layout = layout_of(config, heads, blocks)
    assert layout.shape == (heads if config.patterns_differ else 1, blocks, blocks)
    assert layout.dtype == torch.bool and layout.diagonal(dim1=1, dim2=2).all()
    if config.attention == "unidirectional":
        assert torch.equal(layout, layout.tril())
        if not isinstance(config, Fixed):  # whose last window may be cut short
            assert torch.equal(layout, layout_of(config, heads, blocks + 3)[:, :blocks, :blocks])


def test_made_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        layout = layout_of(BigBird(), 1, 4)
    assert layout.device.type == "cpu" and layout.any()


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        (Fixed, {"local_blocks": 6, "global_blocks": 4}, "nearest legal global_blocks: 3"),
        (Fixed, {"global_patterns": 5}, "nearest legal value: 4"),
        (Fixed, {"horizontal": True, "attention": "unidirectional"}, "leave horizontal out"),
        (Variable, {"horizontal": True, "attention": "unidirectional"}, "leave horizontal out"),
        (Variable, {"local_windows": []}, "at least one window"),
        (Variable, {"global_blocks": [1, 2], "global_ends": [3]}, "an end for each start"),
        (BSLongformer, {"global_blocks": [3], "global_ends": [3]}, "nearest legal end: 4"),
        (BigBird, {"window_blocks": 4}, "nearest legal value: 5"),
        (SlidingWindow, {"window_blocks": 2}, "nearest legal value: 3"),
        (SlidingWindow, {"windows": 2}, "window_blocks"),
    ],
)
def test_refused(section, values, said):
    with pytest.raises(ConfigError, match=said):
        parse(section, values)
