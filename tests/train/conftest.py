"""Data that the tests of training share."""

from pathlib import Path

import pytest

from train.tiny import build_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token data with a byte-level vocabulary."""
    return build_data(tmp_path_factory.mktemp("tiny") / "data")
