"""MNIST and Fashion-MNIST: IDX files, written here from the format's description."""

import gzip
import struct

import numpy as np
import pytest
from written import (
    GOOD,
    TEST,
    TRAIN,
    assert_same,
    assert_same_or_refused,
    grey,
    idx,
    idx_labels,
    refusal,
)

from gs_modules.train.data import load
from gs_modules.train.image_files import DataError

pytestmark = pytest.mark.command


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize(("validation", "kept"), [(None, 5), (0, 5), (2, 3), (4, 1)])
def test_idx_files_are_read_and_their_last_rows_validate(idx_folder, name, validation, kept):
    found = load(name, idx_folder, validation)
    assert_same(found, grey(5, 0)[:kept], grey(5, 0)[kept:], grey(3, 1))
    assert (found.name, found.scale, found.image_shape) == (name, 1 / 255, (28, 28))


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
