"""What every test folder shares: how programs are compiled, Hypothesis profiles and a small class source."""

import os

import pytest
from helpers import coded_source
from hypothesis import settings

# Tests run a program once or twice, so XLA compiles them fast instead of compiling fast programs: a fifth of the time.
# `XLA_FLAGS= pytest` tests programs as users run them. Subprocesses of `system/` always do.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false",
)
# Arrays are small, and tests run side by side: waiting for other threads costs more than they help.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A failure prints the line that replays it. In CI the examples are the same in every run.
settings.register_profile("local", print_blob=True, deadline=None)
settings.register_profile("CI", print_blob=True, deadline=None, derandomize=True, database=None)
settings.load_profile("CI" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def source():
    """8 classes of 12 coded 6×6×1 images; see `helpers.coded_source`."""
    return coded_source([12] * 8)
