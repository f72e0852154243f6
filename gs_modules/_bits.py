"""Numbers made of random bits, in the form that each platform computes fastest."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from gs_modules import _threefry

CONFIG: Any = jax.config
"""Its flags that have a context manager are attributes, which no type declares."""

SQUARE_ROOT_OF_HALF = np.int32(0x3F3504F3)
"""As the bits of a float."""

LOG_COEFFICIENTS = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
"""Of ``(log(1 + f) - f + f**2 / 2) / f**3``, in falling powers: ``logf`` of Moshier's Cephes."""

LOG_2 = (0.693359375, -2.12194440e-4)
"""In two parts, whose first has so few bits that its product with an exponent is exact."""

Log = Callable[[jax.Array], jax.Array]


def drawn(
    of_bits: Callable[[jax.Array, Log], jax.Array],
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    sharding: NamedSharding | None,
) -> jax.Array:
    """``of_bits(bits, log)``, of each number for itself: of 32 bits for float32, 64 for float64.

    ``log`` is a logarithm. On CPU the result is an array of its own: fused into a reduction of its
    rows, as XLA would, it is computed number by number, not vector by vector, and once for each of
    its uses.
    """
    is_wide = dtype == jnp.float64
    if not _threefry.is_threefry(key) or math.prod(shape) > _threefry.BLOCKS:
        unsigned = jnp.uint64 if is_wide else jnp.uint32
        return of_bits(jax.random.bits(key, shape, unsigned, out_sharding=sharding), jnp.log)

    def one_by_one(log, key):
        bits = _threefry.wide_bits if is_wide else _threefry.bits
        return of_bits(bits(key, shape, sharding), log)

    if CONFIG.jax_disable_jit:
        return one_by_one(jnp.log, jax.random.key_data(key))

    def apart(keys):
        if is_wide or sharding is not None or math.prod(shape) == 1:
            return _apart(_of_each(functools.partial(one_by_one, log_of_normal), keys), keys)
        halves = _threefry.Halves(shape)

        def pairs(key):
            first, second = halves.words(key)
            return lax.complex(of_bits(first, log_of_normal), of_bits(second, log_of_normal))

        return _of_each(halves.joined, keys)(_apart(_of_each(pairs, keys), keys))

    @custom_vmap
    def drawn_of(keys):
        default = _of_each(functools.partial(one_by_one, jnp.log), keys)
        return lax.platform_dependent(keys, cpu=apart, default=default)

    @drawn_of.def_vmap
    def _more_keys(axis_size, in_batched, keys):
        # Batched as it is, the condition would become a select, and fused again.
        del axis_size, in_batched
        return drawn_of(keys), True

    return drawn_of(jax.random.key_data(key))


def _of_each(function: Callable, keys: jax.Array) -> Callable:
    """``function``, mapped over the axes that the data of ``keys`` has before that of one key."""
    for _ in keys.shape[:-1]:
        function = jax.vmap(function)
    return function


def _apart(function: Callable[[jax.Array], jax.Array], keys: jax.Array) -> jax.Array:
    """``function(keys)`` as an array that XLA does not fuse with what becomes of it."""
    result = jax.eval_shape(function, keys)
    word = jnp.max(keys, initial=0)  # of no keys, 0

    def never(keys):
        number = jnp.max(keys, initial=0).astype(result.dtype)
        return lax.broadcast(number, result.shape, out_sharding=result.sharding)

    # Always true, which XLA does not know; an optimization_barrier does not stop it.
    return lax.cond(lax.population_count(word) <= 32, function, never, keys)


def log_of_normal(x: jax.Array) -> jax.Array:
    """The logarithm of normal positive numbers, to 0.9 units in the last place.

    That of XLA also knows zero, infinity and subnormal numbers, and fills fewer vectors on CPU.
    """
    if x.dtype != jnp.float32:
        return jnp.log(x)
    bits = lax.bitcast_convert_type(x, jnp.int32)
    exponent = lax.shift_right_arithmetic(bits - SQUARE_ROOT_OF_HALF, np.int32(23))
    f = lax.bitcast_convert_type(bits - (exponent << 23), jnp.float32) - 1
    exponent = exponent.astype(jnp.float32)
    cubic = jnp.float32(0)
    for coefficient in LOG_COEFFICIENTS:
        cubic = cubic * f + jnp.float32(coefficient)
    square = f * f
    small = f * square * cubic + exponent * jnp.float32(LOG_2[1]) - jnp.float32(0.5) * square
    return f + small + exponent * jnp.float32(LOG_2[0])
