"""Random bits to Gumbel noise, with tails that are right on both sides."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from gs_modules import _arguments
from gs_modules._bits import Log, drawn, signed_distance
from gs_modules._sharding import explicit_sharding, positions, sharding_with


def gumbel_noise(
    key: jax.Array, shape: int | tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Standard Gumbel noise, ``-log(-log U)`` with ``U`` uniform on (0, 1).

    Computed in float32 from 32 random bits per value (float64 from 64 bits), then rounded to
    ``dtype``. float32 values lie in -3.2 .. 22.9 and are always finite; the right tail, which
    decides how often a rare class wins, follows the law down to probabilities of 2e-8.

    Args:
        key: a typed or an old-style key; used once.
        shape: the shape of the result.
        dtype: floating dtype of the result.

    Returns:
        Noise of ``shape`` and ``dtype``.

    Raises:
        TypeError: ``dtype`` is not floating-point, ``shape`` is not of integers.
        ValueError: ``shape`` is negative.

    Example:
        >>> gumbel_noise(jax.random.key(0), (2, 3)).shape
        (2, 3)
    """
    dtype = _arguments.result_dtype(dtype, jnp.float32)
    return _gumbel_noise(_arguments.check_key(key), _sizes(shape), dtype)


def _sizes(shape: int | tuple[int, ...]) -> tuple[int, ...]:
    try:
        sizes = tuple(map(operator.index, shape if np.iterable(shape) else (shape,)))
    except TypeError:
        raise TypeError(f"shape must be an integer or integers, got {shape!r}") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"shape must not be negative, got {shape!r}")
    return sizes


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _gumbel_noise(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    return drawn(_gumbel, key, shape, _arguments.computing_dtype(dtype), None).astype(dtype)


def gumbel_noise_like(key: jax.Array, logits: jax.Array) -> jax.Array:
    """``gumbel_noise`` of the shape, dtype and sharding of ``logits``, float32 or float64."""
    return drawn(_gumbel, key, logits.shape, logits.dtype, explicit_sharding(logits))


def class_noise_like(key: jax.Array, logits: jax.Array, axis: int) -> jax.Array:
    """What the logits are perturbed by to draw a class: Gumbel noise, up to a shift of each row.

    Of two classes only the difference counts: the first is given logistic noise, the other none.
    """
    if logits.shape[axis] != 2:
        return gumbel_noise_like(key, logits)
    noise = drawn(_logistic, key, *_of_rows(logits, axis, 1))
    return jnp.where(positions(logits, axis) == 0, noise, 0)


def gumbel_noise_of_rows(key: jax.Array, count: int, logits: jax.Array, axis: int) -> jax.Array:
    """``count`` noises for each row of ``logits``, on the axis of the classes."""
    return drawn(_gumbel, key, *_of_rows(logits, axis, count))


def exponential_noise_like(key: jax.Array, logits: jax.Array) -> jax.Array:
    """``-log U``, standard exponential: ``exp(-gumbel_noise_like)``."""
    return drawn(_exponential, key, logits.shape, logits.dtype, explicit_sharding(logits))


def exponential_noises_like(key: jax.Array, count: int, logits: jax.Array) -> jax.Array:
    """``count`` times ``exponential_noise_like``, on a new first axis."""
    sharding = sharding_with(logits, lambda spec: (None, *spec))
    return drawn(_exponential, key, (count, *logits.shape), logits.dtype, sharding)


def logistic_noise_like(key: jax.Array, logits: jax.Array) -> jax.Array:
    """``log U - log(1 - U)``: the difference of two Gumbel noises, as ``gumbel_noise_like``.

    float32 values lie in -22.9 .. 22.9; both tails follow the law to probabilities of 2e-8.
    """
    return drawn(_logistic, key, logits.shape, logits.dtype, explicit_sharding(logits))


def _of_rows(
    logits: jax.Array, axis: int, count: int
) -> tuple[tuple[int, ...], DTypeLike, NamedSharding | None]:
    """Shape, dtype and sharding of logits with ``count`` classes, which no device divides."""
    shape = (*logits.shape[:axis], count, *logits.shape[axis + 1 :])
    sharding = sharding_with(logits, lambda spec: (*spec[:axis], None, *spec[axis + 1 :]))
    return shape, logits.dtype, sharding


def gumbel_of_bits(bits: jax.Array, log: Log) -> jax.Array:
    """Gumbel noise, float32, of 32 bits each."""
    return _gumbel(signed_distance(bits, jnp.float32), log)


def _gumbel(distance: jax.Array, log: Log) -> jax.Array:
    return lax.neg(log(_exponential(distance, log)))


def _exponential(distance: jax.Array, log: Log) -> jax.Array:
    """``-log(1 - U)`` of the uniform number with this ``signed_distance``."""
    del log  # that of XLA, for the vectors that _loops.last_bytes is for
    a = lax.abs(distance)
    rest, added = _rounded_rest(a)
    none = lax.full_like(added, 0)
    is_low = lax.gt(distance, none)
    return lax.sub(lax.select(is_low, added, none), lax.log(lax.select(is_low, rest, a)))


def _logistic(distance: jax.Array, log: Log) -> jax.Array:
    del log
    a = lax.abs(distance)
    rest, added = _rounded_rest(a)
    log_odds = lax.add(lax.log(lax.div(a, rest)), added)
    is_low = lax.gt(distance, lax.full_like(distance, 0))
    return lax.select(is_low, log_odds, lax.neg(log_odds))


def _rounded_rest(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``1 - a`` and what rounding added to it, exactly: ``log(1 - a)`` is ``log(rest) - added``.

    The error is below a unit in the last place, at half the time of ``log1p`` beside ``log``.
    """
    one = lax.full_like(a, 1)
    rest = lax.sub(one, a)
    return rest, lax.sub(a, lax.sub(one, rest))
