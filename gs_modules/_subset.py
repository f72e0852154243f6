"""Samples of k classes without replacement: the largest k of the perturbed logits."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments, _scalars
from gs_modules._noise import class_noise_like
from gs_modules._relaxed import (
    computing_logits,
    is_nan_row,
    none_if_zero,
    perturbed,
    positive_or_nan,
    relaxed,
    softmax_tangent,
    with_derivative_of,
)
from gs_modules._rows import first_argmax, is_at

FEW_ROUNDS = 4
"""Rounds that are written one after the other. They take no longer to compile than a loop, whose
derivative stores what each round leaves and reads it again: twice the time."""


def gumbel_top_k(
    key: jax.Array,
    logits: ArrayLike,
    k: int,
    temperature: ArrayLike = 1.0,
    *,
    hard: bool = False,
    axis: int = -1,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """A k-hot sample of k different classes, drawn without replacement.

    The k largest of ``logits + G`` with ``G`` standard Gumbel noise: classes in the order of a
    Plackett-Luce draw. The relaxed sample is the sum of k successive softmaxes, ``a_1 = logits +
    G``, ``p_j = softmax(a_j / temperature)``, ``a_{j+1} = a_j + log(1 - p_j)``; its weights sum to
    k, and one may exceed 1. With ``hard=True`` the k-hot sample itself, with the derivative of the
    relaxed one at the same noise. For k = 1 the law is that of ``gumbel_softmax``; over more than
    1,000 classes the two draw different hard samples from one key. For k > 1, second derivatives
    with respect to the temperature are finite from 1e-10 on.

    Args:
        key: a typed or an old-style key; used once.
        logits: ``[..., K, ...]`` floating, unnormalised log-probabilities.
        k: how many classes, 1 to K; static.
        temperature: positive; a scalar, or of the shape of ``logits`` with size 1 on ``axis``.
            May be traced, and is differentiable.
        hard: return a k-hot sample: bitwise 0 and 1, in every dtype, compiled or not.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class.
        dtype: of the result; that of ``logits`` by default.

    Returns:
        The sample, of the shape of ``logits``. Excluded classes have weight and gradient exactly
        0. In a row with fewer than k classes left each of them has weight 1, with gradient 0. NaN
        as in ``gumbel_softmax``.

    Raises:
        TypeError: as ``gumbel_softmax``; ``k`` is not an integer.
        ValueError: as ``gumbel_softmax``; ``k`` is not in 1 to K.

    References:
        Kool, van Hoof, Welling (2019), https://arxiv.org/abs/1903.06059; Xie, Ermon (2019),
        https://arxiv.org/abs/1901.10517.

    Example:
        >>> gumbel_top_k(jax.random.key(0), jnp.array([0.0, 1.0, -jnp.inf]), 2, hard=True).tolist()
        [1.0, 1.0, 0.0]
    """
    key = _arguments.check_key(key)
    hard = _scalars.static_bool("hard", hard)
    logits, axis, where = _arguments.categories(logits, axis, where, key, temperature)
    k = _scalars.check_count("k", k, logits.shape[axis])
    temperature = _arguments.category_temperature(temperature, logits, axis)
    dtype = _arguments.result_dtype(dtype, logits.dtype)
    return _gumbel_top_k(key, logits, temperature, where, k, hard, axis).astype(dtype)


@functools.partial(jax.jit, static_argnums=(4, 5, 6), inline=True)
def _gumbel_top_k(key, logits, temperature, where, k, hard, axis):
    logits = computing_logits(logits, where)
    noise = class_noise_like(key, logits, axis)
    if k == 1:
        soft = relaxed(logits, noise, temperature, axis)
    else:
        soft = _relaxed_k_hot(key, logits, temperature, k, axis)
    return with_derivative_of(_k_hot(logits, noise, temperature, k, axis), soft) if hard else soft


@functools.partial(jax.jit, static_argnums=1, inline=True)
def largest_k_hot(logits: jax.Array, k: int) -> jax.Array:
    """``[..., K]``, 1 on the k largest and 0 elsewhere, without a derivative; a NaN row is NaN."""
    return _k_hot(logits, None, jnp.ones((), logits.dtype), k, logits.ndim - 1)


@functools.partial(jax.jit, static_argnums=1, inline=True)
def largest_first(scores: jax.Array, k: int) -> jax.Array:
    """``[..., k]`` int32, the positions of the k largest in their order; -1 for ``-inf``."""
    axis = scores.ndim - 1

    def choose(left, _):
        index = first_argmax(left, axis)
        return jnp.where(is_at(index, left, axis), -jnp.inf, left), index

    _, index = lax.scan(choose, lax.stop_gradient(scores), length=k)
    return jnp.moveaxis(jnp.maximum(index[..., 0], -1), 0, -1)


def _k_hot(logits, noise, temperature, k, axis):
    logits = lax.stop_gradient(logits)
    first = first_argmax(perturbed(logits, noise, axis), axis)

    def choose(_, carry):
        left, sample = carry
        # Perturbed anew: beside a chosen logit of 1e9, the noise of the others would be lost.
        index = first_argmax(perturbed(left, noise, axis), axis)
        is_chosen = is_at(index, left, axis)
        return jnp.where(is_chosen, -jnp.inf, left), jnp.where(is_chosen, 1, sample)

    _, sample = lax.fori_loop(0, k, choose, (logits, jnp.zeros_like(logits)))
    return jnp.where(is_nan_row(first, temperature), jnp.nan, sample)


@functools.partial(jax.checkpoint, static_argnums=(3, 4))
def _relaxed_k_hot(key, logits, temperature, k, axis):
    """Keeps the logits and the key for the backward pass, not the noise and not k rounds."""

    def next_round(carry, _):
        weights, *scores = carry
        more, *scores = _successive_softmax(*scores, temperature, axis)
        return (weights + more, *scores), None

    is_possible = logits != -jnp.inf
    extra = with_derivative_of(class_noise_like(key, logits, axis), logits)
    carry = (jnp.zeros_like(extra), lax.stop_gradient(logits), extra)
    (weights, *_), _ = lax.scan(next_round, carry, length=k, unroll=k <= FEW_ROUNDS)
    count = jnp.sum(is_possible, axis, keepdims=True)
    certain = jnp.where(is_possible, jnp.where(jnp.isnan(weights), jnp.nan, 1), 0)
    return jnp.where(count < k, certain, weights)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _successive_softmax(base, extra, temperature, axis):
    """``p = softmax(a / temperature)`` and the next ``a + log(1 - p)``, for ``a = base + extra``.

    The two terms stay apart until the row maximum of ``base`` is subtracted; derivatives are those
    of ``extra``. ``base`` is ``-inf`` for an excluded class.
    """
    r = _round(base, extra, temperature, axis)
    return r.softmax, r.next_base, r.next_extra


class _Round(NamedTuple):
    softmax: jax.Array
    next_base: jax.Array
    next_extra: jax.Array
    is_first: jax.Array
    rest: jax.Array
    below_first: jax.Array


def _round(base, extra, temperature, axis):
    """The first is taken apart from the rest: ``1 - p`` of the first is rounded away when cold.

    ``p_first = 1 / (1 + R exp(-d / t))`` with d the distance to the second and R the sum of the
    exponentials of the rest, whose softmax is ``rest``; ``below_first`` is ``a - a_first``.
    """
    temperature = positive_or_nan(temperature)
    finite = float(jnp.finfo(base.dtype).max)
    is_first = is_at(first_argmax(perturbed(base, extra, axis), axis), base, axis)
    rest_base = jnp.where(is_first, -jnp.inf, base)
    frame = jnp.max(rest_base, axis, keepdims=True)
    rest_scores = perturbed(rest_base, extra, axis)
    second = jnp.max(rest_scores, axis, keepdims=True)
    rest = jnp.exp((rest_scores - second) / temperature)
    rest = jnp.where(rest_scores == -jnp.inf, 0, rest)
    rest_total = jnp.sum(rest, axis, keepdims=True)
    rest = rest / jnp.where(rest_total == 0, 1, rest_total)

    above_frame = jnp.where(base == frame, 0, base - frame)  # inf - inf is NaN
    first = jnp.sum(jnp.where(is_first, above_frame + extra, 0), axis, keepdims=True)
    distance = jnp.clip(first - second, 0, finite)
    odds_of_rest = rest_total * jnp.exp(-distance / temperature)
    softmax = jnp.where(is_first, 1, rest * odds_of_rest) / (1 + odds_of_rest)

    log_rest = jnp.log(jnp.where(rest_total == 0, 1, rest_total)) - jnp.log1p(odds_of_rest)
    next_first = second + (distance - distance / temperature) + log_rest
    next_first = jnp.where(rest_total == 0, -jnp.inf, next_first)
    next_rest = extra + jnp.log1p(-jnp.where(is_first, 0, softmax))
    next_extra = jnp.where(is_first, next_first, next_rest)
    next_base = jnp.where(is_first, frame, base)
    is_taken = next_extra == -jnp.inf
    next_base = jnp.where(is_taken, -jnp.inf, next_base)
    next_extra = jnp.where(is_taken, 0, next_extra)

    return _Round(softmax, next_base, next_extra, is_first, rest, rest_scores - second - distance)


@functools.partial(_successive_softmax.defjvp, symbolic_zeros=True)
def _successive_softmax_jvp(axis, primals, tangents):
    """``d log(1 - p) = p (sum(rest dz) - dz) / t`` of the first, ``-dp / (1 - p)`` of the rest.

    Every factor is finite and every excluded class selected away, so that no 0 meets an infinity
    at temperatures of 1e-38, forward or transposed.
    """
    base, extra, temperature = primals
    of_extra, of_temperature = map(none_if_zero, tangents[1:])
    r = _round(base, extra, temperature, axis)
    is_certain = jnp.sum(r.softmax != 0, axis, keepdims=True) == 1
    if of_extra is not None:
        of_extra = jnp.where(base == -jnp.inf, 0, of_extra)
        of_certain = jnp.where(is_certain, 0, of_extra)
    else:
        of_certain = of_extra = jnp.zeros_like(extra)
    of_softmax = softmax_tangent(r.softmax, temperature, of_certain, of_temperature, axis)
    temperature = positive_or_nan(temperature)
    rest_of_extra = jnp.sum(jnp.where(r.rest == 0, 0, r.rest * of_extra), axis, keepdims=True)
    of_first = r.softmax * (rest_of_extra - jnp.where(r.is_first, of_extra, 0)) / temperature
    if of_temperature is not None:
        steepest = float(jnp.finfo(extra.dtype).max) ** 0.65  # its own derivative is finite too
        slope = jnp.clip(r.below_first / temperature / temperature, -steepest, steepest)
        slope = jnp.sum(jnp.where(r.rest == 0, 0, r.rest * slope), axis, keepdims=True)
        of_first -= of_temperature * r.softmax * slope
    of_rest = -of_softmax / (1 - jnp.where(r.is_first, 0, r.softmax))
    of_next = of_extra + jnp.where(r.is_first, of_first, of_rest)
    of_next = jnp.where(r.next_base == -jnp.inf, 0, of_next)
    no_tangent = jnp.zeros_like(base)
    return (r.softmax, r.next_base, r.next_extra), (of_softmax, no_tangent, of_next)
