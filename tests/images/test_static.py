"""Larochelle's binarisation of MNIST: text, or an archive of numpy."""

import zipfile
from typing import Any

import numpy as np
import pytest
from written import (
    BINARY,
    PARTS,
    amat,
    assert_same,
    assert_same_or_refused,
    lying_npy,
    npy,
    refusal,
    write_amat,
    write_zip,
)

from gs_modules.train.data import load

pytestmark = pytest.mark.command

LAYOUTS = {
    "packed": lambda rows: np.packbits(rows, axis=1),
    "packed, Fortran order": lambda rows: np.asfortranarray(np.packbits(rows, axis=1)),
    "bytes": lambda rows: rows,
    "bytes, Fortran order": np.asfortranarray,
    "bool": lambda rows: rows.astype(bool),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"], ids=["unix", "dos", "trailing space"])
def test_amat_files_are_read(tmp_path, end):
    found = load("static_mnist", write_amat(tmp_path, end=end))
    assert_same(found, *BINARY.values())
    assert (found.scale, found.image_shape) == (1.0, (28, 28))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_npz_file_is_read_in_every_layout(tmp_path, layout, save):
    rows: dict[str, Any] = {part: layout(rows) for part, rows in BINARY.items()}
    save(tmp_path / "any name.npz", **rows, licence=np.zeros(3))
    np.savez(tmp_path / "about something else.npz", train=np.zeros(3))
    found = load("static_mnist", tmp_path)
    assert_same(found, *BINARY.values())
    assert (found.scale, found.image_shape) == (1.0, (28, 28))


def test_amat_files_go_before_an_archive_that_serves_where_one_is_missing(tmp_path):
    other = {part: 1 - rows for part, rows in BINARY.items()}
    np.savez(tmp_path / "other.npz", **other)
    write_amat(tmp_path)
    assert_same(load("static_mnist", tmp_path), *BINARY.values())
    (tmp_path / "binarized_mnist_valid.amat").unlink()
    assert_same(load("static_mnist", tmp_path), *other.values())


@pytest.mark.parametrize("validation", [0, 1, 3, 5, 8])
def test_static_validation_is_the_end_of_train_and_valid(tmp_path, validation):
    found = load("static_mnist", write_amat(tmp_path), validation)
    rows = [*BINARY["train"], *BINARY["valid"]]
    expected = [rows.pop() for _ in range(validation)][::-1]
    assert_same(found, rows, np.reshape(expected, (validation, 784)), BINARY["test"])


AMAT_DAMAGE = {
    "empty": (b"", "has 0 images"),
    "web page": (b"<!DOCTYPE html>\n<html>\n", "line 1 has 2 values"),
    "cut within a line": (amat(BINARY["train"])[:-20], "line 6 has 774 values"),
    "line too long": (amat(BINARY["train"]).replace(b"\n", b" 1\n", 1), "line 1 has 785 values"),
    "blank line": (amat(BINARY["train"]) + b"\n", "line 7 has 0 values"),
    "a two": (amat(BINARY["train"])[:-2] + b"2\n", "line 6 has 784 values, expected 784, each of"),
    "a letter": (b"x" + amat(BINARY["train"])[1:], "line 1 has 784 values, expected 784, each of"),
    "a decimal": (b"0.0" + amat(BINARY["train"])[1:], "line 1 has 784 values, expected 784, each"),
    "a ten": (b"1" + amat(BINARY["train"]), "line 1 has 784 values, expected 784, each of"),
    "a number lost": (b"01" + amat(BINARY["train"])[3:], "line 1 has 783 values"),
    "binary": (bytes(range(256)) * 100, "line 1 has"),
    "a line without end": (b"0 " * 2**16, "line 1 has 3136 values"),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("content", "reason"), AMAT_DAMAGE.values(), ids=AMAT_DAMAGE)
def test_damaged_amat_file_is_refused_by_name(tmp_path, part, content, reason):
    path = write_amat(tmp_path) / f"binarized_mnist_{part}.amat"
    path.write_bytes(content)
    message = refusal("static_mnist", tmp_path)
    assert str(path) in message
    assert reason in message


NPY_DAMAGE = {
    "empty": (b"", "EOF"),
    "no numpy": (b"hello, world" * 10, "magic string is not correct"),
    "pickle": (npy(np.array([{"a": 1}], object)), "is object [1]"),
    "floats": (npy(np.zeros((4, 784), np.float32)), "is float32 [4, 784]"),
    "wide integers": (npy(np.zeros((4, 98), np.int64)), "is int64 [4, 98]"),
    "other width": (npy(np.zeros((4, 783), np.uint8)), "is uint8 [4, 783]"),
    "packed bools": (npy(np.zeros((4, 98), bool)), "is bool [4, 98]"),
    "images": (npy(np.zeros((4, 28, 28), np.uint8)), "is uint8 [4, 28, 28]"),
    "scalar": (npy(np.zeros((), np.uint8)), "is uint8 []"),
    "grey": (npy(np.full((4, 784), 2, np.uint8)), "holds the value 2"),
    "bool of two": (lying_npy("(1, 784)", b"\2" * 784, dtype="|b1"), "holds the value 2"),
    "no rows": (npy(np.zeros((0, 784), np.uint8)), "has 0 images"),
    "negative rows": (lying_npy("(-1, 784)", b""), "has -1 images"),
    "fewer bytes than promised": (lying_npy("(3, 98)", bytes(293)), "holds only 293"),
    "more bytes than promised": (lying_npy("(3, 98)", bytes(295)), "holds more"),
    "absurd count": (lying_npy("(10**12, 98)", b""), "cannot be read as an .npz archive"),
    "more than published": (lying_npy("(50001, 98)", b""), "has 50001 images"),
    "later version": (lying_npy("(1, 98)", bytes(98), version=2), "version (2, 0)"),
    "deep header": (lying_npy("(" * 5000, b""), "cannot be read as an .npz archive"),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("content", "reason"), NPY_DAMAGE.values(), ids=NPY_DAMAGE)
def test_damaged_array_is_refused_by_name(tmp_path, part, content, reason):
    members = {name: npy(rows) for name, rows in BINARY.items()} | {part: content}
    path = write_zip(tmp_path / "static.npz", members)
    message = refusal("static_mnist", tmp_path)
    assert str(path) in message
    assert reason in message


ARCHIVE_DAMAGE = {
    "empty": (lambda whole: b"", "File is not a zip file"),
    "web page": (lambda whole: b"<!DOCTYPE html>", "File is not a zip file"),
    "one array": (lambda whole: npy(BINARY["train"]), "File is not a zip file"),
    "cut": (lambda whole: whole[:-200], "File is not a zip file"),
    "flipped pixel": (lambda whole: whole[:500] + b"\7" + whole[501:], "Bad CRC-32"),
}


@pytest.mark.parametrize(("damage", "reason"), ARCHIVE_DAMAGE.values(), ids=ARCHIVE_DAMAGE)
def test_damaged_archive_is_refused_by_name(tmp_path, damage, reason):
    np.savez(path := tmp_path / "static.npz", **BINARY)
    path.write_bytes(damage(path.read_bytes()))
    message = refusal("static_mnist", tmp_path)
    assert str(path) in message
    assert reason in message


def test_archive_is_refused_wherever_it_is_cut_or_flipped(tmp_path):
    path = tmp_path / "static.npz"
    rows: dict[str, Any] = {part: np.packbits(rows[:1], axis=1) for part, rows in BINARY.items()}
    np.savez_compressed(path, **rows)
    whole = path.read_bytes()
    parts = [rows[:1] for rows in BINARY.values()]
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        assert path.name in refusal("static_mnist", tmp_path)
    refused = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 255
        path.write_bytes(damaged)
        refused += assert_same_or_refused("static_mnist", tmp_path, parts)
    # The pixels, the compressed headers and both copies of the three names cannot pass.
    assert refused >= 3 * (98 + 50 + 2 * len("test.npy"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archive_of_another_compression_is_refused(tmp_path, compression):
    members = {part: npy(rows) for part, rows in BINARY.items()}
    path = write_zip(tmp_path / "static.npz", members, compression)
    assert f"{path}: train is compressed in a way" in refusal("static_mnist", tmp_path)


def test_two_archives_are_refused(tmp_path):
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, **BINARY)
    message = refusal("static_mnist", tmp_path)
    assert str(tmp_path / "a.npz") in message
    assert str(tmp_path / "b.npz") in message
