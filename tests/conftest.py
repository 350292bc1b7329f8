"""What every test may ask for. Shared data lives outside the repository; absence skips, aloud."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of shared test data: $ANEFAST_TEST_DATA, or ../shared/data beside the project."""
    said = os.environ.get("ANEFAST_TEST_DATA")
    path = Path(said) if said else ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(
            f"no shared test data at {path}; set ANEFAST_TEST_DATA to the folder that holds it"
        )
    return path
