"""Threefry, jax's default generator, both words of whose blocks are used.

A block is computed from a key and a count and has two words of 32 bits, of which
``jax.random.bits`` makes one number. Here they are two: of an array, the numbers of the first half
are the first words of the blocks and those of the second half the second words, where the halves
are those of the first axis of more than one number.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from gs_modules._loops import MOST_BYTES, PARTS, is_few, last_bytes, unknown_zero

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""The rotations of threefry2x32-20; Salmon et al. (2011), "Parallel random numbers"."""

BLOCKS = 2**32
"""How many blocks a key has."""

OTHER = 0x9E3779B9
"""The difference of two keys: the fraction of the golden ratio, which no seed is likely to be."""

SHORT_AXIS = 128
"""The last axis is merged with the one before while it has fewer numbers."""

VECTOR = 16
"""Numbers of 32 bits in the longest vectors."""

LONG_AXIS = 512
"""From here on, what an axis has beyond its last whole vector does not count."""

MOST_CUTS = 1000
"""How many numbers of equal parts are tried."""


def is_threefry(key: jax.Array) -> bool:
    return jax.random.key_impl(key) == "threefry2x32"


def words(key: jax.Array | tuple[jax.Array, ...], count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both words of the blocks of these counts; ``key`` is the data of a key, ``[2]``.

    On CPU, jax lowers its own as a rolled loop that stores two arrays a round; unrolled, it stays
    in registers. Written in operations of lax, it is traced in half the time.
    """
    left, right = key
    schedule = (left, right, left ^ right ^ np.uint32(0x1BD11BDA))
    a, b = left, lax.add(count, right)
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            a = lax.add(a, b)
            b = lax.bitwise_xor(a, _rotated(b, rotation))
        a = lax.add(a, schedule[(group + 1) % 3])
        b = lax.add(b, schedule[(group + 2) % 3] + np.uint32(group + 1))
    return a, b


def _rotated(word: jax.Array, bits: int) -> jax.Array:
    """To the left, as both shifts together."""
    left, right = np.uint32(bits), np.uint32(32 - bits)
    return lax.bitwise_or(lax.shift_left(word, left), lax.shift_right_logical(word, right))


def other_key(key: jax.Array) -> jax.Array:
    """A second key beside ``key``, by a constant: cheaper to compile than ``fold_in``.

    Threefry is made for keys that differ in any bit, Salmon et al. (2011). That of the second key
    is the first.
    """
    data = jax.random.key_data(key) ^ jnp.array([OTHER, 0], jnp.uint32)
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def bits(
    key: jax.Array, shape: tuple[int, ...], sharding: NamedSharding | None = None
) -> jax.Array:
    """32 bits for each number, each of a block computed for it alone: any axis may be divided."""
    count, half = _counts(shape, _positions(shape, sharding)), _uint32(first_half(shape))
    is_second = lax.ge(count, half)
    first, second = words(key, lax.select(is_second, lax.sub(count, half), count))
    return lax.select(is_second, second, first)


def wide_bits(
    key: jax.Array, shape: tuple[int, ...], sharding: NamedSharding | None = None
) -> jax.Array:
    """64 bits for each number, both words of a block: those of ``jax.random.bits``."""
    high, low = words(key, _counts(shape, _positions(shape, sharding)))
    return high.astype(jnp.uint64) << 32 | low.astype(jnp.uint64)


class Halves:
    """An array whose numbers are computed in pairs, of the two words of a block."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
        axis = _halved_axis(shape)
        self.size = shape[axis]
        self.half = (-(-self.size // 2), *shape[axis + 1 :])
        # The words of an array do not depend on its axes, but a last one that is short or leaves a
        # rest of a vector leaves vectors idle. A long one is cut, for the bytes that are read.
        *rows, last = self.half
        while rows and (last < SHORT_AXIS or (last < LONG_AXIS and last % VECTOR)):
            last *= rows.pop()
        counts = range(max(1, -(-last // MOST_BYTES)), last // SHORT_AXIS + 1)
        count = next((n for n in counts[:MOST_CUTS] if last % n == 0), 1)
        self.merged = (*rows, last) if count == 1 else (*rows, count, last // count)

    def words(self, key: jax.Array, last_bytes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both words of every block, each an array of the shape ``merged``."""
        positions = _positions_by_bytes(self.merged, key[1], last_bytes)
        return words(key, _counts(self.merged, positions))

    @property
    def parts(self) -> tuple[int, int]:
        """The shape of all blocks, and at least one more, as parts."""
        return PARTS, math.prod(self.half) // PARTS + 1

    def words_of_part(
        self, key: jax.Array, part: jax.Array, last_bytes: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The words of one of the ``parts``, each array ``[1, n]``."""
        shape = (1, self.parts[1])
        _, positions = _positions_by_bytes(shape, key[1], last_bytes)
        return words(key, _counts(shape, [part.astype(jnp.uint32), positions]))

    @property
    def last_bytes(self) -> np.ndarray:
        """The ``last_bytes`` of the last axes of ``merged`` and, of few numbers, ``parts``."""
        size = max(self.merged[-1], self.parts[1]) if is_few(self.shape) else self.merged[-1]
        return last_bytes(min(size, MOST_BYTES))

    def joined(self, pairs: jax.Array) -> jax.Array:
        """The first numbers of the pairs, which are real parts, and then the second numbers."""
        pairs = pairs.reshape(1, *self.half)
        is_second = lax.broadcasted_iota(jnp.int32, (2, *(1 for _ in self.half)), 0) == 1
        both = jnp.where(is_second, lax.imag(pairs), lax.real(pairs))
        both = both.reshape(2 * self.half[0], *self.half[1:])
        return both[: self.size].reshape(self.shape)


def first_half(shape: tuple[int, ...]) -> Any:
    """How many numbers of an array are first words: in the order of memory, the first."""
    size, *others = shape or (1,)
    half = -(-size // 2) * math.prod(others)
    if not others or (isinstance(size, int) and size != 1):
        return half
    of_others = first_half(tuple(others))
    if isinstance(size, int):
        return of_others
    return jnp.where(_uint32(size) == 1, _uint32(of_others), _uint32(half))


def _halved_axis(shape: tuple[int, ...]) -> int:
    return next(axis for axis, size in enumerate(shape) if size != 1)


def _positions(shape: tuple[int, ...], sharding: NamedSharding | None) -> list[jax.Array]:
    """The position of each number on each axis."""
    return [
        lax.broadcasted_iota(jnp.uint32, shape, axis, out_sharding=sharding)
        for axis in range(len(shape))
    ]


def _positions_by_bytes(
    shape: tuple[int, ...], word: jax.Array, last_bytes: jax.Array
) -> list[jax.Array]:
    """``_positions``, of whose last axis the ``last_bytes`` are read and not computed."""
    *positions, last = _positions(shape, None)
    if shape[-1] > MOST_BYTES:
        return [*positions, last]
    # Were they all known, XLA would read numbers of 32 bits.
    read = lax.slice_in_dim(last_bytes, 0, shape[-1])
    read = lax.bitwise_xor(read, unknown_zero(word).astype(jnp.uint8))
    read = lax.broadcast_in_dim(read, shape, (len(shape) - 1,)).astype(jnp.uint32)
    return [*positions, lax.bitwise_or(lax.bitwise_and(last, np.uint32(0xFFFFFF00)), read)]


def _counts(shape: tuple[int, ...], positions: list[jax.Array]) -> jax.Array:
    """The count of the block of each number, from its positions on the axes of ``shape``."""
    count = jnp.zeros((), jnp.uint32)
    for size, position in zip(shape, positions, strict=True):
        count = lax.add(lax.mul(count, _uint32(size)), position)
    return count


def _uint32(size: Any) -> np.uint32 | jax.Array:
    """A size of an array, or the value of a symbol, as a number to compute with."""
    return np.uint32(size) if isinstance(size, int) else jnp.asarray(size).astype(jnp.uint32)
