"""Samples from a categorical law: exact, relaxed, and hard with the gradient of the relaxation.

One primitive carries the file. ``scores = (logits - row maximum) + noise``; the index is the first
argmax of the scores and never depends on the temperature; the relaxed sample is the softmax of
``scores / temperature``. All derivatives are written in terms of the relaxed sample alone.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments
from gs_modules._noise import gumbel_noise


def gumbel_softmax(
    key: jax.Array,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    hard: bool = False,
    axis: int = -1,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """A sample of the Gumbel-Softmax (Concrete) distribution.

    ``softmax((logits + G) / temperature)`` with ``G`` standard Gumbel noise; with ``hard=True``
    its one-hot argmax, with the derivative of the relaxed sample at the same noise
    (straight-through Gumbel-Softmax).

    Args:
        key: a typed or an old-style key; used once.
        logits: ``[..., K, ...]`` floating, unnormalised log-probabilities. ``-inf`` excludes a
            class; several ``+inf`` share the mass equally. Half-precision logits are sampled in
            float32.
        temperature: positive; a scalar, or of the shape of ``logits`` with size 1 on ``axis``.
            May be traced, and is differentiable.
        hard: return a one-hot sample: bitwise 0 and 1, in every dtype, compiled or not.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class.
        dtype: of the result; that of ``logits`` by default.

    Returns:
        The sample, of the shape of ``logits``. Excluded classes have weight and gradient exactly
        0; a row with no class left is all zeros. A NaN logit that is not excluded makes its own
        row NaN, a traced temperature that is not positive every row it applies to.

    Raises:
        TypeError: ``logits`` or ``dtype`` are not floating, ``where`` is not boolean, ``hard`` is
            traced, ``temperature`` is not a real number.
        ValueError: a concrete ``temperature`` is not positive and finite; there is no class;
            ``axis`` is out of range; ``where`` or ``temperature`` do not broadcast.

    References:
        Jang, Gu, Poole (2017), https://arxiv.org/abs/1611.01144; Maddison, Mnih, Teh (2017),
        https://arxiv.org/abs/1611.00712.

    Example:
        >>> logits = jnp.log(jnp.array([[0.2, 0.8], [0.5, 0.5]]))
        >>> sample = gumbel_softmax(jax.random.key(0), logits, 0.5, hard=True)
        >>> sample.shape, sample.sum(-1).tolist()
        ((2, 2), [1.0, 1.0])
    """
    hard = _arguments.static_bool("hard", hard)
    logits, axis, where = _checked(logits, axis, where)
    temperature = _checked_temperature(temperature, logits, axis)
    dtype = _arguments.result_dtype(dtype, logits.dtype)
    return _gumbel_softmax(key, logits, temperature, where, hard, axis).astype(dtype)


def gumbel_max(
    key: jax.Array, logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
    """The index of an exact categorical draw, ``argmax(logits + G)``: the Gumbel-max trick.

    With one key, the index of ``gumbel_softmax(key, logits, hard=True)``.

    Args:
        key: a typed or an old-style key; used once.
        logits: ``[..., K, ...]`` floating, unnormalised log-probabilities.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class.

    Returns:
        int32, the shape of ``logits`` without ``axis``; -1 for a row with no class left or with a
        NaN logit.

    Raises:
        TypeError: ``logits`` are not floating or ``where`` is not boolean.
        ValueError: there is no class, ``axis`` is out of range or ``where`` does not broadcast.

    Example:
        >>> gumbel_max(jax.random.key(0), jnp.array([0.0, -jnp.inf, -jnp.inf])).item()
        0
    """
    return _gumbel_max(key, *_checked(logits, axis, where))


def straight_through_argmax(
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """The one-hot argmax of ``logits``, with the derivative of ``softmax(logits / temperature)``.

    No noise: the first of equal maxima is taken.

    Args:
        logits: ``[..., K, ...]`` floating, unnormalised log-probabilities.
        temperature: positive, of the derivative only; a scalar, or of the shape of ``logits``
            with size 1 on ``axis``.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class.

    Returns:
        One-hot, of the shape and dtype of ``logits``; rows without a class and with NaN as in
        ``gumbel_softmax``.

    Raises:
        TypeError: as ``gumbel_softmax``.
        ValueError: as ``gumbel_softmax``.

    Example:
        >>> straight_through_argmax(jnp.array([0.1, 0.7, 0.7])).tolist()
        [0.0, 1.0, 0.0]
    """
    logits, axis, where = _checked(logits, axis, where)
    temperature = _checked_temperature(temperature, logits, axis)
    return _straight_through_argmax(logits, temperature, where, axis).astype(logits.dtype)


def straight_through_sample(
    key: jax.Array,
    logits: ArrayLike,
    temperature: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """The hard sample of ``gumbel_softmax``, with the derivative of ``softmax(logits / T)``."""
    logits, axis, where = _checked(logits, axis, where)
    temperature = _checked_temperature(temperature, logits, axis)
    return _straight_through_sample(key, logits, temperature, where, axis).astype(logits.dtype)


def log_weights(weights: ArrayLike) -> jax.Array:
    """Logits of unnormalised non-negative weights: ``log(weights)``, ``-inf`` at zero.

    Unlike ``jnp.log``, its derivative at a zero weight is 0, not infinite, so that a class can be
    excluded by its weight and the others still be trained.

    Args:
        weights: floating, any shape, non-negative.

    Returns:
        Logits of the shape and dtype of ``weights``. A traced negative weight gives NaN.

    Raises:
        TypeError: ``weights`` are not floating.
        ValueError: a concrete weight is negative.

    Example:
        >>> log_weights(jnp.array([1.0, 0.0])).tolist()
        [0.0, -inf]
    """
    weights = _arguments.floating_array("weights", weights)
    if not isinstance(weights, Tracer) and bool(jnp.any(weights < 0)):
        raise ValueError(f"weights must be non-negative, the smallest is {weights.min()}")
    is_zero = weights == 0
    return jnp.where(is_zero, -jnp.inf, jnp.log(jnp.where(is_zero, 1, weights)))


def first_argmax(scores: jax.Array, axis: int) -> jax.Array:
    """The first index that attains the maximum, with ``axis`` kept; -1 for NaN and for all -inf.

    Maximum, then first index that attains it: two reductions that XLA vectorises on CPU and
    turns into two small all-reduces when ``axis`` is sharded, unlike ``argmax``.
    """
    largest = jnp.max(scores, axis, keepdims=True)
    position = lax.broadcasted_iota(jnp.int32, scores.shape, axis)
    attained = jnp.where(scores == largest, position, scores.shape[axis])
    return jnp.where(largest > -jnp.inf, jnp.min(attained, axis, keepdims=True), -1)


def _checked(
    logits: ArrayLike, axis: int, where: ArrayLike | None
) -> tuple[jax.Array, int, jax.Array | None]:
    array = _arguments.floating_array("logits", logits)
    axis = _arguments.category_axis(axis, array.shape)
    return array, axis, _arguments.boolean_mask(where, array.shape)


def _checked_temperature(temperature: Any, logits: jax.Array, axis: int) -> jax.Array:
    computing = _arguments.computing_dtype(logits.dtype)
    return _arguments.positive_temperature(temperature, logits.shape, axis, computing)


@functools.partial(jax.jit, static_argnums=(4, 5), inline=True)
def _gumbel_softmax(key, logits, temperature, where, hard, axis):
    logits = computing_logits(logits, where)
    noise = gumbel_noise(key, logits.shape, logits.dtype)
    if hard:
        return _one_hot(logits, noise, noise, temperature, axis)
    return _relaxed(logits, noise, temperature, axis)


@functools.partial(jax.jit, static_argnums=2, inline=True)
def _gumbel_max(key, logits, axis, where):
    logits = computing_logits(logits, where)
    noise = gumbel_noise(key, logits.shape, logits.dtype)
    return jnp.squeeze(first_argmax(_scores(logits, noise, axis), axis), axis)


@functools.partial(jax.jit, static_argnums=3, inline=True)
def _straight_through_argmax(logits, temperature, where, axis):
    logits = computing_logits(logits, where)
    no_noise = jnp.zeros_like(logits)
    return _one_hot(logits, no_noise, no_noise, temperature, axis)


@functools.partial(jax.jit, static_argnums=4, inline=True)
def _straight_through_sample(key, logits, temperature, where, axis):
    logits = computing_logits(logits, where)
    noise = gumbel_noise(key, logits.shape, logits.dtype)
    return _one_hot(logits, noise, jnp.zeros_like(logits), temperature, axis)


def computing_logits(logits: jax.Array, where: jax.Array | None) -> jax.Array:
    """``logits`` in float32 or float64, ``-inf`` where a class is excluded.

    Half-precision logits are rounded explicitly: XLA may keep the excess precision of whatever
    computed them, and a compiled program would then draw from another law than an eager one.
    """
    if logits.dtype.itemsize < 4:
        logits = _rounded(logits)
    return logits if where is None else jnp.where(where, logits, -jnp.inf)


@jax.custom_jvp
def _rounded(logits: jax.Array) -> jax.Array:
    info = jnp.finfo(logits.dtype)
    wide = logits.astype(jnp.float32)
    rounded = lax.reduce_precision(wide, info.nexp, info.nmant)
    # reduce_precision flushes subnormal numbers to zero; float16 logits of 6e-5 are subnormal.
    return jnp.where(jnp.abs(wide) < float(info.smallest_normal), wide, rounded)


_rounded.defjvps(lambda tangent, *_: tangent.astype(jnp.float32))


def _scores(logits: jax.Array, noise: jax.Array, axis: int) -> jax.Array:
    """``(logits - row maximum) + noise``: added to logits of 1e9, the noise would be lost."""
    largest = jnp.max(logits, axis, keepdims=True)
    # inf - inf is NaN; equal infinite logits share the mass.
    shifted = jnp.where(logits == largest, 0, logits - largest)
    return jnp.where(logits == -jnp.inf, -jnp.inf, shifted + noise)


def _positive_or_nan(temperature: jax.Array) -> jax.Array:
    """``temperature``, at least the smallest normal number; NaN where it is not positive.

    The sign is read off the bits: XLA on CPU flushes subnormal numbers to zero in a comparison.
    """
    signed = jnp.int64 if temperature.dtype == jnp.float64 else jnp.int32
    is_positive = lax.bitcast_convert_type(temperature, signed) > 0
    smallest = jnp.finfo(temperature.dtype).tiny
    return jnp.where(is_positive, jnp.maximum(temperature, smallest), jnp.nan)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _relaxed(logits, noise, temperature, axis):
    scores = _scores(logits, noise, axis)
    from_largest = scores - jnp.max(scores, axis, keepdims=True)
    weights = jnp.exp(from_largest / _positive_or_nan(temperature))
    weights = jnp.where(scores == -jnp.inf, 0, weights)
    total = jnp.sum(weights, axis, keepdims=True)
    return weights / jnp.where(total == 0, 1, total)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _one_hot(logits, noise, noise_of_derivative, temperature, axis):
    """The one-hot argmax of the scores, with the derivative of ``_relaxed`` at another noise."""
    del noise_of_derivative
    scores = _scores(logits, noise, axis)
    index = first_argmax(scores, axis)
    position = lax.broadcasted_iota(jnp.int32, scores.shape, axis)
    sample = (position == index).astype(scores.dtype)
    largest = jnp.max(scores, axis, keepdims=True)
    is_nan = jnp.isnan(largest) | (jnp.isnan(_positive_or_nan(temperature)) & (index >= 0))
    return jnp.where(is_nan, jnp.nan, sample)


@functools.partial(_relaxed.defjvp, symbolic_zeros=True)
def _relaxed_jvp(axis, primals, tangents):
    logits, noise, temperature = primals
    sample = _relaxed(logits, noise, temperature, axis)
    return sample, _tangent(sample, temperature, tangents[0], tangents[2], axis)


@functools.partial(_one_hot.defjvp, symbolic_zeros=True)
def _one_hot_jvp(axis, primals, tangents):
    logits, noise, noise_of_derivative, temperature = primals
    relaxed = _relaxed(logits, noise_of_derivative, temperature, axis)
    sample = _one_hot(logits, noise, noise_of_derivative, temperature, axis)
    return sample, _tangent(relaxed, temperature, tangents[0], tangents[3], axis)


def _tangent(relaxed, temperature, logits_tangent, temperature_tangent, axis):
    """``w - y * sum(w)`` with ``w = y * (dl - dt * log y) / t``: the relaxed sample alone.

    Half of the division comes before the weights and half after them, so that neither the tangent
    nor, transposed, the cotangent overflows at temperatures of 1e-38. Both selects are needed: the
    inner one keeps an infinite tangent of an excluded class out of the sum, the outer one an
    infinite cotangent out of the transposed sum.
    """

    # Computed again in the backward pass, which then keeps nothing but these arguments.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent(relaxed, temperature, logits_tangent, temperature_tangent):
        scale = 1 / jnp.sqrt(_positive_or_nan(temperature))
        change = jnp.zeros_like(relaxed)
        if logits_tangent is not None:
            change += logits_tangent * scale
        if temperature_tangent is not None:
            log_relaxed = jnp.log(jnp.maximum(relaxed, jnp.finfo(relaxed.dtype).tiny))
            change -= (temperature_tangent * scale) * log_relaxed
        weighted = jnp.where(relaxed == 0, 0, relaxed * change)
        total = jnp.sum(weighted, axis, keepdims=True)
        return jnp.where(relaxed == 0, 0, (weighted - relaxed * total) * scale)

    tangents = (logits_tangent, temperature_tangent)
    return tangent(
        relaxed,
        temperature,
        *(None if isinstance(t, jax.custom_derivatives.SymbolicZero) else t for t in tangents),
    )
