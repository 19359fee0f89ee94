"""What rows hold, kept in step with the batch."""

import torch

from mainspring.infer.history import History, repeating
from mainspring.infer.options import GenerateOptions


def test_repeating_is_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, 4):
        for length in range(12):
            row = torch.randint(3, (length,), generator=generator).tolist()
            held = {tuple(row[k : k + size]) for k in range(length - size + 1)}
            tail = tuple(row[length - size + 1 :]) if size > 1 else ()
            expected = {t for t in range(3) if len(tail) == size - 1 and (*tail, t) in held}
            assert repeating(row, size) == expected


def test_rows_follow_the_batch() -> None:
    options = GenerateOptions(no_repeat_ngram=2, repetition_penalty=2.0)
    history = History([[1, 2, 1], [3]], torch.zeros(2, 5), options)
    history.select([1, 0, 0])
    history.add([3, 2, 4])  # rows are now 3 3; 1 2 1 2; 1 2 1 4
    blocked = history.blocked(torch.device("cpu"))
    assert blocked is not None
    assert [set(row.nonzero().flatten().tolist()) for row in blocked] == [{3}, {1}, set()]
    lowered = history.penalize(torch.ones(3, 5)) < 1
    assert [set(row.nonzero().flatten().tolist()) for row in lowered] == [{3}, {1, 2}, {1, 2, 4}]


def test_a_row_without_a_way_on_is_free() -> None:
    history = History([[0, 1], [0]], torch.zeros(2, 2), GenerateOptions(no_repeat_ngram=1))
    blocked = history.blocked(torch.device("cpu"))
    assert blocked is not None and blocked.tolist() == [[False, False], [True, False]]
    assert History([[0]], torch.zeros(1, 2), GenerateOptions()).blocked(torch.device("cpu")) is None
