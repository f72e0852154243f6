"""Samples of k classes without replacement: the largest k of the perturbed logits."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments
from gs_modules._noise import gumbel_noise
from gs_modules._relaxed import (
    computing_logits,
    first_argmax,
    is_nan_row,
    none_if_zero,
    perturbed,
    positive_or_nan,
    softmax_tangent,
    with_derivative_of,
)


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
    relaxed one at the same noise. For k = 1 it is ``gumbel_softmax``.

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
    hard = _arguments.static_bool("hard", hard)
    logits, axis, where = _arguments.categories(logits, axis, where)
    k = _checked_k(k, logits.shape[axis])
    temperature = _arguments.category_temperature(temperature, logits, axis)
    dtype = _arguments.result_dtype(dtype, logits.dtype)
    return _gumbel_top_k(key, logits, temperature, where, k, hard, axis).astype(dtype)


def _checked_k(k: int, num_classes: int) -> int:
    try:
        count = operator.index(k)
    except TypeError:
        raise TypeError(f"k must be an integer known while tracing, got {k!r}") from None
    if isinstance(k, bool) or not 1 <= count <= num_classes:
        raise ValueError(f"k must be in 1 .. {num_classes}, the number of classes; got {k!r}")
    return count


@functools.partial(jax.jit, static_argnums=(4, 5, 6), inline=True)
def _gumbel_top_k(key, logits, temperature, where, k, hard, axis):
    logits = computing_logits(logits, where)
    noise = gumbel_noise(key, logits.shape, logits.dtype)
    scores = perturbed(lax.stop_gradient(logits), noise, axis)
    # A shift of a whole row changes nothing, so the derivative of the scores is that of the logits.
    soft = _relaxed_k_hot(with_derivative_of(scores, logits), temperature, k, axis)
    return with_derivative_of(_k_hot(scores, temperature, k, axis), soft) if hard else soft


def _k_hot(scores, temperature, k, axis):
    position = lax.broadcasted_iota(jnp.int32, scores.shape, axis)
    is_nan = is_nan_row(scores, first_argmax(scores, axis), temperature, axis)

    def choose(_, carry):
        left, sample = carry
        is_chosen = position == first_argmax(left, axis)
        return jnp.where(is_chosen, -jnp.inf, left), jnp.where(is_chosen, 1, sample)

    _, sample = lax.fori_loop(0, k, choose, (scores, jnp.zeros_like(scores)))
    return jnp.where(is_nan, jnp.nan, sample)


@functools.partial(jax.checkpoint, static_argnums=(2, 3))  # keeps the scores, not k rounds of them
def _relaxed_k_hot(scores, temperature, k, axis):
    def round_of(scores, _):
        weights, left = _successive_softmax(scores, temperature, axis)
        return left, weights

    weights = lax.scan(round_of, scores, length=k)[1].sum(0)
    is_possible = scores != -jnp.inf
    count = jnp.sum(is_possible, axis, keepdims=True)
    certain = jnp.where(is_possible, jnp.where(jnp.isnan(weights), jnp.nan, 1), 0)
    return jnp.where(count < k, certain, weights)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _successive_softmax(scores, temperature, axis):
    """``p = softmax(scores / temperature)`` and ``scores + log(1 - p)``."""
    return _successive_softmax_and_rest(scores, temperature, axis)[:2]


def _successive_softmax_and_rest(scores, temperature, axis):
    """Also the softmax without the largest score, the largest and where it stands.

    ``1 - p`` of the largest is rounded away at small temperatures; its logarithm is the difference
    of two sums of exponentials, of all but the largest and of all.
    """
    temperature = positive_or_nan(temperature)
    index = first_argmax(scores, axis)
    is_first = lax.broadcasted_iota(jnp.int32, scores.shape, axis) == index
    largest, weights, total = _weights(scores, temperature, axis)
    second, rest, rest_total = _weights(jnp.where(is_first, -jnp.inf, scores), temperature, axis)
    softmax, rest_softmax = weights / _or_one(total), rest / _or_one(rest_total)
    log_rest = (second - largest) / temperature + jnp.log(_or_one(rest_total)) - jnp.log(total)
    log_one_minus = jnp.where(is_first, log_rest, jnp.log1p(-jnp.where(is_first, 0, softmax)))
    left = jnp.where(scores == -jnp.inf, -jnp.inf, scores + log_one_minus)
    left = jnp.where(is_first & (rest_total == 0), -jnp.inf, left)
    return softmax, left, rest_softmax, largest, is_first


def _weights(scores, temperature, axis):
    largest = jnp.max(scores, axis, keepdims=True)
    weights = jnp.exp((scores - largest) / temperature)
    weights = jnp.where(scores == -jnp.inf, 0, weights)
    return largest, weights, jnp.sum(weights, axis, keepdims=True)


def _or_one(total):
    return jnp.where(total == 0, 1, total)


@functools.partial(_successive_softmax.defjvp, symbolic_zeros=True)
def _successive_softmax_jvp(axis, primals, tangents):
    """With ``q`` the softmax of all but the largest, ``d log(1 - p) = p (sum(q dz) - dz) / t``.

    Elsewhere it is ``-dp / (1 - p)``. Every factor is finite and every excluded class selected
    away, so that no 0 meets an infinity at temperatures of 1e-38, forward or transposed.
    """
    scores, temperature = primals
    of_scores, of_temperature = map(none_if_zero, tangents)
    softmax, left, rest, largest, is_first = _successive_softmax_and_rest(scores, temperature, axis)
    of_softmax = softmax_tangent(softmax, temperature, of_scores, of_temperature, axis)
    temperature = positive_or_nan(temperature)
    change = jnp.zeros_like(scores)
    if of_scores is not None:
        change += jnp.where(scores == -jnp.inf, 0, of_scores)
    if of_temperature is not None:
        finite = jnp.finfo(scores.dtype).max
        depth = jnp.clip((scores - largest) / temperature, -finite, finite)
        change -= of_temperature * jnp.where(scores == -jnp.inf, 0, depth)
    mean_of_rest = jnp.sum(jnp.where(rest == 0, 0, rest * change), axis, keepdims=True)
    of_first = softmax * (mean_of_rest - jnp.where(is_first, change, 0)) / temperature
    of_others = -of_softmax / (1 - jnp.where(is_first, 0, softmax))
    of_log = jnp.where(is_first, of_first, of_others)
    of_left = jnp.zeros_like(scores) if of_scores is None else of_scores
    return (softmax, left), (of_softmax, jnp.where(left == -jnp.inf, 0, of_left + of_log))
