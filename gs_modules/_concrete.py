"""The Concrete distribution in log space: samples, densities and KL that stay finite when cold.

At temperature 0.01 most weights of a relaxed sample underflow and their logarithms are lost, so
samples are drawn as logarithms (as log-odds where they are binary) and densities are of these. The
density of the weights themselves is smaller by the sum of the log-weights (for binary ones by
``log y + log(1 - y)``); a difference of two densities is the same for both.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from gs_modules import _arguments
from gs_modules._noise import class_noise_like, logistic_noise_like
from gs_modules._relaxed import (
    computing_logits,
    log_probabilities,
    perturbed,
    positive_or_nan,
    with_derivative_of,
)


def gumbel_log_softmax(
    key: jax.Array,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """The logarithm of ``gumbel_softmax``: ``log_softmax((logits + G) / temperature)``.

    Args:
        key: a typed or an old-style key; used once. The noise is that of ``gumbel_softmax``.
        logits: ``[..., K, ...]`` floating, unnormalised log-probabilities.
        temperature: positive; a scalar, or of the shape of ``logits`` with size 1 on ``axis``.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class.

    Returns:
        float32 (float64 for float64 logits), of the shape of ``logits``: the logarithms of half
        types would lose the density. ``-inf`` with gradient 0 for an excluded class.

    Raises:
        TypeError: as ``gumbel_softmax``.
        ValueError: as ``gumbel_softmax``.

    References:
        Maddison, Mnih, Teh (2017), appendix C.3 (ExpConcrete), https://arxiv.org/abs/1611.00712.

    Example:
        >>> bool(jnp.isfinite(gumbel_log_softmax(jax.random.key(0), jnp.zeros(5), 0.001)).all())
        True
    """
    key = _arguments.check_key(key)
    array, axis, mask = _arguments.categories(logits, axis, where, key, temperature)
    temperature = _arguments.category_temperature(temperature, array, axis)
    return _gumbel_log_softmax(key, array, temperature, mask, axis)


def gumbel_log_odds(
    key: jax.Array,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
) -> jax.Array:
    """The log-odds of ``gumbel_sigmoid``: ``(logits + L) / temperature``.

    Args:
        key: a typed or an old-style key; used once. The noise is that of ``gumbel_sigmoid``.
        logits: any shape, floating: log-odds of 1.
        temperature: positive; broadcasts to ``logits``.

    Returns:
        float32 (float64 for float64 logits), of the shape of ``logits``; infinite, with gradient 0,
        where it overflows.

    Raises:
        TypeError: as ``gumbel_sigmoid``.
        ValueError: as ``gumbel_sigmoid``.

    References:
        Maddison, Mnih, Teh (2017), appendix C.2, https://arxiv.org/abs/1611.00712.

    Example:
        >>> gumbel_log_odds(jax.random.key(0), jnp.zeros(5), 0.5).shape
        (5,)
    """
    key = _arguments.check_key(key)
    array = _arguments.floating_array("logits", logits)
    return _gumbel_log_odds(key, array, _elementwise_temperature(temperature, array))


def relaxed_categorical_log_prob(
    log_sample: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Log-density of the logarithm ``x`` of a Gumbel-Softmax sample over n classes.

    ``log Gamma(n) + (n - 1) log T + sum_k log_softmax(logits - T x)_k``, a density over the
    log-weights of all classes but one.

    Args:
        log_sample: of the shape of ``logits``, from ``gumbel_log_softmax``.
        logits: ``[..., K, ...]`` floating, unnormalised log-probabilities.
        temperature: T, positive; a scalar, or of the shape of ``logits`` with size 1 on ``axis``.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class.

    Returns:
        float32 (float64 for float64 logits), in nats, the shape of ``logits`` without ``axis``.
        Excluded classes do not count, nor do those whose log-weight or logit is infinitely below
        the largest; a row with at most one class left gives 0.

    Raises:
        TypeError: an argument is not floating, ``where`` is not boolean.
        ValueError: shapes differ or do not broadcast; a concrete ``temperature`` is not positive.

    References:
        Maddison, Mnih, Teh (2017), equation 23, https://arxiv.org/abs/1611.00712.

    Example:
        >>> log_sample = gumbel_log_softmax(jax.random.key(0), jnp.zeros(3), 0.01)
        >>> bool(jnp.isfinite(relaxed_categorical_log_prob(log_sample, jnp.zeros(3), 0.01)))
        True
    """
    array, axis, mask = _arguments.categories(logits, axis, where)
    temperature = _arguments.category_temperature(temperature, array, axis)
    log_sample = _same_shape("log_sample", log_sample, array)
    return _relaxed_categorical_log_prob(log_sample, array, temperature, mask, axis)


