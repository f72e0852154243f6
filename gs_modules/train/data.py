"""The data sets: read whole from files that are there, or refused by name.

Nothing is downloaded.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gs_modules.train.image_files import (
    ORIGIN,
    SIDE,
    DataError,
    check_idx_labels,
    read_amat,
    read_idx,
    read_npz,
)
from gs_modules.train.sections import Data, ImpossibleValueError

Root = str | os.PathLike[str] | None

_IDX = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
_FILES = {
    "mnist": _IDX,
    "fashion_mnist": _IDX,
    "static_mnist": {part: f"binarized_mnist_{part}.amat" for part in ("train", "valid", "test")},
}


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

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses a batch of more images than there are to train on, which no epoch would hold."""
        if batch_size > len(self.train):
            raise ImpossibleValueError(
                "training.batch_size",
                f"must be at most {len(self.train)}, the training images of {self.name}; "
                f"got {batch_size}",
            )


def of(config: Data) -> Dataset:
    """The data set that a config names; it raises what `load` does."""
    return load(config.name, config.root, config.validation)


def load(name: str, root: Root = None, validation: int | None = None) -> Dataset:
    """Reads a data set and carves off its validation part.

    The validation part is the last `validation` rows of training and published validation together.

    Args:
      name: one of `DATASETS`.
      root: the folder with the files; `digits` needs none. `mnist`, `fashion_mnist`: the IDX files
        `train-images-idx3-ubyte.gz`, `t10k-images-idx3-ubyte.gz`; labels beside them are checked.
        `static_mnist`: `binarized_mnist_{train,valid,test}.amat`, or, unless all three are there,
        one `.npz` with `train`, `valid` and `test`: uint8 [N, 98] of packed bits (first pixel in
        the highest bit), or uint8 or bool [N, 784] of 0 and 1.
      validation: rows, from 0 to one less than there are; None for 237 (`digits`), 0 (`mnist`,
        `fashion_mnist`), or the published validation part (`static_mnist`, 10,000).

    Returns:
      A `Dataset`, complete, the rows of the files in their order.

    Raises:
      DataError: an unknown name, a missing, truncated or altered file.
      ImpossibleValueError: `validation` is out of range.

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
            raise ImpossibleValueError(
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
    train, test = (read_idx(folder / file, name, part) for part, file in files.items())
    for part, images in (("train", train), ("test", test)):
        labels = folder / files[part].replace("images-idx3", "labels-idx1")
        if os.path.isfile(labels):
            check_idx_labels(labels, len(images))
    return Dataset(name, train, train[:0], test, 1 / 255, (SIDE, SIDE))


def _static_mnist(root: Root) -> Dataset:
    name = "static_mnist"
    files = _FILES[name]
    folder = _folder(name, root)
    if missing := [file for file in files.values() if not os.path.isfile(folder / file)]:
        archives = [path for path in sorted(folder.glob("*.npz")) if os.path.isfile(path)]
        found = {path: parts for path in archives if (parts := read_npz(path))}
        if len(found) > 1:
            raise DataError(f"{name}: keep one of {', '.join(map(str, found))}, each is complete")
        if not found:
            others = [f"train, valid and test within {path.name}" for path in archives]
            raise _absent(name, folder, missing + others)
        [parts] = found.values()
    else:
        parts = read_amat({part: folder / file for part, file in files.items()})
    return Dataset(name, parts["train"], parts["valid"], parts["test"], 1.0, (SIDE, SIDE))


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
    return f"{', '.join(_FILES[name].values())}; they come from {ORIGIN[name]}"


def _folder(name: str, root: Root) -> Path:
    if root is None:
        raise DataError(f"{name} needs data.root, the folder that holds {files_of(name)}")
    return folder_of(root)


def _absent(name: str, folder: Path, wanted: list[str]) -> DataError:
    state = "" if folder.is_dir() else ", which is not a folder"
    return DataError(
        f"{name}: no {', no '.join(wanted)} in data.root = {folder}{state}; "
        f"they come from {ORIGIN[name]}"
    )
