"""KL divergence and entropy of categoricals, in nats, with no NaN at probability zero."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gs_modules import _arguments
from gs_modules._relaxed import computing_logits, log_probabilities


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
        gives infinity; a row with no class left gives 0.

    Raises:
        TypeError: logits are not floating, ``where`` is not boolean.
        ValueError: there is no class, ``axis`` is out of range, shapes do not broadcast.

    Example:
        >>> round(categorical_kl(jnp.array([0.0, -jnp.inf])).item(), 6)  # log 2
        0.693147
    """
    array = _arguments.floating_array("logits", logits)
    axis = _arguments.category_axis(axis, array.shape)
    mask = _arguments.boolean_mask(where, array.shape)
    if prior_logits is None:
        prior = jnp.zeros_like(array)
    else:
        prior = _arguments.floating_array("prior_logits", prior_logits)
        try:
            prior = jnp.broadcast_to(prior, array.shape)
        except ValueError:
            raise ValueError(
                f"prior_logits of shape {prior.shape} do not broadcast to logits of shape "
                f"{array.shape}"
            ) from None
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
    array = _arguments.floating_array("logits", logits)
    axis = _arguments.category_axis(axis, array.shape)
    return _categorical_entropy(array, _arguments.boolean_mask(where, array.shape), axis)


@functools.partial(jax.jit, static_argnums=3, inline=True)
def _categorical_kl(logits, prior_logits, where, axis):
    log_q = log_probabilities(computing_logits(logits, where), axis)
    prior_logits = computing_logits(prior_logits, where).astype(log_q.dtype)
    log_p = log_probabilities(prior_logits, axis)
    return jnp.sum(_expected(log_q, log_q) - _expected(log_q, log_p), axis)


@functools.partial(jax.jit, static_argnums=2, inline=True)
def _categorical_entropy(logits, where, axis):
    log_q = log_probabilities(computing_logits(logits, where), axis)
    return -jnp.sum(_expected(log_q, log_q), axis)


def _expected(log_q: jax.Array, value: jax.Array) -> jax.Array:
    """``q * value``, and 0 with gradient 0 where ``q`` is 0."""
    q = jnp.exp(log_q)
    has_no_mass = q == 0
    return jnp.where(has_no_mass, 0, q * jnp.where(has_no_mass, 0, value))