def relaxed_bernoulli_log_prob(
    log_odds: ArrayLike, logits: ArrayLike, temperature: ArrayLike
) -> jax.Array:
    """Log-density of the log-odds ``z`` of a binary Concrete sample.

    ``log T + a - 2 softplus(a)`` with ``a = logits - T z``, of each element by itself.

    Args:
        log_odds: of the shape of ``logits``, from ``gumbel_log_odds``.
        logits: any shape, floating: log-odds of 1.
        temperature: T, positive; broadcasts to ``logits``.

    Returns:
        float32 (float64 for float64 logits), in nats, of the shape of ``logits``; 0 with gradient 0
        where a log-odds is infinite: the choice is certain.

    Raises:
        TypeError: an argument is not floating.
        ValueError: shapes differ or do not broadcast; a concrete ``temperature`` is not positive.

    References:
        Maddison, Mnih, Teh (2017), equation 24, https://arxiv.org/abs/1611.00712.

    Example:
        >>> relaxed_bernoulli_log_prob(jnp.zeros(2), jnp.zeros(2), 1.0).tolist()  # log 1/4
        [-1.3862943649291992, -1.3862943649291992]
    """
    array = _arguments.floating_array("logits", logits)
    temperature = _elementwise_temperature(temperature, array)
    log_odds = _same_shape("log_odds", log_odds, array)
    return _relaxed_bernoulli_log_prob(log_odds, array, temperature)


