"""Philox4x32-10 by position, and Gumbel noise of its bits, for the kernels of ``_fused``.

The bits are those that XLA's ``RngBitGenerator``, and so ``jax.random.bits``, draws for a key of
the implementation ``rbg``, one by one: number ``4 * block + word`` is a word of the hash of a
128-bit counter, which starts at the key's second half and counts blocks. Salmon et al. (2011),
"Parallel random numbers: as easy as 1, 2, 3", https://doi.org/10.1145/2063384.2063405.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import triton as plgpu

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

LN_2 = float(np.log(2))
SERIES = (
    1.4426950216293335,
    0.7213626503944397,
    0.48021063208580017,
    0.371925950050354,
    0.20762555301189423,
    0.4902242124080658,
)
"""``-log2(1 - a) = a * (SERIES[0] + a * (SERIES[1] + ...))`` to 1.5e-7 for ``a`` up to 1/4."""


def random_bits(key: list[jax.Array], block: jax.Array) -> jax.Array:
    """32 bits for each number of ``block``, ``[..., n]`` of uint32: ``[..., 4 * n]``.

    ``key`` holds the four words of a key.
    """
    first, second, third, fourth = words(key, block)
    # Interleaved by pairs: the only form of concatenation that Pallas lowers for Triton.
    even, odd = jnp.stack([first, third], -1), jnp.stack([second, fourth], -1)
    return jnp.stack([even, odd], -1).reshape(*block.shape[:-1], -1)


def words(key: list[jax.Array], block: jax.Array) -> tuple[jax.Array, ...]:
    """The four words of each block."""
    # The key's first half is both Philox's key and the upper half of its counter.
    left, right = key[0], key[1]
    a, carry = _add(key[2], block)
    b, carry = _add(key[3], carry)
    c, carry = _add(left, carry)
    d, _ = _add(right, carry)
    for _ in range(ROUNDS):
        high, low = _product(a, MULTIPLIERS[0])
        other_high, other_low = _product(c, MULTIPLIERS[1])
        a, b, c, d = other_high ^ b ^ left, other_low, high ^ d ^ right, low
        left, right = left + jnp.uint32(KEY_STEPS[0]), right + jnp.uint32(KEY_STEPS[1])
    return a, b, c, d


def _add(word: jax.Array, increment: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = word + increment
    return total, (total < increment).astype(jnp.uint32)


def _product(word: jax.Array, multiplier: int) -> tuple[jax.Array, jax.Array]:
    """High and low word: one instruction of the GPU, where two of 32 bits would be two."""
    with jax.enable_x64(True):
        product = word.astype(jnp.uint64) * jnp.uint64(multiplier)
        return (product >> jnp.uint64(32)).astype(jnp.uint32), product.astype(jnp.uint32)


def gumbel_noise(bits: jax.Array, *, interpret: bool) -> jax.Array:
    """Float32 noise, less the constant ``log(log 2)``, which neither argmax nor softmax notices.

    ``E = -log2(u)`` is exponential; near ``u = 1``, where it decides how often a rare class wins
    and a float32 ``u`` would be rounded, it is a series in ``1 - u``, taken from the bits too.
    """
    step, half = np.float32(2.0**-32), np.float32(2.0**-33)
    a = bits.astype(jnp.float32) * step + half
    u = (~bits).astype(jnp.float32) * step + half
    series = jnp.full_like(a, SERIES[-1])
    for coefficient in SERIES[-2::-1]:
        series = series * a + np.float32(coefficient)
    exponential = jnp.where(u > 0.75, series * a, -log2(u, interpret=interpret))
    return -np.float32(LN_2) * log2(exponential, interpret=interpret)


def log2(x: jax.Array, *, interpret: bool) -> jax.Array:
    """Of positive, normal numbers; to 2e-7, or to 2e-7 of itself."""
    return jnp.log2(x) if interpret else _instruction("lg2.approx.ftz.f32", x)


def exp2(x: jax.Array, *, interpret: bool) -> jax.Array:
    """To 2e-7 of itself; subnormal results are zero."""
    return jnp.exp2(x) if interpret else _instruction("ex2.approx.ftz.f32", x)


def _instruction(name: str, x: jax.Array) -> jax.Array:
    """One instruction of the GPU; jax would call a function of 10 to 25 for it."""
    (result,) = plgpu.elementwise_inline_asm(
        f"{name} $0, $1;",
        args=[x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, jnp.float32)],
    )
    return result
