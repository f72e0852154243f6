"""A folder with the files of a small MNIST."""

import gzip

import pytest
from written import (
    TEST,
    TRAIN,
    grey,
    idx,
)


@pytest.fixture
def idx_folder(tmp_path):
    (tmp_path / TRAIN).write_bytes(gzip.compress(idx(grey(5, 0)), mtime=0))
    (tmp_path / TEST).write_bytes(gzip.compress(idx(grey(3, 1))))
    return tmp_path
