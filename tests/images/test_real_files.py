"""The real files of MNIST, where GS_MODULES_DATA says they are."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from written import (
    TEST,
    TRAIN,
    assert_same,
    refusal,
)

from gs_modules.train.data import load

pytestmark = pytest.mark.command

REAL = os.environ.get("GS_MODULES_DATA")
needs_real = pytest.mark.skipif(
    REAL is None, reason="GS_MODULES_DATA names no folder with mnist/, fashion/ and the .npz"
)
REAL_IDX = {
    "mnist": ("mnist", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "9fb629c4189551a2d022fa330f9573f3"),
    "fashion_mnist": (
        "fashion",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "bef4ecab320f06d8554ea6380940ec79",
    ),
}
# As published with the files, https://www.tensorflow.org/datasets/catalog/binarized_mnist.
REAL_AMAT_SHA256 = {
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}


@needs_real
@pytest.mark.parametrize("name", REAL_IDX)
def test_real_idx_files_are_read_and_no_other(name, tmp_path):
    assert REAL is not None
    folder, *checksums = REAL_IDX[name]
    for file, checksum in zip((TRAIN, TEST), checksums, strict=True):
        content = Path(REAL, folder, file).read_bytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == checksum
    found = load(name, Path(REAL, folder), 5000)
    assert [len(rows) for rows in (found.train, found.validation, found.test)] == [
        55_000,
        5_000,
        10_000,
    ]
    [other] = set(REAL_IDX) - {name}
    assert f"the train part of {name}, not" in refusal(other, Path(REAL, folder))
    altered = bytearray(gzip.decompress(Path(REAL, folder, TEST).read_bytes()))
    altered[-400] ^= 1
    (tmp_path / TEST).write_bytes(gzip.compress(altered, 1))
    (tmp_path / TRAIN).write_bytes(Path(REAL, folder, TRAIN).read_bytes())
    assert f"{tmp_path / TEST} holds altered" in refusal(name, tmp_path)


@needs_real
def test_real_static_archive_is_the_published_text(tmp_path):
    assert REAL is not None
    found = load("static_mnist", REAL)
    parts = {"train": found.train, "valid": found.validation, "test": found.test}
    assert [len(rows) for rows in parts.values()] == [50_000, 10_000, 10_000]
    for part, rows in parts.items():
        text = np.full((len(rows), 2 * 784), ord(" "), np.uint8)
        text[:, ::2] = rows + ord("0")
        text[:, -1] = ord("\n")
        assert hashlib.sha256(text.data).hexdigest() == REAL_AMAT_SHA256[part]
        (tmp_path / f"binarized_mnist_{part}.amat").write_bytes(text.data)
    assert_same(load("static_mnist", tmp_path), *parts.values())
