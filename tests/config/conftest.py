"""A file for the config of a test."""

from pathlib import Path

import pytest


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path("c.yaml")
