"""Data sets written here from the descriptions of their formats, and what reading them gives."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gs_modules.train.data import Dataset, load
from gs_modules.train.image_files import DataError

TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
PARTS = ("train", "valid", "test")


def refusal(name, root, validation=None) -> str:
    """The message with which `load` refuses: one line, as the command prints it."""
    with pytest.raises(DataError) as caught:
        load(name, root, validation)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_same(found: Dataset, train, validation, test):
    for rows, expected in zip(
        (found.train, found.validation, found.test), (train, validation, test), strict=True
    ):
        assert rows.dtype == np.uint8
        assert not rows.flags.writeable
        np.testing.assert_array_equal(rows, expected)


def assert_same_or_refused(name, root, parts) -> bool:
    """True if refused. Bytes that carry no data, such as a time stamp, may change."""
    try:
        found = load(name, root)
    except DataError:
        return True
    assert_same(found, *parts)
    return False


def idx(pixels, *, magic=2051, count=None, size=(28, 28)) -> bytes:
    count = len(pixels) if count is None else count
    return struct.pack(">4I", magic, count, *size) + pixels.tobytes()


def grey(count: int, seed: int) -> np.ndarray:
    """Images with much white, so that the files are small and every byte can be damaged in turn."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((count, 784), np.uint8)
    pixels[:, 300:340] = rng.integers(0, 256, (count, 40))
    return pixels


GOOD = idx(grey(5, 0))


def idx_labels(labels, *, magic=2049, count=None):
    count = len(labels) if count is None else count
    return struct.pack(">2I", magic, count) + bytes(labels)


def binary(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, 784)).astype(np.uint8)


BINARY: dict[str, Any] = {"train": binary(6, 0), "valid": binary(3, 1), "test": binary(2, 2)}


def amat(rows, end="\n") -> bytes:
    return "".join(" ".join(map(str, row)) + end for row in rows.tolist()).encode()


def write_amat(folder: Path, parts=BINARY, **options) -> Path:
    for part, rows in parts.items():
        (folder / f"binarized_mnist_{part}.amat").write_bytes(amat(rows, **options))
    return folder


def npy(rows) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, rows, allow_pickle=True)
    return stream.getvalue()


def lying_npy(shape: str, content: bytes, dtype="|u1", version=1) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + content


def write_zip(path: Path, members, compression=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path
