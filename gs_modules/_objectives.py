"""Objectives of categoricals, in nats: KL, entropy, log-probability, leave-one-out REINFORCE.

No NaN at probability zero.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from gs_modules import _arguments
from gs_modules._relaxed import computing_logits, log_probabilities, with_derivative_of
from gs_modules._sharding import positions


def categorical_kl(
    logits: ArrayLike,
    prior_logits: ArrayLike | None = None,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """KL divergence of a categorical from its prior, ``sum_k q_k (log q_k - log p_k)``, in nats.

    Args:
        logits: ``[..., K, ...]`` floating, unnormalised log-probabilities of ``q``.
        prior_logits: of ``p``; broadcasts to ``logits``. Uniform over the classes that ``where``
            keeps by default.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class from both.

    Returns:
        float32 (float64 for float64 logits), the shape of ``logits`` without ``axis``. Classes of
        probability 0 under ``q`` add 0 with gradient 0; a class that ``q`` has and ``p`` has not
        gives infinity, with a gradient that is large and finite; a row with no class left gives 0.

    Raises:
        TypeError: logits are not floating, ``where`` is not boolean.
        ValueError: there is no class, ``axis`` is out of range, shapes do not broadcast.

    Example:
        >>> round(categorical_kl(jnp.array([0.0, -jnp.inf])).item(), 6)  # log 2
        0.693147
    """
    array, axis, mask = _arguments.categories(logits, axis, where)
    prior = _arguments.prior_like(prior_logits, array)
    return _categorical_kl(array, prior, mask, axis)


def categorical_entropy(
    logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Entropy of a categorical, ``-sum_k q_k log q_k``, in nats: between 0 and ``log K``.

    Args:
        logits: ``[..., K, ...]`` floating, unnormalised log-probabilities.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class.

    Returns:
        float32 (float64 for float64 logits), the shape of ``logits`` without ``axis``; classes of
        probability 0 add 0 with gradient 0.

    Raises:
        TypeError: logits are not floating, ``where`` is not boolean.
        ValueError: there is no class, ``axis`` is out of range, ``where`` does not broadcast.

    Example:
        >>> round(categorical_entropy(jnp.zeros(4)).item(), 6)  # log 4
        1.386294
    """
    array, axis, mask = _arguments.categories(logits, axis, where)
    return _categorical_entropy(array, mask, axis)


