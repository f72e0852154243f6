"""Loops that XLA on CPU neither fuses into what uses their numbers nor deals out to threads."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import numpy as np
from jax import lax

FEW = 2**15
"""Numbers that one thread computes in 40 microseconds, which several would not shorten."""

PARTS = 2
"""How many parts an array of few numbers has. Not 1: a loop over the whole is dealt out."""

MOST_BYTES = 2**17
"""A program holds ``last_bytes`` of at most so many positions."""


def is_static(shape: tuple[int, ...]) -> bool:
    """Whether no size is a symbol, as in a program that ``jax.export`` makes for many shapes."""
    return all(isinstance(size, int) for size in shape)


def is_few(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape has few numbers; False where a size is a symbol."""
    return is_static(shape) and math.prod(shape) <= FEW


def last_bytes(size: int) -> np.ndarray:
    """The last byte of each position, for loops on CPU with an exponential or logarithm of XLA.

    If such a loop reads a byte for each number, LLVM considers vectors of 512 bits too, where there
    are such, and not only the 256 that XLA prefers: it then takes half of the time.
    """
    return np.arange(size).astype(np.uint8)


def unknown_zero(word: jax.Array) -> jax.Array:
    """0, but not to XLA. ``word`` is any integer of 32 bits."""
    return lax.population_count(word) >> 6


def apart(
    function: Callable[[jax.Array], jax.Array],
    otherwise: Callable[[jax.Array], jax.Array],
    word: jax.Array,
    operand: jax.Array,
) -> jax.Array:
    """``function(operand)``, in loops of its own: not once more for each use, number by number.

    ``otherwise``, never called, gives an array of the same type; ``word`` is any integer of 32
    bits. XLA takes no notice of an ``optimization_barrier``.
    """
    return lax.cond(unknown_zero(word) == 0, function, otherwise, operand)


def in_place(function: Callable[[jax.Array, jax.Array], jax.Array], array: jax.Array) -> jax.Array:
    """``array`` with ``function(i, part)`` in place of each part ``i`` of its first axis.

    XLA never deals out to threads a loop that updates a part of an array, where it deals out any
    other of a few thousand numbers, and the threads cost more than they spare.
    """

    def step(i, array):
        part = lax.dynamic_slice_in_dim(array, i, 1)
        return lax.dynamic_update_slice_in_dim(array, function(i, part), i, 0)

    return lax.fori_loop(0, array.shape[0], step, array)
