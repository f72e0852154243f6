"""Random bits, and what is drawn from them, in the form that each platform computes fastest.

The bits are those of ``jax.random.bits``, one by one. On CPU, jax lowers its default generator,
threefry, as a rolled loop that stores two arrays a round; unrolled, it stays in registers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

CONFIG: Any = jax.config
"""Its flags that have a context manager are attributes, which no type declares."""

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""Of the rounds of threefry2x32 with 20 rounds; Salmon et al. (2011), "Parallel random numbers"."""

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

Bits = Callable[[tuple[int, ...], DTypeLike, NamedSharding | None], jax.Array]
"""``(shape, unsigned dtype, sharding) -> bits``."""

Log = Callable[[jax.Array], jax.Array]


def drawn(draw: Callable[[Bits, Log], jax.Array], key: jax.Array) -> jax.Array:
    """``draw(bits, log)``: ``bits`` are those of ``jax.random.bits``, ``log`` a logarithm.

    On CPU the result is an array of its own: fused into a reduction of its rows, as XLA would, it
    is computed number by number, not vector by vector, and once for each of its uses.
    """
    # Without jit, each operation of the unrolled rounds is dispatched by itself.
    if not _is_partitionable_threefry(key) or CONFIG.jax_disable_jit:
        return draw(functools.partial(_bits_of_jax, key), jnp.log)

    def of_each(keys, bits, log):
        def of_one(data):
            key = jax.random.wrap_key_data(data, impl="threefry2x32")
            return draw(functools.partial(bits, key), log)

        for _ in keys.shape[:-1]:
            of_one = jax.vmap(of_one)
        return of_one(keys)

    @custom_vmap
    def drawn_of(keys):
        def apart(keys):
            # Always true, which XLA does not know; an optimization_barrier does not stop it.
            is_drawn = lax.population_count(jnp.max(keys)) <= 32
            unrolled = functools.partial(of_each, bits=_unrolled, log=_log)
            never = functools.partial(of_each, bits=_same, log=_log)
            return lax.cond(is_drawn, unrolled, never, keys)

        default = functools.partial(of_each, bits=_bits_of_jax, log=jnp.log)
        return lax.platform_dependent(keys, cpu=apart, default=default)

    @drawn_of.def_vmap
    def _more_keys(axis_size, in_batched, keys):
        # Batched as it is, the condition would become a select, and fused again.
        del axis_size, in_batched
        return drawn_of(keys), True

    return drawn_of(jax.random.key_data(key))


def _is_partitionable_threefry(key: jax.Array) -> bool:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    is_threefry = jax.random.key_impl(key) == "threefry2x32"
    return is_threefry and CONFIG.jax_threefry_partitionable


def _bits_of_jax(key, shape, dtype, sharding):
    return jax.random.bits(key, shape, dtype, out_sharding=sharding)


def _same(key, shape, dtype, sharding):
    """Bits of the right type for a branch that is never taken: one word of the key."""
    word = jax.random.key_data(key)[0].astype(dtype)
    return lax.broadcast(word, shape, out_sharding=sharding)


def _unrolled(key, shape, dtype, sharding):
    size = 1
    counter = jnp.uint32(0)
    for axis in reversed(range(len(shape))):
        position = lax.broadcasted_iota(jnp.uint32, shape, axis, out_sharding=sharding)
        counter = counter + position * jnp.uint32(size % 2**32)
        size *= shape[axis]
    if dtype != jnp.uint32 or size > 2**32:
        return _bits_of_jax(key, shape, dtype, sharding)
    left, right = jax.random.key_data(key)
    schedule = (left, right, left ^ right ^ jnp.uint32(0x1BD11BDA))
    a, b = left, counter + right
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            a = a + b
            b = a ^ (b << rotation | b >> (32 - rotation))
        a = a + schedule[(group + 1) % 3]
        b = b + (schedule[(group + 2) % 3] + jnp.uint32(group + 1))
    return a ^ b


def _log(x: jax.Array) -> jax.Array:
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
