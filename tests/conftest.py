"""What every test folder shares: Hypothesis profiles and a small class source whose pixels say who they are."""

import os

import pytest
from helpers import coded_source
from hypothesis import settings

# A failure prints the line that replays it. In CI the examples are the same in every run.
settings.register_profile("local", print_blob=True, deadline=None)
settings.register_profile("CI", print_blob=True, deadline=None, derandomize=True, database=None)
settings.load_profile("CI" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def source():
    """8 classes of 12 coded 6×6×1 images; see `helpers.coded_source`."""
    return coded_source([12] * 8)
