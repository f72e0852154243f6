"""What the models learn: handwritten digits, and the sources of Python's standard library."""

import dataclasses
import gzip
import os
from pathlib import Path

import numpy as np

CONTEXT = 64


@dataclasses.dataclass(frozen=True)
class Images:
    """``[N, side, side, 1]`` float32 in 0 .. 1, and the digit that each shows."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def images() -> Images:
    """scikit-learn's digits; a part of MNIST, at half its size, where GS_MODULES_DATA has it."""
    root = os.environ.get("GS_MODULES_DATA")
    return _digits() if root is None else _mnist(Path(root) / "mnist")


def _digits() -> Images:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    x = (pixels[order] / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    y = labels[order].astype(np.int32)
    return Images(x[:1437], y[:1437], x[1437:], y[1437:])


def _mnist(folder: Path) -> Images:
    def read(name: str, header: int, count: int, size: int = 1) -> np.ndarray:
        with gzip.open(folder / name) as file:
            return np.frombuffer(file.read(header + count * size)[header:], np.uint8)

    def part(prefix: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = read(f"{prefix}-images-idx3-ubyte.gz", 16, count, 28 * 28)
        halved = pixels.reshape(count, 14, 2, 14, 2, 1).mean((2, 4)) / 255
        labels = read(f"{prefix}-labels-idx1-ubyte.gz", 8, count)
        return halved.astype(np.float32), labels.astype(np.int32)

    return Images(*part("train", 6000), *part("t10k", 1000))


def sources() -> tuple[np.ndarray, np.ndarray]:
    """The standard library's modules as bytes, int32: every tenth file is kept for the test."""
    paths = sorted(Path(os.__file__).parent.glob("*.py"))
    texts = [np.frombuffer(path.read_bytes(), np.uint8).astype(np.int32) for path in paths]
    train = [text for number, text in enumerate(texts) if number % 10]
    return np.concatenate(train), np.concatenate(texts[::10])


def windows(text: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """``[len(starts), CONTEXT]``."""
    return text[starts[:, None] + np.arange(CONTEXT)]
