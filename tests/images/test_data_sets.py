"""What is the same for all data sets: no bombs, published counts, missing files; and digits."""

import gzip
import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from written import (
    BINARY,
    GOOD,
    PARTS,
    TEST,
    TRAIN,
    assert_same,
    binary,
    grey,
    idx,
    lying_npy,
    refusal,
    write_amat,
    write_zip,
)

from gs_modules.train import image_files
from gs_modules.train.data import DATASETS, load
from gs_modules.train.sections import ImpossibleValueError

pytestmark = pytest.mark.command


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
