"""Files of images, of 28x28 pixels: the formats IDX, .npz and .amat, read or refused by name.

A file is accepted when its header, length and checksums agree, and when a part with the published
number of images has the published pixels; a smaller part is a subset.
"""

import contextlib
import gzip
import hashlib
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from gs_modules.train.failure import CommandError

SIDE = 28
_PIXELS = SIDE * SIDE
_PACKED = _PIXELS // 8
_LONGEST_LINE = 8 * _PIXELS  # bytes of an .amat line: no file makes us hold more than this at once

ORIGIN = {
    "mnist": "Yann LeCun's MNIST (yann.lecun.com/exdb/mnist), the four IDX .gz files",
    "fashion_mnist": "Zalando Research's Fashion-MNIST (github.com/zalandoresearch/fashion-mnist), "
    "the four IDX .gz files",
    "static_mnist": "Hugo Larochelle's fixed binarisation of MNIST "
    "(www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist), three .amat files or one .npz",
}
"""Where the files of each data set come from, for a message."""

# Images in each published part and the SHA-256 of its pixels, one byte each. Of the pixels, not of
# the file, so that it holds for any compression; Fashion-MNIST comes under MNIST's file names.
PUBLISHED = {
    "mnist": {
        "train": (60_000, "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"),
        "test": (10_000, "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"),
    },
    "fashion_mnist": {
        "train": (60_000, "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"),
        "test": (10_000, "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"),
    },
    "static_mnist": {
        "train": (50_000, "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a"),
        "valid": (10_000, "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e"),
        "test": (10_000, "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86"),
    },
}


class DataError(CommandError):
    """A data set is missing, damaged or not what it is called."""

    exit_code = 3


@contextlib.contextmanager
def _naming_damage(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # gzip, zlib, zipfile and numpy raise a dozen kinds at damaged bytes
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path} cannot be read as {kind} ({reason}); fetch it again") from error


def read_idx(path: Path, name: str, part: str) -> np.ndarray:
    """The images ``[N, 784]`` of a compressed IDX file, which is to be a part of ``name``."""
    with _naming_damage(path, "a gzip file"), gzip.open(path) as stream:
        header = stream.read(16)
        if len(header) < 16:
            raise DataError(f"{path} ends within its IDX header: {len(header)} bytes of 16")
        magic, count, height, width = struct.unpack(">4I", header)
        if magic != 2051:
            raise DataError(f"{path} has magic number {magic}, IDX images have 2051")
        if (height, width) != (SIDE, SIDE):
            raise DataError(f"{path} has images of {height}x{width}, {name} has {SIDE}x{SIDE}")
        _check_count(path, name, part, count)
        pixels = _read_promised(stream, path, count * _PIXELS)
    return _check_pixels(path, name, part, pixels.reshape(count, _PIXELS))


def check_idx_labels(path: Path, count: int) -> None:
    """Refuses a compressed IDX file that is not of ``count`` labels from 0 to 9.

    Nothing here learns from labels, but who damaged one of four files may have damaged the others.
    """
    with _naming_damage(path, "a gzip file"), gzip.open(path) as stream:
        header = stream.read(8)
        if len(header) < 8:
            raise DataError(f"{path} ends within its IDX header: {len(header)} bytes of 8")
        magic, promised = struct.unpack(">2I", header)
        if magic != 2049:
            raise DataError(f"{path} has magic number {magic}, IDX labels have 2049")
        if promised != count:
            raise DataError(f"{path} has {promised} labels, and there are {count} images")
        labels = _read_promised(stream, path, count, "labels")
    if labels.max() > 9:
        raise DataError(f"{path} holds the label {labels.max()}, expected 0 to 9")


def read_npz(path: Path) -> dict[str, np.ndarray] | None:
    """The three parts, or None where the archive is about something else."""
    parts = ("train", "valid", "test")
    with _naming_damage(path, "an .npz archive"), zipfile.ZipFile(path) as archive:
        if not {f"{part}.npy" for part in parts} <= set(archive.namelist()):
            return None
        rows = {part: _read_npy(archive, path, part) for part in parts}
    return {p: _check_pixels(f"{path}: {p}", "static_mnist", p, r) for p, r in rows.items()}


