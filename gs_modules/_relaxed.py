"""What every sample is made of: scores, one-hot or softmax of them, and one derivative rule.

``scores = (logits - row maximum) + noise``. The index is the first argmax of the scores and never
depends on the temperature; the relaxed sample is the softmax of ``scores / temperature``. All
derivatives are written in terms of the relaxed sample alone. Logits come from
``computing_logits``: float32 or float64, ``-inf`` where a class is excluded.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gs_modules import _jacobian
from gs_modules._loops import apart, is_few
from gs_modules._rows import SHORT, is_at, is_infinite, is_pair, row_max, row_sum
from gs_modules._sharding import full_like, is_divided


def computing_logits(logits: jax.Array, where: jax.Array | None) -> jax.Array:
    """``logits`` in float32 or float64, ``-inf`` where a class is excluded.

    Half-precision logits are rounded explicitly: XLA may keep the excess precision of whatever
    computed them, and a compiled program would then draw from another law than an eager one.
    """
    if logits.dtype.itemsize < 4:
        logits = _rounded(logits)
    return masked(logits, where)


def masked(logits: jax.Array, where: jax.Array | None) -> jax.Array:
    """``logits`` in their own dtype, ``-inf`` where a class is excluded."""
    return logits if where is None else jnp.where(where, logits, -jnp.inf)


@jax.custom_jvp
def _rounded(logits: jax.Array) -> jax.Array:
    if logits.dtype == jnp.bfloat16:  # the upper half of a float32
        bits = lax.bitcast_convert_type(logits, jnp.uint16).astype(jnp.uint32)
        return lax.bitcast_convert_type(bits << 16, jnp.float32)
    info = jnp.finfo(logits.dtype)
    wide = logits.astype(jnp.float32)
    rounded = lax.reduce_precision(wide, info.nexp, info.nmant)
    # reduce_precision flushes subnormal numbers to zero; float16 logits of 6e-5 are subnormal.
    return jnp.where(jnp.abs(wide) < float(info.smallest_normal), wide, rounded)


_rounded.defjvps(lambda tangent, *_: tangent.astype(jnp.float32))


def perturbed(
    logits: jax.Array, noise: jax.Array | None, axis: int, largest: jax.Array | None = None
) -> jax.Array:
    """The scores, ``(logits - row maximum) + noise``: added to 1e9, the noise would be lost.

    Equal infinite logits share the mass. ``largest`` is the maximum of a row, if it is known.
    """
    largest = row_max(logits, axis) if largest is None else largest
    finite = lax.select(is_infinite(largest, -1), lax.full_like(largest, 0), largest)
    shifted = logits - finite
    none = lax.full_like(logits, 0)  # and sharded as they are, which noise of rows is not
    noise = none if noise is None else none + noise
    # With a select at the end, XLA on CPU makes the scores in one loop.
    return lax.select(is_infinite(logits, 1), noise, lax.add(shifted, noise))


def one_hot(index: jax.Array, logits: jax.Array, temperature: jax.Array, axis: int) -> jax.Array:
    """1 at the index of ``first_argmax`` and 0 elsewhere, in the dtype of ``logits``.

    NaN where a score is, or where the temperature is not positive and there is a class.
    """
    # Converted from booleans, XLA on CPU would compute short rows number by number.
    one, none = (full_like(logits, value) for value in (1, 0))
    sample = lax.select(is_at(index, logits, axis), one, none)
    return jnp.where(is_nan_row(index, temperature), jnp.nan, sample)


def is_nan_row(index: jax.Array, temperature: jax.Array) -> jax.Array:
    """Where a hard sample is NaN; ``index`` is that of ``first_argmax``."""
    temperature = positive_or_nan(lax.stop_gradient(temperature))
    is_wrong = lax.ne(temperature, temperature) & lax.ge(index, np.int32(0))
    return lax.bitwise_or(lax.eq(index, np.int32(-2)), is_wrong)


@jax.custom_jvp
def with_derivative_of(value: jax.Array, surrogate: jax.Array) -> jax.Array:
    """``value``, bit for bit, with the derivative of ``surrogate``: the straight-through rule.

    ``stop_gradient(value - surrogate) + surrogate`` rounds: compiled, bfloat16 rows are no longer
    one-hot.
    """
    del surrogate
    return value


@with_derivative_of.defjvp
def _with_derivative_of_jvp(primals, tangents):
    return with_derivative_of(*primals), tangents[1]


def positive_or_nan(temperature: jax.Array) -> jax.Array:
    """``temperature``, so that it and its reciprocal are normal; NaN where it is not positive.

    The sign is read off the bits: XLA on CPU flushes subnormal numbers to zero in a comparison.
    """
    signed = jnp.int64 if temperature.dtype == jnp.float64 else jnp.int32
    is_positive = lax.bitcast_convert_type(temperature, signed) > 0
    smallest = jnp.finfo(temperature.dtype).tiny
    # A factor, since a select would hide a wrong temperature from its own derivative.
    return jnp.clip(temperature, smallest, 1 / smallest) * jnp.where(is_positive, 1, jnp.nan)


def relaxed(
    logits: jax.Array, noise: jax.Array | None, temperature: jax.Array, axis: int
) -> jax.Array:
    """``softmax(scores / temperature)``; exactly 0 where a class is excluded."""
    scores = perturbed(lax.stop_gradient(logits), noise, axis)
    return tempered_softmax(logits, scores, temperature, None, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def tempered_softmax(
    logits: jax.Array,
    scores: jax.Array,
    temperature: jax.Array,
    largest_logit: jax.Array | None,
    axis: int,
) -> jax.Array:
    """``softmax(scores / temperature)``, derived as if of ``logits``.

    ``largest_logit`` is the maximum of a row, if it is known.
    """
    if largest_logit is None:
        largest_logit = row_max(logits, axis)
    # A wrong temperature makes a row NaN, but not one without a class.
    is_empty = is_infinite(largest_logit, -1)
    inverse = jnp.where(is_empty, 1, 1 / positive_or_nan(temperature))
    info = jnp.finfo(scores.dtype)
    largest = lax.max(row_max(scores, axis), info.min)  # -inf - -inf would be NaN
    if is_pair(scores, axis):
        smallest = lax.min(scores, lax.rev(scores, (axis,)))
        smaller = lax.exp(lax.sub(smallest, largest) * inverse)
        is_largest = lax.eq(scores, largest)
        weight = lax.select(is_largest, lax.full_like(smaller, 1), smaller)
        return lax.div(weight, lax.add(lax.full_like(smaller, 1), smaller))
    # Without a select from here on, XLA on CPU makes one loop of a library of it.
    tempered = (scores - largest) * inverse
    weights = _exp_of_rows(tempered, temperature, axis)
    return weights / lax.add(row_sum(weights, axis), info.tiny)  # a sum is 0 or at least 1


def _exp_of_rows(array: jax.Array, temperature: jax.Array, axis: int) -> jax.Array:
    """``exp(array)``: fused with what a short row shares, XLA on CPU computes it by number."""
    classes, most = array.shape[axis], 2 * SHORT if is_few(array.shape) else SHORT - 1
    is_short = isinstance(classes, int) and classes <= most
    # Of temperatures of rows, devices that hold some each would have to agree upon one.
    if not is_short or temperature.shape:
        return lax.exp(array)
    word = lax.bitcast_convert_type(temperature.astype(jnp.float32), jnp.int32)
    by_cpu = functools.partial(apart, lax.exp, jnp.zeros_like, word)
    return lax.platform_dependent(array, cpu=by_cpu, default=lax.exp)


@functools.partial(tempered_softmax.defjvp, symbolic_zeros=True)
def _tempered_softmax_jvp(axis, primals, tangents):
    sample = tempered_softmax(*primals, axis)
    return sample, softmax_tangent(sample, primals[2], tangents[0], tangents[2], axis)


def softmax_tangent(relaxed, temperature, logits_tangent, temperature_tangent, axis, dtype=None):
    """``y * (c - sum(y * c))`` with ``c = (dl - dt * log y) / t``: the relaxed sample alone.

    Half of the division comes before the sum and half after it, so that neither the tangent
    nor, transposed, the cotangent overflows at temperatures of 1e-38. Both selects are needed: the
    inner one keeps an infinite tangent of an excluded class out of the sum, the outer one an
    infinite cotangent out of the transposed sum.
    """

    dtype = dtype or relaxed.dtype

    # Computed again in the backward pass, which then keeps nothing but these arguments.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent(relaxed, temperature, logits_tangent, temperature_tangent):
        # A wrong temperature has made the relaxed sample NaN, but not a row without a class.
        temperature = positive_or_nan(temperature)
        scale = 1 / jnp.sqrt(jnp.where(jnp.isnan(temperature), 1, temperature))
        if (
            logits_tangent is not None
            and temperature_tangent is None
            and _jacobian.is_fused(relaxed, axis)
        ):
            return _jacobian.product(relaxed, scale, logits_tangent, dtype)
        change = none = lax.full_like(relaxed, 0)
        if logits_tangent is not None:
            change = lax.add(change, logits_tangent.astype(relaxed.dtype) * scale)
        if temperature_tangent is not None:
            log_relaxed = lax.log(lax.max(relaxed, jnp.finfo(relaxed.dtype).tiny))
            change = lax.sub(change, (temperature_tangent * scale) * log_relaxed)
        is_excluded = lax.eq(relaxed, none)
        total = row_sum(lax.select(is_excluded, none, lax.mul(relaxed, change)), axis)
        # This changes no number. Transposed, it keeps XLA on CPU from writing the total once for
        # each class; for two classes that is the faster, and nothing keeps it.
        if not (is_divided(relaxed, axis) or is_pair(relaxed, axis)):
            first = lax.slice_in_dim(relaxed, 0, 1, axis=axis)
            total = lax.select(lax.ne(first, first), lax.full_like(total, 0), total)
        product = lax.mul(relaxed, change - total)
        return (scale * lax.select(is_excluded, none, product)).astype(dtype)

    tangents = (logits_tangent, temperature_tangent)
    return tangent(relaxed, temperature, *map(none_if_zero, tangents))


def none_if_zero(tangent):
    """A tangent of a rule with ``symbolic_zeros``, or None where nothing is differentiated."""
    return None if isinstance(tangent, jax.custom_derivatives.SymbolicZero) else tangent


def log_probabilities(logits: jax.Array, axis: int) -> jax.Array:
    """Normalised logits; equal infinite ones share the mass, a row without a class stays -inf."""
    largest = lax.stop_gradient(jnp.max(logits, axis, keepdims=True))
    is_largest_infinite = (logits == largest) & jnp.isinf(largest)
    shifted = jnp.where(is_largest_infinite, jnp.clip(largest, -jnp.inf, 0), logits - largest)
    total = jnp.sum(jnp.exp(shifted), axis, keepdims=True)
    return shifted - jnp.log(jnp.where(total == 0, 1, total))
