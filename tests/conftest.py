"""What every test may ask for.

Public checkpoints and texts are not ours to ship. Tests that ask for their folder are left out
where it is not there, and the summary counts them; test_own_golden.py asks the same of a model that
the repository carries.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .ane.build import Fake

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = pytest.StashKey[int]()
SHARED = Path(os.environ.get("ANEFAST_TEST_DATA") or ROOT.parent / "shared" / "data")


def pytest_configure() -> None:
    """A shell starts what runs in its background with SIGINT ignored; tests of Ctrl-C need it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if SHARED.is_dir():
        return
    asking = [i for i in items if "data_dir" in getattr(i, "fixturenames", ())]
    items[:] = [i for i in items if i not in asking]
    config.hook.pytest_deselected(items=asking)
    config.stash[LEFT_OUT] = len(asking)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{count} tests of public models and texts are left out: {SHARED} is not there. "
            "ANEFAST_TEST_DATA names another folder."
        )


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of shared test data: $ANEFAST_TEST_DATA, or ../shared/data beside the project."""
    return SHARED


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of a session."""
    base = factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Fake:
    """The package with device "ane" over a fake system, made once per session."""
    from .ane.build import build, missing  # not there where a part of the tests was copied

    if why := missing():
        pytest.skip(why)
    return build(session_folder(tmp_path_factory) / "fake-ane")
