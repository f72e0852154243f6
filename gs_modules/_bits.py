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
from gs_modules._loops import apart, in_place, is_few, is_static, unknown_zero
from gs_modules._sharding import positions, result_type, sharding_with

CONFIG: Any = jax.config
"""Its flags that have a context manager are attributes, which no type declares."""

FEW_BLOCKS = 32
"""Blocks that a key may have for vectors to lie along many keys: fewer fill none by themselves."""

SQUARE_ROOT_OF_HALF = np.int32(0x3F3504F3)
"""As the bits of a float."""

LOG_COEFFICIENTS = np.array(
    (
        -4.9999988079e-1,
        3.3333325386e-1,
        -2.5001582503e-1,
        2.0001976192e-1,
        -1.6609077156e-1,
        1.4181779325e-1,
        -1.3242976367e-1,
        1.2904690206e-1,
        -7.6221086085e-2,
    ),
    np.float32,
)
"""Coefficients of ``(log(1 + f) - f) / f**2`` between the square roots of 1/2 and 2, in rising
powers, fitted to the error of the logarithm: 5e-9 of it."""

Log = Callable[[jax.Array], jax.Array]

OfUniform = Callable[[jax.Array, Log], jax.Array]


def drawn(
    of_uniform: OfUniform,
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    sharding: NamedSharding | None,
) -> jax.Array:
    """``of_uniform(signed_distance, log)`` of a uniform number each: of 32 bits, 64 for float64.

    ``log`` is a logarithm of normal numbers. On CPU the result is an array of its own: fused into a
    reduction of its rows, as XLA would, it is computed number by number, not vector by vector, and
    once for each of its uses.
    """
    is_wide, has_sizes = dtype == jnp.float64, is_static(shape)
    if not _threefry.is_threefry(key) or (has_sizes and math.prod(shape) > _threefry.BLOCKS):
        unsigned = jnp.uint64 if is_wide else jnp.uint32
        bits = jax.random.bits(key, shape, unsigned, out_sharding=sharding)
        return of_uniform(signed_distance(bits, dtype), jnp.log)

    def one_by_one(log, key):
        bits = _threefry.wide_bits if is_wide else _threefry.bits
        return of_uniform(signed_distance(bits(key, shape, sharding), dtype), log)

    if CONFIG.jax_disable_jit or not has_sizes:
        return one_by_one(jnp.log, jax.random.key_data(key))

    has_halves = not is_wide and sharding is None and math.prod(shape) != 1
    halves = _threefry.Halves(shape) if has_halves else None

    def by_cpu(keys, last_bytes):
        if halves is None:
            noises = _of_each(functools.partial(one_by_one, log_of_normal), keys)
            return _apart_of_keys(noises, keys, result_type(noises, keys))
        if keys.ndim > 1 and math.prod(halves.half) <= FEW_BLOCKS:
            pairs = _pairs_of_keys(of_uniform, halves, keys)
        else:
            of_keys = _few_pairs if is_few((*keys.shape[:-1], *shape)) else _pairs
            pairs = of_keys(of_uniform, halves, keys, last_bytes)
        return _of_each(halves.joined, keys)(pairs)

    def otherwise(keys, last_bytes):
        del last_bytes
        return _of_each(functools.partial(one_by_one, jnp.log), keys)(keys)

    @custom_vmap
    def drawn_of(keys, last_bytes):
        return lax.platform_dependent(keys, last_bytes, cpu=by_cpu, default=otherwise)

    @drawn_of.def_vmap
    def _more_keys(axis_size, in_batched, keys, last_bytes):
        # Batched as it is, a condition would become a select, and fused again.
        del axis_size
        are_keys, are_bytes = in_batched
        return drawn_of(keys, last_bytes[0] if are_bytes else last_bytes), are_keys

    # An argument: in a branch of a condition that is mapped, jax 0.10 maps constants too, which no
    # rule is told of.
    last_bytes = halves.last_bytes if halves else np.zeros(0, np.uint8)
    return drawn_of(jax.random.key_data(key), last_bytes)


def _pairs(
    of_uniform: OfUniform, halves: _threefry.Halves, keys: jax.Array, last_bytes: jax.Array
) -> jax.Array:
    """Both numbers of each block, as one complex number."""

    def numbers(key):
        return _of_words(of_uniform, halves.words(key, last_bytes))

    shape = *keys.shape[:-1], *halves.merged
    sharding = sharding_with(keys, lambda spec: (*spec[:-1], *(None for _ in halves.merged)))
    result = jax.ShapeDtypeStruct(shape, jnp.complex64, sharding=sharding)
    return _apart_of_keys(_of_each(numbers, keys), keys, result)