def relaxed_categorical_kl(
    log_sample: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike,
    prior_logits: ArrayLike | None = None,
    prior_temperature: ArrayLike | None = None,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """KL divergence of a relaxed posterior from a relaxed prior, estimated from one sample.

    ``log q(x) - log p(x)`` at ``x`` drawn from ``q``: its mean is the divergence, in nats. The
    divergence of the discrete laws, ``categorical_kl``, is no bound of the relaxed model.

    Args:
        log_sample: of the shape of ``logits``, from ``gumbel_log_softmax`` with ``logits`` and
            ``temperature``; the gradient flows through it.
        logits: ``[..., K, ...]`` floating, of the posterior.
        temperature: of the posterior, as in ``gumbel_log_softmax``.
        prior_logits: of the prior; broadcasts to ``logits``. Uniform by default.
        prior_temperature: that of the posterior by default.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class from both.

    Returns:
        float32 (float64 for float64 logits), the shape of ``logits`` without ``axis``. A class that
        the posterior excludes is left out of the prior too: the relaxed prior gives no mass to a
        face of the simplex, and the divergence would always be infinite.

    Raises:
        TypeError: as ``relaxed_categorical_log_prob``.
        ValueError: as ``relaxed_categorical_log_prob``.

    Example:
        >>> logits = jnp.array([0.5, -0.5])
        >>> log_sample = gumbel_log_softmax(jax.random.key(0), logits, 0.5)
        >>> relaxed_categorical_kl(log_sample, logits, 0.5, prior_logits=logits).item()
        0.0
    """
    array, axis, mask = _arguments.categories(logits, axis, where)
    if prior_temperature is None:
        prior_temperature = temperature
    prior = _arguments.prior_like(prior_logits, array)
    prior = prior.astype(_arguments.computing_dtype(array.dtype))
    log_sample = _same_shape("log_sample", log_sample, array)
    mask = ~_is_left_out(log_sample, computing_logits(array, mask), axis)
    options = {"axis": axis, "where": mask}
    posterior = relaxed_categorical_log_prob(log_sample, array, temperature, **options)
    return posterior - relaxed_categorical_log_prob(log_sample, prior, prior_temperature, **options)


def _same_shape(name: str, value: ArrayLike, logits: jax.Array) -> jax.Array:
    array = _arguments.floating_array(name, value)
    if array.shape != logits.shape:
        raise ValueError(f"{name} must have the shape of logits, {logits.shape}, got {array.shape}")
    return array.astype(_arguments.computing_dtype(logits.dtype))


def _elementwise_temperature(temperature: ArrayLike, logits: jax.Array) -> jax.Array:
    computing = _arguments.computing_dtype(logits.dtype)
    return _arguments.positive_temperature(temperature, logits.shape, None, computing)


@functools.partial(jax.jit, static_argnums=4, inline=True)
def _gumbel_log_softmax(key, logits, temperature, where, axis):
    logits = computing_logits(logits, where)
    noise = class_noise_like(key, logits, axis)
    scores = perturbed(lax.stop_gradient(logits), noise, axis)
    below_largest = scores - jnp.max(scores, axis, keepdims=True)
    temperature = positive_or_nan(temperature)
    is_excluded = (scores == -jnp.inf) | (below_largest / temperature == -jnp.inf)
    below_largest = with_derivative_of(jnp.where(is_excluded, 0, below_largest), logits)
    tempered = _divided(below_largest, temperature)
    log_sample = log_probabilities(jnp.where(is_excluded, -jnp.inf, tempered), axis)
    return jnp.where(is_excluded, -jnp.inf, log_sample)


@functools.partial(jax.jit, inline=True)
def _gumbel_log_odds(key, logits, temperature):
    logits = computing_logits(logits, None)
    score = logits + logistic_noise_like(key, logits)
    temperature = positive_or_nan(temperature)
    is_certain = jnp.isinf(score / temperature)
    finite = _divided(jnp.where(is_certain, 0, score), temperature)
    return jnp.where(is_certain, jnp.copysign(jnp.inf, score), finite)


def _divided(score, temperature):
    """Twice by the root: the derivative of one division has a square that overflows when cold."""
    root = jnp.sqrt(temperature)
    return score / root / root


@functools.partial(jax.jit, static_argnums=4, inline=True)
def _relaxed_categorical_log_prob(log_sample, logits, temperature, where, axis):
    logits = computing_logits(logits, where)
    temperature = positive_or_nan(temperature)
    is_excluded = _is_left_out(log_sample, logits, axis)
    below_largest = perturbed(lax.stop_gradient(logits), None, axis)
    below_largest = with_derivative_of(jnp.where(is_excluded, 0, below_largest), logits)
    tempered = below_largest - temperature * jnp.where(is_excluded, 0, log_sample)
    log_p = log_probabilities(jnp.where(is_excluded, -jnp.inf, tempered), axis)
    count = jnp.sum(~is_excluded, axis, keepdims=True).astype(logits.dtype)
    others = jnp.maximum(count - 1, 0)
    constant = lax.lgamma(others + 1) + others * jnp.log(temperature)
    log_prob = constant + jnp.sum(jnp.where(is_excluded, 0, log_p), axis, keepdims=True)
    # lgamma(1) is 5e-7 in float32; a NaN is never hidden.
    is_certain = (count <= 1) & ~jnp.isnan(log_prob)
    return jnp.squeeze(jnp.where(is_certain, 0, log_prob), axis)


def _is_left_out(log_sample, logits, axis):
    """Excluded classes, and those infinitely below the largest: beside a logit of +inf, say."""
    is_below = perturbed(lax.stop_gradient(logits), None, axis) == -jnp.inf
    return is_below | (log_sample == -jnp.inf)


@functools.partial(jax.jit, inline=True)
def _relaxed_bernoulli_log_prob(log_odds, logits, temperature):
    temperature = positive_or_nan(temperature)
    logits = computing_logits(logits, None)
    is_certain = jnp.isinf(logits) | jnp.isinf(log_odds)
    a = jnp.where(is_certain, 0, logits) - temperature * jnp.where(is_certain, 0, log_odds)
    log_prob = jnp.log(temperature) + a - 2 * jax.nn.softplus(a)
    return jnp.where(is_certain, 0, log_prob)
