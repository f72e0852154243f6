"""Reading the data sets: what is there comes out as it is, what is damaged is refused by name."""

import gzip
import hashlib
import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gs_modules.train import image_files
from gs_modules.train.data import DATASETS, Dataset, load
from gs_modules.train.image_files import DataError
from gs_modules.train.sections import ImpossibleValueError

TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
pytestmark = pytest.mark.command

PARTS = ("train", "valid", "test")
REAL = os.environ.get("GS_MODULES_DATA")
needs_real = pytest.mark.skipif(
    REAL is None, reason="GS_MODULES_DATA names no folder with mnist/, fashion/ and the .npz"
)


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


# MNIST and Fashion-MNIST: IDX files, written here from the format's description.


def idx(pixels, *, magic=2051, count=None, size=(28, 28)) -> bytes:
    count = len(pixels) if count is None else count
    return struct.pack(">4I", magic, count, *size) + pixels.tobytes()


def grey(count: int, seed: int) -> np.ndarray:
    """Images with much white, so that the files are small and every byte can be damaged in turn."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((count, 784), np.uint8)
    pixels[:, 300:340] = rng.integers(0, 256, (count, 40))
    return pixels


@pytest.fixture
def idx_folder(tmp_path):
    (tmp_path / TRAIN).write_bytes(gzip.compress(idx(grey(5, 0)), mtime=0))
    (tmp_path / TEST).write_bytes(gzip.compress(idx(grey(3, 1))))
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize(("validation", "kept"), [(None, 5), (0, 5), (2, 3), (4, 1)])
def test_idx_files_are_read_and_their_last_rows_validate(idx_folder, name, validation, kept):
    found = load(name, idx_folder, validation)
    assert_same(found, grey(5, 0)[:kept], grey(5, 0)[kept:], grey(3, 1))
    assert (found.name, found.scale, found.image_shape) == (name, 1 / 255, (28, 28))


GOOD = idx(grey(5, 0))
IDX_DAMAGE = {
    "empty file": (b"", "0 bytes of 16"),
    "web page": (b"<!DOCTYPE html><html>Not found</html>", "Not a gzipped file"),
    "not compressed": (GOOD, "Not a gzipped file"),
    "cut in the stream": (gzip.compress(GOOD)[:-30], "EOFError"),
    "cut in the checksum": (gzip.compress(GOOD)[:-5], "EOFError"),
    "flipped checksum": (gzip.compress(GOOD)[:-8] + bytes(8), "CRC check failed"),
    "bytes after the stream": (gzip.compress(GOOD) + b"more", "Not a gzipped file"),
    "second stream": (gzip.compress(GOOD) * 2, "holds more"),
    "header alone, cut": (gzip.compress(GOOD[:10]), "10 bytes of 16"),
    "labels": (gzip.compress(struct.pack(">2I", 2049, 20) + bytes(20)), "magic number 2049"),
    "fewer images than promised": (gzip.compress(idx(grey(5, 0), count=6)), "holds only 3920"),
    "more images than promised": (gzip.compress(idx(grey(5, 0), count=4)), "holds more"),
    "one byte short": (gzip.compress(GOOD[:-1]), "holds only 3919"),
    "one byte over": (gzip.compress(GOOD + b"\0"), "holds more"),
    "other image size": (gzip.compress(idx(grey(5, 0), size=(56, 14))), "images of 56x14"),
    "no images": (gzip.compress(idx(grey(0, 0))), "has 0 images"),
    "more than published": (gzip.compress(idx(grey(5, 0), count=60_001)), "has 60001 images"),
    "absurd count": (gzip.compress(idx(grey(5, 0), count=2**32 - 1)), "has 4294967295 images"),
}


def idx_labels(labels, *, magic=2049, count=None):
    count = len(labels) if count is None else count
    return struct.pack(">2I", magic, count) + bytes(labels)


TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
FIVE = [0, 9, 3, 3, 7]
LABEL_DAMAGE = {
    "out of range": (gzip.compress(idx_labels([0, 1, 10, 3, 4])), "holds the label 10"),
    "images": (gzip.compress(GOOD), "magic number 2051, IDX labels have 2049"),
    "one too few": (gzip.compress(idx_labels(FIVE[:4])), "4 labels, and there are 5 images"),
    "lying count": (gzip.compress(idx_labels(FIVE[:4], count=5)), "holds only 4"),
    "one over": (gzip.compress(idx_labels([*FIVE, 1], count=5)), "holds more"),
    "cut header": (gzip.compress(idx_labels(FIVE)[:7]), "7 bytes of 8"),
    "web page": (b"<!DOCTYPE html><html>Not found</html>", "Not a gzipped file"),
}


@pytest.mark.parametrize(("content", "reason"), LABEL_DAMAGE.values(), ids=LABEL_DAMAGE)
def test_damaged_labels_are_refused_by_name(idx_folder, content, reason):
    (idx_folder / TRAIN_LABELS).write_bytes(content)
    with pytest.raises(DataError, match=reason) as refused:
        load("mnist", idx_folder)
    assert str(refused.value).startswith(str(idx_folder / TRAIN_LABELS))


def test_label_files_are_refused_wherever_they_are_cut_or_flipped(idx_folder):
    path = idx_folder / TRAIN_LABELS
    content = gzip.compress(idx_labels(FIVE), mtime=0)
    path.write_bytes(content)
    load("mnist", idx_folder)
    for cut in np.linspace(0, len(content) - 1, 5, dtype=int):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match=TRAIN_LABELS):
            load("mnist", idx_folder)
    for place in range(10, len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(DataError, match=TRAIN_LABELS):
            load("mnist", idx_folder)


@pytest.mark.parametrize("file", [TRAIN, TEST])
@pytest.mark.parametrize(("content", "reason"), IDX_DAMAGE.values(), ids=IDX_DAMAGE)
def test_damaged_idx_file_is_refused_by_name(idx_folder, file, content, reason):
    (idx_folder / file).write_bytes(content)
    message = refusal("mnist", idx_folder)
    assert str(idx_folder / file) in message
    assert reason in message


def test_idx_file_is_refused_wherever_it_is_cut_or_flipped(idx_folder):
    whole = (idx_folder / TRAIN).read_bytes()
    parts = grey(5, 0), grey(0, 0), grey(3, 1)
    for cut in range(len(whole)):
        (idx_folder / TRAIN).write_bytes(whole[:cut])
        assert str(idx_folder / TRAIN) in refusal("mnist", idx_folder)
    refused = 0
    for position in range(len(whole)):
        for flip in (1, 255):
            damaged = bytearray(whole)
            damaged[position] ^= flip
            (idx_folder / TRAIN).write_bytes(damaged)
            refused += assert_same_or_refused("mnist", idx_folder, parts)
    # The rest say when and where gzip ran, or are another way of writing the same pixels.
    assert refused > 0.9 * 2 * len(whole)


# Larochelle's binarisation: text, or an archive of numpy.


def binary(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, 784)).astype(np.uint8)


BINARY: dict[str, Any] = {"train": binary(6, 0), "valid": binary(3, 1), "test": binary(2, 2)}
LAYOUTS = {
    "packed": lambda rows: np.packbits(rows, axis=1),
    "packed, Fortran order": lambda rows: np.asfortranarray(np.packbits(rows, axis=1)),
    "bytes": lambda rows: rows,
    "bytes, Fortran order": np.asfortranarray,
    "bool": lambda rows: rows.astype(bool),
}


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


def write_zip(path: Path, members, compression=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


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


def lying_npy(shape: str, content: bytes, dtype="|u1", version=1) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + content


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


# What is the same for all of them.


def npz_bomb(path: Path, size: int) -> None:
    other = lying_npy("(1, 784)", bytes(784))
    write_zip(path, dict.fromkeys(PARTS, other) | {"train": lying_npy("(1, 784)", bytes(size))})


def gzip_bomb(path: Path, size: int) -> None:
    path.write_bytes(gzip.compress(idx(np.zeros(size, np.uint8), count=1), 1))
    (path.parent / TEST).write_bytes(gzip.compress(GOOD))


def amat_bomb(path: Path, size: int) -> None:
    write_amat(path.parent)
    path.write_bytes(bytes(size))


BOMBS = {
    "mnist": (gzip_bomb, TRAIN),
    "static_mnist npz": (npz_bomb, "static.npz"),
    "static_mnist amat": (amat_bomb, "binarized_mnist_train.amat"),
}


@pytest.mark.parametrize(("bomb", "file"), BOMBS.values(), ids=BOMBS)
def test_bomb_does_not_fill_the_memory(tmp_path, bomb, file):
    bomb(tmp_path / file, 2**26)
    tracemalloc.start()
    try:
        message = refusal("mnist" if file == TRAIN else "static_mnist", tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(tmp_path / file) in message
    assert peak < 2**22  # a sixteenth of the bomb


def publish(monkeypatch, name, **parts) -> None:
    """Makes small parts the published ones, as the real ones are too large to be written here."""
    published = {p: (len(r), hashlib.sha256(r.tobytes()).hexdigest()) for p, r in parts.items()}
    monkeypatch.setitem(image_files.PUBLISHED, name, published)


@pytest.mark.parametrize("write", [write_amat, lambda folder, p: np.savez(folder / "a.npz", **p)])
def test_published_count_must_come_with_the_published_pixels(tmp_path, monkeypatch, write):
    publish(monkeypatch, "static_mnist", **BINARY)
    write(tmp_path, BINARY)
    assert_same(load("static_mnist", tmp_path), *BINARY.values())
    altered = {part: rows.copy() for part, rows in BINARY.items()}
    altered["valid"][1, 17] ^= 1
    write(tmp_path, altered)
    message = refusal("static_mnist", tmp_path)
    assert "altered or other pixels, not the valid part of static_mnist" in message


def test_other_data_set_under_the_same_file_names_is_refused(idx_folder, monkeypatch):
    publish(monkeypatch, "mnist", train=grey(5, 7), test=grey(3, 1))
    publish(monkeypatch, "fashion_mnist", train=grey(5, 0), test=grey(3, 1))
    expected = "holds the train part of fashion_mnist, not the train part of mnist"
    assert expected in refusal("mnist", idx_folder)


def test_test_images_under_the_name_of_the_training_file_are_refused(idx_folder, monkeypatch):
    publish(monkeypatch, "mnist", train=grey(5, 0), test=grey(3, 1))
    load("mnist", idx_folder)
    (idx_folder / TRAIN).write_bytes((idx_folder / TEST).read_bytes())
    assert "holds the test part of mnist, not the train part" in refusal("mnist", idx_folder)


def test_amat_cut_at_a_line_end_shows_beside_complete_ones(tmp_path, monkeypatch):
    publish(monkeypatch, "static_mnist", **BINARY)
    write_amat(tmp_path, BINARY | {"train": BINARY["train"][:5]})
    message = refusal("static_mnist", tmp_path)
    assert f"{tmp_path / 'binarized_mnist_train.amat'} has 5 lines" in message
    write_amat(tmp_path, {part: rows[:1] for part, rows in BINARY.items()})
    assert_same(load("static_mnist", tmp_path), *(rows[:1] for rows in BINARY.values()))


def test_amat_longer_than_published_is_refused(tmp_path, monkeypatch):
    publish(monkeypatch, "static_mnist", **BINARY)
    write_amat(tmp_path, BINARY | {"test": binary(9, 5)})
    assert "has 3 images, the test part of static_mnist 1 to 2" in refusal("static_mnist", tmp_path)


MISSING = [
    ("mnist", [TRAIN, TEST], "Yann LeCun"),
    ("fashion_mnist", [TRAIN, TEST], "Zalando Research"),
    ("static_mnist", [f"binarized_mnist_{part}.amat" for part in PARTS], "Larochelle"),
]


@pytest.mark.parametrize(("name", "files", "origin"), MISSING)
def test_missing_file_is_named_with_its_folder_and_origin(
    tmp_path, monkeypatch, name, files, origin
):
    monkeypatch.chdir(tmp_path)
    message = refusal(name, "nowhere")
    assert f"{tmp_path / 'nowhere'}, which is not a folder" in message
    assert all(file in message for file in files)
    (tmp_path / "here").mkdir()
    for file in files:
        (tmp_path / "here" / file).mkdir()  # a folder of the file's name is no file
    for present in files[1:]:
        (tmp_path / "here" / present).rmdir()
        (tmp_path / "here" / present).write_bytes(b"")
    message = refusal(name, "here")
    assert str(tmp_path / "here") in message
    assert "not a folder" not in message
    assert [file in message for file in files] == [True] + [False] * (len(files) - 1)
    assert origin in message
    assert origin in refusal(name, None)


def test_archive_without_the_parts_is_named(tmp_path):
    np.savez(tmp_path / "mine.npz", train=BINARY["train"], test=BINARY["test"])
    assert "no train, valid and test within mine.npz" in refusal("static_mnist", tmp_path)


def test_root_may_start_at_the_home_folder(idx_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(idx_folder.parent))
    assert_same(load("mnist", f"~/{idx_folder.name}"), grey(5, 0), grey(0, 0), grey(3, 1))


@pytest.mark.parametrize(
    ("name", "rows", "validation"),
    [
        *[("digits", 1437, validation) for validation in (-1, 1437, 10**9)],
        *[("mnist", 5, validation) for validation in (-1, 5, 6)],
        *[("static_mnist", 9, validation) for validation in (-1, 9, 10)],
    ],
)
def test_validation_out_of_range_is_refused(idx_folder, name, rows, validation):
    with pytest.raises(ImpossibleValueError) as refused:
        load(name, write_amat(idx_folder), validation)
    reason = (
        f"must be 0 to {rows - 1}, as {name} has {rows} rows for training and validation together; "
        f"got {validation}"
    )
    assert (refused.value.key, refused.value.reason) == ("data.validation", reason)
    assert str(refused.value) == f"data.validation: {reason}"


def test_unknown_name_is_refused_with_the_known_ones():
    message = refusal("minst", None)
    assert "'minst'" in message
    assert all(name in message for name in DATASETS)


# Digits, always there.


def test_digits_are_the_split_of_the_design():
    from sklearn.datasets import load_digits

    images = np.asarray(load_digits(return_X_y=True)[0])
    order = np.random.default_rng(0).permutation(1797)
    rows = [[int(value >= 8) for value in images[i]] for i in order]
    assert_same(load("digits"), rows[:1200], rows[1200:1437], rows[1437:])
    assert_same(load("digits", None, 100), rows[:1337], rows[1337:1437], rows[-360:])
    found = load("digits", "no/such/folder", 0)
    assert_same(found, rows[:1437], np.zeros((0, 64)), rows[1437:])
    assert (found.name, found.scale, found.image_shape) == ("digits", 1.0, (8, 8))


def test_marginal_model_has_its_known_figure_on_digits():
    digits = load("digits", None, 0)
    mean = (digits.train.sum(0) + 1.0) / (len(digits.train) + 2.0)  # Laplace's rule
    nats = -np.where(digits.test, np.log(mean), np.log1p(-mean)).sum(1).mean()
    assert nats == pytest.approx(25.25, abs=0.005)


# The real files, where GS_MODULES_DATA says they are.

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
