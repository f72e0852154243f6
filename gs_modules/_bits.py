"""Random bits, and what is drawn from them, in the form that each platform computes fastest.

The bits are those of ``jax.random.bits``, one by one. On CPU, jax lowers its default generator,
threefry, as a rolled loop that stores two arrays a round; unrolled, it stays in registers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

CONFIG: Any = jax.config
"""Its flags that have a context manager are attributes, which no type declares."""

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""Of the rounds of threefry2x32 with 20 rounds; Salmon et al. (2011), "Parallel random numbers"."""

LARGEST_APART = 2**22
"""Of so many numbers at most, the bits too are an array of their own: a loop that has both the
rounds and logarithms leaves vectors idle, but more memory than the caches hold costs as much."""

Bits = Callable[[jax.Array, tuple[int, ...], DTypeLike, NamedSharding | None], jax.Array]
"""``(key, shape, unsigned dtype, sharding) -> bits``."""


def drawn(draw: Callable[[jax.Array, Bits], jax.Array], key: jax.Array) -> jax.Array:
    """``draw(key, bits)``, where ``bits`` are those of ``jax.random.bits``.

    On CPU the result is an array of its own: fused into a reduction of its rows, as XLA would, it
    is computed number by number, not vector by vector, and once for each of its uses.
    """
    # Without jit, each operation of the unrolled rounds is dispatched by itself.
    if not _is_partitionable_threefry(key) or CONFIG.jax_disable_jit:
        return draw(key, _of_jax)

    def of_each(keys, bits):
        def of_one(data):
            return draw(jax.random.wrap_key_data(data, impl="threefry2x32"), bits)

        for _ in keys.shape[:-1]:
            of_one = jax.vmap(of_one)
        return of_one(keys)

    @custom_vmap
    def drawn_of(keys):
        def apart(keys):
            # Always true, which XLA does not know; an optimization_barrier does not stop it.
            is_drawn = lax.population_count(jnp.max(keys)) <= 32

            def unrolled(key, shape, dtype, sharding):
                def rounds(key):
                    return _unrolled(key, shape, dtype, sharding)

                if math.prod(shape) > LARGEST_APART:
                    return rounds(key)
                return lax.cond(
                    is_drawn, rounds, lambda key: _same(key, shape, dtype, sharding), key
                )

            return lax.cond(
                is_drawn,
                lambda keys: of_each(keys, unrolled),
                lambda keys: of_each(keys, _same),
                keys,
            )

        default = functools.partial(of_each, bits=_of_jax)
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


def _of_jax(key, shape, dtype, sharding):
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
        return _of_jax(key, shape, dtype, sharding)
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
