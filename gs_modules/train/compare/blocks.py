"""Means over independent blocks of samples, and what of their norm is noise.

The norm of a noisy mean is too large: it never falls below the noise. From blocks, the noise can be
told and taken out.
"""

from __future__ import annotations

import numpy as np

BLOCKS = 32
"""Blocks in which samples are drawn: enough for a standard error, few enough to keep in memory."""


def block_size(samples: int) -> int:
    """Samples of one block, so that all blocks hold at least ``samples`` together; 2 or more."""
    return max(2, -(-samples // BLOCKS))


def squared_norm(blocks: np.ndarray) -> tuple[float, float]:
    """The squared norm of the mean without its noise, and the standard error of that.

    ``sum_{i != j} <x_i, x_j> / (n (n - 1))`` over the blocks x is an unbiased estimate of
    ``|E x|^2``, which may therefore be below 0; its standard error is the jackknife's.

    Args:
        blocks: ``[n, ...]``, independent and of one law; n > 2.

    Returns:
        The estimate and its standard error, in squared units of ``blocks``.

    Example:
        >>> squared_norm(np.array([[3.0, 4.0]] * 4))
        (25.0, 0.0)
    """
    rows = np.asarray(blocks, np.float64).reshape(len(blocks), -1)
    products = rows @ rows.T
    np.fill_diagonal(products, 0)
    n, total = len(rows), products.sum()
    without_one = (total - 2 * products.sum(0)) / ((n - 1) * (n - 2))
    variance = (n - 1) * without_one.var()
    return float(total / (n * (n - 1))), float(np.sqrt(variance))


def standard_error(blocks: np.ndarray) -> float:
    """The standard error of the mean of independent blocks ``[n, ...]``, over all coordinates."""
    variances = np.asarray(blocks, np.float64).var(0, ddof=1)
    return float(np.sqrt(variances.sum() / len(blocks)))