def _read_npy(archive: zipfile.ZipFile, path: Path, part: str) -> np.ndarray:
    # Not `numpy.load`: it allocates what the header promises before it looks at the bytes.
    member = archive.getinfo(f"{part}.npy")
    where = f"{path}: {part}"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{where} is compressed in a way that numpy does not write")
    with archive.open(member) as stream:
        if (version := np.lib.format.read_magic(stream)) != (1, 0):
            raise DataError(f"{where} has .npy version {version}, a plain array has (1, 0)")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        packed = dtype == np.uint8 and shape[1:] == (_PACKED,)
        if not packed and not (dtype in (np.uint8, np.bool_) and shape[1:] == (_PIXELS,)):
            raise DataError(
                f"{where} is {dtype} {list(shape)}, expected uint8 [N, {_PACKED}] of packed bits, "
                f"or uint8 or bool [N, {_PIXELS}] of 0 and 1"
            )
        _check_count(where, "static_mnist", part, shape[0])
        rows = _read_promised(stream, where, shape[0] * shape[1])
    rows = rows.reshape(shape, order="F" if fortran_order else "C")
    rows = np.ascontiguousarray(np.unpackbits(rows, axis=1) if packed else rows)
    if rows.max() > 1:
        raise DataError(f"{where} holds the value {rows.max()}, expected 0 and 1 alone")
    return rows


def read_amat(files: dict[str, Path]) -> dict[str, np.ndarray]:
    """The parts of the static binarisation, each a text file."""
    parts = {part: _read_amat_part(path, part) for part, path in files.items()}
    # Text has no header: a file cut at a line's end shows only beside the complete ones.
    short = [p for p, rows in parts.items() if len(rows) < PUBLISHED["static_mnist"][p][0]]
    if 0 < len(short) < len(parts):
        raise DataError(
            f"{files[short[0]]} has {len(parts[short[0]])} lines, and as another part is complete, "
            "it is taken for truncated; fetch it again, or make a subset of every part"
        )
    return parts


def _read_amat_part(path: Path, part: str) -> np.ndarray:
    rows = []
    with _naming_damage(path, "text"), open(path, "rb") as stream:
        while line := stream.readline(_LONGEST_LINE):
            values = line.split()
            row = b"".join(values)
            if len(values) != _PIXELS or len(row) != _PIXELS or row.strip(b"01"):
                raise DataError(
                    f"{path}: line {len(rows) + 1} has {len(values)} values, expected {_PIXELS}, "
                    "each of them 0 or 1"
                )
            rows.append(row)
            _check_count(path, "static_mnist", part, len(rows))
    _check_count(path, "static_mnist", part, len(rows))
    pixels = np.frombuffer(b"".join(rows), np.uint8) - np.uint8(ord("0"))
    return _check_pixels(path, "static_mnist", part, pixels.reshape(len(rows), _PIXELS))


def _read_promised(
    stream: gzip.GzipFile | IO[bytes], where: Path | str, size: int, what: str = "pixels"
) -> np.ndarray:
    # One byte more than promised: a longer file shows, the checksum at the end is reached, and what
    # decompresses without end does not fill the memory.
    body = stream.read(size + 1)
    if len(body) != size:
        held = "more" if len(body) > size else f"only {len(body)}"
        raise DataError(f"{where} promises {size} bytes of {what} in its header and holds {held}")
    return np.frombuffer(body, np.uint8)


def _check_count(where: Path | str, name: str, part: str, count: int) -> None:
    published, _ = PUBLISHED[name][part]
    if not 1 <= count <= published:
        raise DataError(f"{where} has {count} images, the {part} part of {name} 1 to {published}")


def _check_pixels(where: Path | str, name: str, part: str, rows: np.ndarray) -> np.ndarray:
    published = {d: (n, p) for n, parts in PUBLISHED.items() for p, (_, d) in parts.items()}
    found = published.get(hashlib.sha256(rows.data).hexdigest())
    if found != (name, part) and (found or len(rows) == PUBLISHED[name][part][0]):
        held = f"the {found[1]} part of {found[0]}" if found else "altered or other pixels"
        raise DataError(
            f"{where} holds {held}, not the {part} part of {name}; fetch it from {ORIGIN[name]}"
        )
    return rows
