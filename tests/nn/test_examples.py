"""The examples in the docstrings run."""

import doctest

import pytest

from mainspring.nn import init, transformer


@pytest.mark.parametrize("module", [init, transformer])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