def _pairs_of_keys(of_uniform: OfUniform, halves: _threefry.Halves, keys: jax.Array) -> jax.Array:
    """As ``_pairs``, of few blocks a key: a vector then holds one block of many keys."""
    shape = (math.prod(halves.half), *keys.shape[:-1])

    def numbers(keys):
        left, right = (
            lax.broadcast(lax.index_in_dim(keys, i, -1, keepdims=False), shape[:1]) for i in (0, 1)
        )
        counts = positions(left, 0).astype(jnp.uint32)
        return _of_words(of_uniform, _threefry.words((left, right), counts))

    sharding = sharding_with(keys, lambda spec: (None, *spec[:-1]))
    result = jax.ShapeDtypeStruct(shape, jnp.complex64, sharding=sharding)
    return jnp.moveaxis(_apart_of_keys(numbers, keys, result), 0, -1)


def _few_pairs(
    of_uniform: OfUniform, halves: _threefry.Halves, keys: jax.Array, last_bytes: jax.Array
) -> jax.Array:
    """As ``_pairs``, in one thread and without a condition."""

    def of_key(key):
        def numbers(i, _):
            # i >> 31 is 0. For it, XLA computes what a key adds in this loop, not in seven others.
            of_loop = key ^ (i >> 31).astype(jnp.uint32)
            words = halves.words_of_part(of_loop, i, last_bytes)
            return _of_words(of_uniform, words)

        zero = (key[0] * 0).astype(jnp.complex64)  # which varies over a mesh as the key does
        pairs = in_place(numbers, lax.broadcast(zero, halves.parts))
        # Were its start known, devices that divide the rows would divide the loops, and gather.
        start = unknown_zero(key[1]).astype(jnp.int32)
        return lax.dynamic_slice_in_dim(pairs.reshape(-1), start, math.prod(halves.half))

    return _of_each(of_key, keys)(keys)


def _of_words(of_uniform: OfUniform, words: tuple[jax.Array, jax.Array]) -> jax.Array:
    distances = (signed_distance(bits, jnp.float32) for bits in words)
    first, second = (of_uniform(distance, log_of_normal) for distance in distances)
    # Were their last operations the same, LLVM of jax 0.12 would join the two words of some loops
    # in one vector and then not contract products and sums, and so round as no other loop does. No
    # number is smaller than the smallest.
    return lax.complex(first, lax.max(second, np.finfo(np.float32).min))


def _of_each(function: Callable, keys: jax.Array) -> Callable:
    """``function``, mapped over the axes that the data of ``keys`` has before that of one key."""
    for _ in keys.shape[:-1]:
        function = jax.vmap(function)
    return function


def _apart_of_keys(
    function: Callable[[jax.Array], jax.Array], keys: jax.Array, result: jax.ShapeDtypeStruct
) -> jax.Array:
    """``function(keys)``, of the type ``result``, kept ``apart``."""

    def otherwise(keys):
        number = _word(keys).astype(result.dtype)
        return lax.broadcast(number, result.shape, out_sharding=result.sharding)

    return apart(function, otherwise, _word(keys), keys)


def _word(keys: jax.Array) -> jax.Array:
    """One word that depends on all keys; 0 if there is none."""
    return jnp.max(keys[..., 1], initial=0)


def signed_distance(bits: jax.Array, dtype: DTypeLike) -> jax.Array:
    """How far the uniform number of these bits is from 0, or, negative, from 1 if that is nearer.

    It never loses bits to the 1 that a float32 uniform close to 1 is rounded against, so no
    logarithm is taken of a rounded value.
    """
    width = jnp.iinfo(bits.dtype).bits
    signed = lax.bitcast_convert_type(bits, jnp.int64 if width == 64 else jnp.int32)
    unit, half = np.array((2.0**-width, 2.0 ** -(width + 1)), dtype)
    return lax.add(lax.mul(signed.astype(dtype), unit), half)


def log_of_normal(x: jax.Array) -> jax.Array:
    """The logarithm of normal positive numbers, to a unit in the last place.

    That of XLA also knows zero, infinity and subnormal numbers, and fills fewer vectors on CPU. Its
    steps are few, one after the other; a sum by powers of three takes fewer than Horner's.
    """
    if x.dtype != jnp.float32:
        return jnp.log(x)
    bits = lax.bitcast_convert_type(x, jnp.int32)
    exponent = lax.shift_right_arithmetic(lax.sub(bits, SQUARE_ROOT_OF_HALF), np.int32(23))
    bits_of_rest = lax.sub(bits, lax.shift_left(exponent, np.int32(23)))
    f = lax.sub(lax.bitcast_convert_type(bits_of_rest, jnp.float32), np.float32(1))
    square = lax.mul(f, f)
    cube = lax.mul(square, f)
    c = LOG_COEFFICIENTS
    low, middle, high = (
        lax.add(lax.add(c[i], lax.mul(c[i + 1], f)), lax.mul(c[i + 2], square)) for i in (0, 3, 6)
    )
    high = lax.add(middle, lax.mul(cube, high))
    log = lax.add(f, lax.mul(square, lax.add(low, lax.mul(cube, high))))
    return lax.add(lax.mul(exponent.astype(jnp.float32), np.float32(math.log(2))), log)
