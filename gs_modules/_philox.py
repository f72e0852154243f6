"""Philox4x32-10 by position, and Gumbel noise of its bits, for the kernels of ``_fused``.

The bits are those that XLA's ``RngBitGenerator``, and so ``jax.random.bits``, draws for a key of
the implementation ``rbg``, one by one: number ``4 * block + word`` is a word of the hash of a
128-bit counter, which starts at the key's second half and counts blocks. Salmon et al. (2011),
"Parallel random numbers: as easy as 1, 2, 3", https://doi.org/10.1145/2063384.2063405.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton as plgpu

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
Number = float | jax.Array

SERIES = (
    1.4426950216293335,
    0.7213398218154907,
    0.4813823997974396,
    0.3501446843147278,
    0.3792400062084198,
)
"""``-log2(1 - a) = a * (SERIES[0] + a * (SERIES[1] + ...))`` to 1.4e-7 for ``a`` up to 1/8."""


def random_bits(
    counter: tuple[jax.Array, ...], key: tuple[jax.Array, ...], *, interpret: bool
) -> jax.Array:
    """32 bits for each number, four for each of the counters, ``[..., n]``: ``[..., 4 * n]``."""
    first, second, third, fourth = words(counter, key, interpret=interpret)
    # Interleaved by pairs: the only form of concatenation that Pallas lowers for Triton.
    even, odd = jnp.stack([first, third], -1), jnp.stack([second, fourth], -1)
    return jnp.stack([even, odd], -1).reshape(*even.shape[:-2], -1)


def words(
    counter: tuple[jax.Array, ...], key: tuple[jax.Array, ...], *, interpret: bool
) -> tuple[jax.Array, ...]:
    """The four words of the hash of a counter of four words, the lowest first.

    Those words of the counter that are scalars spare the first rounds a product.
    """
    a, b, c, d = counter
    left, right = key
    for _ in range(ROUNDS):
        high, low = _product(a, MULTIPLIERS[0], interpret)
        other_high, other_low = _product(c, MULTIPLIERS[1], interpret)
        a, b, c, d = other_high ^ (b ^ left), other_low, high ^ (d ^ right), low
        left, right = left + jnp.uint32(KEY_STEPS[0]), right + jnp.uint32(KEY_STEPS[1])
    return a, b, c, d


def add(counter: tuple[jax.Array, ...], increment: jax.Array) -> tuple[jax.Array, ...]:
    """The sum, of as many words, the lowest first."""
    total = []
    for word in counter:
        total.append(word + increment)
        increment = (total[-1] < increment).astype(jnp.uint32)
    return tuple(total)


def _product(word: jax.Array, multiplier: int, interpret: bool) -> tuple[jax.Array, jax.Array]:
    """High and low word: one instruction of the GPU, where two of 32 bits would be two."""
    with jax.enable_x64(True):
        if interpret or word.ndim == 0:
            product = word.astype(jnp.uint64) * jnp.uint64(multiplier)
        else:
            (product,) = plgpu.elementwise_inline_asm(
                f"mul.wide.u32 $0, $1, {multiplier};",
                args=[word],
                constraints="=l,r",
                pack=1,
                result_shape_dtypes=[jax.ShapeDtypeStruct(word.shape, jnp.int64)],
            )
        high = lax.shift_right_logical(product, jnp.asarray(32, product.dtype))
        return high.astype(jnp.uint32), product.astype(jnp.uint32)


def log2_exponential(bits: jax.Array, *, interpret: bool) -> jax.Array:
    """The logarithm to base 2 of ``-log2(1 - a)``, where ``a`` is uniform.

    Close to ``a = 0``, where it decides how often a rare class wins and a float32 ``1 - a`` would
    be rounded, the exponential number is a series in ``a``.
    """
    signed = lax.bitcast_convert_type(bits, jnp.int32).astype(jnp.float32)
    add = functools.partial(multiply_add, interpret=interpret)
    a = add(signed, 2.0**-32, 2.0**-33)  # less 1 where it is over 1/2
    rest = step(a, interpret=interpret) - a
    series = jnp.full_like(a, SERIES[-1])
    for coefficient in SERIES[-2::-1]:
        series = add(series, a, coefficient)
    exponential = jnp.where(rest > 0.875, series * a, -log2(rest, interpret=interpret))
    return log2(exponential, interpret=interpret)


def step(x: jax.Array, *, interpret: bool) -> jax.Array:
    """1 where ``x`` is positive, at least 2**-33, and 0 where it is negative."""
    if interpret:
        return (x > 0).astype(jnp.float32)
    return _instruction("mul.sat.f32", x, jnp.full_like(x, 2.0**33))


def log2(x: jax.Array, *, interpret: bool) -> jax.Array:
    """The logarithm of positive, normal numbers, to 2e-7 absolute or relative."""
    return jnp.log2(x) if interpret else _instruction("lg2.approx.ftz.f32", x)


def maximum(x: jax.Array, y: jax.Array, *, interpret: bool) -> jax.Array:
    """The larger number, or NaN where one is NaN, which jax's maximum loses on a GPU."""
    return jnp.maximum(x, y) if interpret else _instruction("max.NaN.f32", x, y)


def exp2(x: jax.Array, *, interpret: bool) -> jax.Array:
    """To 2e-7 of itself; subnormal results are zero."""
    return jnp.exp2(x) if interpret else _instruction("ex2.approx.ftz.f32", x)


def multiply_add(x: jax.Array, y: Number, z: Number, *, interpret: bool) -> jax.Array:
    """``x * y + z``, rounded once: XLA lets a kernel multiply and add in two instructions."""
    y, z = (jnp.broadcast_to(jnp.float32(number), x.shape) for number in (y, z))
    return x * y + z if interpret else _instruction("fma.rn.f32", x, y, z)


def _instruction(name: str, *args: jax.Array) -> jax.Array:
    """One instruction of the GPU; jax would call a function of 10 to 25 for a logarithm."""
    operands = ", ".join(f"${i + 1}" for i in range(len(args)))
    (result,) = plgpu.elementwise_inline_asm(
        f"{name} $0, {operands};",
        args=args,
        constraints="=f" + ",f" * len(args),
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(args[0].shape, jnp.float32)],
    )
    return result
