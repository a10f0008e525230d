"""What the system tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def small1_archive():
    """The official small set of Omniglot; skipped where it is absent, an error in CI."""
    folder = Path(os.environ.get("METABRIDGE_TEST_DATA", ROOT.parent / "shared" / "data"))
    archive = folder / "omniglot" / "images_background_small1.zip"
    if not archive.is_file():
        reason = f"the real Omniglot images are not at {archive}; METABRIDGE_TEST_DATA names another folder"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return archive


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """Whoever runs the tests may have a narrow terminal, in which tables are cut."""
    monkeypatch.setenv("COLUMNS", "1000")
