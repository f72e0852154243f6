"""A small study in the working folder, whose workers compile fast."""

from pathlib import Path

import pytest
from studies import SMALL


@pytest.fixture(autouse=True)
def workers_that_compile_fast(monkeypatch):
    """Most of the time of such small trials is XLA's."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("s.yaml")
    path.write_text(SMALL)
    return path