def categorical_log_prob(
    index: ArrayLike, logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Log-probability of the class ``index`` under a categorical, ``log softmax(logits)[index]``.

    Args:
        index: integer, the shape of ``logits`` without ``axis``, as ``gumbel_max`` gives it.
        logits: ``[..., K, ...]`` floating, unnormalised log-probabilities.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class.

    Returns:
        float32 (float64 for float64 logits), in nats, the shape of ``index``; ``-inf`` for an
        excluded class. 0 with gradient 0 for the -1 of a row with no class left, NaN for that of
        a row with a NaN logit and for a traced index that is out of range.

    Raises:
        TypeError: ``logits`` are not floating, ``index`` is not integer, ``where`` not boolean.
        ValueError: ``index`` has another shape, or a concrete one is out of range; there is no
            class, ``axis`` is out of range, ``where`` does not broadcast.

    Example:
        >>> round(categorical_log_prob(jnp.array(1), jnp.zeros(4)).item(), 6)  # -log 4
        -1.386294
    """
    array, axis, mask = _arguments.categories(logits, axis, where)
    chosen = _arguments.index_array("index", index)
    shape = array.shape[:axis] + array.shape[axis + 1 :]
    if chosen.shape != shape:
        raise ValueError(
            f"index of shape {chosen.shape} must have the shape of logits, {array.shape}, without "
            f"axis {axis}: {shape}"
        )
    num_classes = array.shape[axis]
    if not isinstance(chosen, Tracer) and np.any((chosen < -1) | (chosen >= num_classes)):
        raise ValueError(f"index must be in 0 .. {num_classes - 1} (-1: no class), got {index!r}")
    return _categorical_log_prob(chosen, array, mask, axis)


def leave_one_out_reinforce(losses: ArrayLike, log_probs: ArrayLike) -> jax.Array:
    """The mean loss, whose gradient is unbiased for every loss of a discrete sample.

    Its gradient is ``mean_i (d loss_i + (loss_i - mean_{j != i} loss_j) d log_prob_i)``: each
    sample is compared with the mean of the others, which leaves the mean of the gradient as it is
    and takes most of its variance (REINFORCE with a leave-one-out baseline, RLOO).

    Args:
        losses: ``[n, ...]`` floating, the loss of each of n >= 2 independent samples; what it
            depends on besides the sample is differentiated as usual.
        log_probs: ``[n, ...]`` floating, in nats: of the sample under the law it was drawn from,
            summed over its variables.

    Returns:
        ``[...]``, the mean of ``losses`` over the samples, in their dtype.

    Raises:
        TypeError: an argument is not floating.
        ValueError: shapes differ, or there are fewer than two samples.

    References:
        Kool, van Hoof, Welling (2019), https://openreview.net/forum?id=r1lgTGL5DE.

    Example:
        >>> from gs_modules import gumbel_max
        >>> def objective(logits, key):
        ...     index = gumbel_max(key, jnp.broadcast_to(logits, (8, 3)))
        ...     losses = jnp.array([1.0, 2.0, 4.0])[index]
        ...     log_probs = categorical_log_prob(index, jnp.broadcast_to(logits, (8, 3)))
        ...     return leave_one_out_reinforce(losses, log_probs)
        >>> jax.grad(objective)(jnp.zeros(3), jax.random.key(0)).shape
        (3,)
    """
    losses = _arguments.floating_array("losses", losses)
    log_probs = _arguments.floating_array("log_probs", log_probs)
    if losses.shape != log_probs.shape:
        raise ValueError(
            f"losses and log_probs must have one shape, [n, ...], got {losses.shape} and "
            f"{log_probs.shape}"
        )
    if losses.ndim == 0 or losses.shape[0] < 2:
        raise ValueError(f"leave-one-out needs at least two samples on axis 0, got {losses.shape}")
    return _leave_one_out_reinforce(losses, log_probs)


@functools.partial(jax.jit, static_argnums=3, inline=True)
def _categorical_kl(logits, prior_logits, where, axis):
    log_q = log_probabilities(computing_logits(logits, where), axis)
    prior_logits = computing_logits(prior_logits, where).astype(log_q.dtype)
    log_p = log_probabilities(prior_logits, axis)
    log_ratio = _expected(log_q, log_q)
    # Infinity as it is, but not in the gradient, where it would meet another one.
    lowest = -float(jnp.finfo(log_p.dtype).max) / 32
    surrogate = jnp.sum(log_ratio - _expected(log_q, jnp.maximum(log_p, lowest)), axis)
    return with_derivative_of(jnp.sum(log_ratio - _expected(log_q, log_p), axis), surrogate)


@functools.partial(jax.jit, static_argnums=2, inline=True)
def _categorical_entropy(logits, where, axis):
    log_q = log_probabilities(computing_logits(logits, where), axis)
    return -jnp.sum(_expected(log_q, log_q), axis)


def _expected(log_q: jax.Array, value: jax.Array) -> jax.Array:
    """``q * value``, and 0 with gradient 0 where ``q`` is 0."""
    q = jnp.exp(log_q)
    has_no_mass = q == 0
    return jnp.where(has_no_mass, 0, q * jnp.where(has_no_mass, 0, value))


@functools.partial(jax.jit, static_argnums=3, inline=True)
def _categorical_log_prob(index, logits, where, axis):
    logits = computing_logits(logits, where)
    log_p = log_probabilities(logits, axis)
    is_chosen = positions(logits, axis) == jnp.expand_dims(index, axis)
    chosen = jnp.sum(jnp.where(is_chosen, log_p, 0), axis)
    # An excluded class is chosen with probability 0 whatever the logits of the others.
    chosen = jnp.where(chosen == -jnp.inf, -jnp.inf, chosen)
    is_empty = jnp.all(logits == -jnp.inf, axis)
    without_class = jnp.where(is_empty & (index == -1), 0, jnp.nan)
    log_prob = jnp.where(jnp.any(is_chosen, axis), chosen, without_class)
    return jnp.where(jnp.any(jnp.isnan(logits), axis), jnp.nan, log_prob)


@functools.partial(jax.jit, inline=True)
def _leave_one_out_reinforce(losses, log_probs):
    n = losses.shape[0]
    mean = losses.mean(0)
    advantage = lax.stop_gradient((losses - mean[None]) * (n / (n - 1)))
    score = (advantage * log_probs.astype(losses.dtype)).mean(0)
    return with_derivative_of(mean, mean + score)
