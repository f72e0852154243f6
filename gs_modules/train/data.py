"""The data sets: read whole from files that are there, or refused by name.

Nothing is downloaded. A file is accepted when its header, length and checksums agree, and when a
part with the published number of images has the published pixels; a smaller part is a subset.
"""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

Root = str | os.PathLike[str] | None

_SIDE = 28
_PIXELS = _SIDE * _SIDE
_PACKED = _PIXELS // 8
_LONGEST_LINE = 8 * _PIXELS  # bytes of an .amat line: no file makes us hold more than this at once

_ORIGIN = {
    "mnist": "Yann LeCun's MNIST (yann.lecun.com/exdb/mnist), the four IDX .gz files",
    "fashion_mnist": "Zalando Research's Fashion-MNIST (github.com/zalandoresearch/fashion-mnist), "
    "the four IDX .gz files",
    "static_mnist": "Hugo Larochelle's fixed binarisation of MNIST "
    "(www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist), three .amat files or one .npz",
}

_IDX = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
_FILES = {
    "mnist": _IDX,
    "fashion_mnist": _IDX,
    "static_mnist": {part: f"binarized_mnist_{part}.amat" for part in ("train", "valid", "test")},
}

# Images in each published part and the SHA-256 of its pixels, one byte each. Of the pixels, not of
# the file, so that it holds for any compression; Fashion-MNIST comes under MNIST's file names.
_PUBLISHED = {
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


class DataError(Exception):
    """A data set that is missing, damaged or not what it is called; for a person to read."""


class RowsError(Exception):
    """A key of the config asks for more rows than the data set has."""

    def __init__(self, key: str, reason: str):
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, one image a row.

    Args:
      name: its name in `DATASETS`.
      train: read-only uint8 [N, H*W], N > 0.
      validation: read-only uint8 [V, H*W], V may be 0.
      test: read-only uint8 [T, H*W], T > 0.
      scale: times this, pixels lie in [0, 1]: 1.0 for binary data, 1/255 for grey-scale.
      image_shape: (H, W).
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    scale: float
    image_shape: tuple[int, int]


def load(name: str, root: Root = None, validation: int | None = None) -> Dataset:
    """Reads a data set and carves off its validation part.

    The validation part is the last `validation` rows of training and published validation together.

    Args:
      name: one of `DATASETS`.
      root: the folder with the files; `digits` needs none. `mnist`, `fashion_mnist`: the IDX files
        `train-images-idx3-ubyte.gz`, `t10k-images-idx3-ubyte.gz` (labels are not read).
        `static_mnist`: `binarized_mnist_{train,valid,test}.amat`, or, unless all three are there,
        one `.npz` with `train`, `valid` and `test`: uint8 [N, 98] of packed bits (first pixel in
        the highest bit), or uint8 or bool [N, 784] of 0 and 1.
      validation: rows, from 0 to one less than there are; None for 237 (`digits`), 0 (`mnist`,
        `fashion_mnist`), or the published validation part (`static_mnist`, 10,000).

    Returns:
      A `Dataset`, complete, the rows of the files in their order.

    Raises:
      DataError: an unknown name, a missing, truncated or altered file.
      RowsError: `validation` is out of range.

    Source: `digits` is scikit-learn's (UCI optical digits), 1 where `pixel >= 8`, in the order of
    `numpy.random.default_rng(0).permutation(1797)`: 1,437 to train on, the last 360 to test. MNIST:
    LeCun et al. (1998). Fashion-MNIST: Xiao et al. (2017), arXiv:1708.07747. `static_mnist`:
    Larochelle and Murray (2011), after Salakhutdinov and Murray (2008).

    Example:
      >>> digits = load("digits")
      >>> digits.train.shape, digits.validation.shape, digits.test.shape
      ((1200, 64), (237, 64), (360, 64))
    """
    if name not in DATASETS:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")
    data = DATASETS[name](root)
    if validation is not None:
        rows = np.concatenate([data.train, data.validation])
        kept = len(rows) - validation
        if validation < 0 or kept < 1:
            raise RowsError(
                "data.validation",
                f"must be 0 to {len(rows) - 1}, as {name} has {len(rows)} rows for training and "
                f"validation together; got {validation}",
            )
        data = dataclasses.replace(data, train=rows[:kept], validation=rows[kept:])
    for part in (data.train, data.validation, data.test):
        part.setflags(write=False)
    return data


def _digits(root: Root) -> Dataset:
    del root  # comes with scikit-learn
    from sklearn.datasets import load_digits  # takes a second to import, and only this needs it

    pixels = np.asarray(load_digits(return_X_y=True)[0])
    rows = (pixels >= 8).astype(np.uint8)[np.random.default_rng(0).permutation(1797)]
    return Dataset("digits", rows[:1200], rows[1200:1437], rows[1437:], 1.0, (8, 8))


def _idx(name: str, root: Root) -> Dataset:
    files = _FILES[name]
    folder = _folder(name, root)
    if missing := [file for file in files.values() if not os.path.isfile(folder / file)]:
        raise _absent(name, folder, missing)
    train, test = (_read_idx(folder / file, name, part) for part, file in files.items())
    return Dataset(name, train, train[:0], test, 1 / 255, (_SIDE, _SIDE))


def _static_mnist(root: Root) -> Dataset:
    name = "static_mnist"
    files = _FILES[name]
    folder = _folder(name, root)
    if missing := [file for file in files.values() if not os.path.isfile(folder / file)]:
        archives = [path for path in sorted(folder.glob("*.npz")) if os.path.isfile(path)]
        found = {path: parts for path in archives if (parts := _read_npz(path))}
        if len(found) > 1:
            raise DataError(f"{name}: keep one of {', '.join(map(str, found))}, each is complete")
        if not found:
            others = [f"train, valid and test within {path.name}" for path in archives]
            raise _absent(name, folder, missing + others)
        [parts] = found.values()
    else:
        parts = _read_amat({part: folder / file for part, file in files.items()})
    return Dataset(name, parts["train"], parts["valid"], parts["test"], 1.0, (_SIDE, _SIDE))


DATASETS: dict[str, Callable[[Root], Dataset]] = {
    "digits": _digits,
    "mnist": functools.partial(_idx, "mnist"),
    "fashion_mnist": functools.partial(_idx, "fashion_mnist"),
    "static_mnist": _static_mnist,
}


def folder_of(root: str | os.PathLike[str]) -> Path:
    """The folder that a `root` means."""
    return Path(os.path.abspath(os.path.expanduser(root)))


def files_of(name: str) -> str:
    """The files that a data set is read from and where they come from, for a message."""
    return f"{', '.join(_FILES[name].values())}; they come from {_ORIGIN[name]}"


def _folder(name: str, root: Root) -> Path:
    if root is None:
        raise DataError(f"{name} needs data.root, the folder that holds {files_of(name)}")
    return folder_of(root)


def _absent(name: str, folder: Path, wanted: list[str]) -> DataError:
    state = "" if folder.is_dir() else ", which is not a folder"
    return DataError(
        f"{name}: no {', no '.join(wanted)} in data.root = {folder}{state}; "
        f"they come from {_ORIGIN[name]}"
    )


@contextlib.contextmanager
def _naming_damage(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # gzip, zlib, zipfile and numpy raise a dozen kinds at damaged bytes
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path} cannot be read as {kind} ({reason}); fetch it again") from error


def _read_idx(path: Path, name: str, part: str) -> np.ndarray:
    with _naming_damage(path, "a gzip file"), gzip.open(path) as stream:
        header = stream.read(16)
        if len(header) < 16:
            raise DataError(f"{path} ends within its IDX header: {len(header)} bytes of 16")
        magic, count, height, width = struct.unpack(">4I", header)
        if magic != 2051:
            raise DataError(f"{path} has magic number {magic}, IDX images have 2051")
        if (height, width) != (_SIDE, _SIDE):
            raise DataError(f"{path} has images of {height}x{width}, {name} has {_SIDE}x{_SIDE}")
        _check_count(path, name, part, count)
        pixels = _read_promised(stream, path, count * _PIXELS)
    return _check_pixels(path, name, part, pixels.reshape(count, _PIXELS))


def _read_npz(path: Path) -> dict[str, np.ndarray] | None:
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


def _read_amat(files: dict[str, Path]) -> dict[str, np.ndarray]:
    parts = {part: _read_amat_part(path, part) for part, path in files.items()}
    # Text has no header: a file cut at a line's end shows only beside the complete ones.
    short = [p for p, rows in parts.items() if len(rows) < _PUBLISHED["static_mnist"][p][0]]
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


def _read_promised(stream: gzip.GzipFile | IO[bytes], where: Path | str, size: int) -> np.ndarray:
    # One byte more than promised: a longer file shows, the checksum at the end is reached, and what
    # decompresses without end does not fill the memory.
    body = stream.read(size + 1)
    if len(body) != size:
        held = "more" if len(body) > size else f"only {len(body)}"
        raise DataError(f"{where} promises {size} bytes of pixels in its header and holds {held}")
    return np.frombuffer(body, np.uint8)


def _check_count(where: Path | str, name: str, part: str, count: int) -> None:
    published, _ = _PUBLISHED[name][part]
    if not 1 <= count <= published:
        raise DataError(f"{where} has {count} images, the {part} part of {name} 1 to {published}")


def _check_pixels(where: Path | str, name: str, part: str, rows: np.ndarray) -> np.ndarray:
    published = {d: (n, p) for n, parts in _PUBLISHED.items() for p, (_, d) in parts.items()}
    found = published.get(hashlib.sha256(rows.data).hexdigest())
    if found != (name, part) and (found or len(rows) == _PUBLISHED[name][part][0]):
        held = f"the {found[1]} part of {found[0]}" if found else "altered or other pixels"
        raise DataError(
            f"{where} holds {held}, not the {part} part of {name}; fetch it from {_ORIGIN[name]}"
        )
    return rows
