"""Binary samples: one logistic draw on the difference of two logits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments, _scalars
from gs_modules._noise import logistic_noise_like
from gs_modules._relaxed import (
    computing_logits,
    none_if_zero,
    positive_or_nan,
    with_derivative_of,
)


def gumbel_sigmoid(
    key: jax.Array,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    hard: bool = False,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """A sample of the binary Concrete distribution, for each element by itself.

    ``sigmoid((logits + L) / temperature)`` with ``L`` standard logistic noise, the difference of
    two Gumbel noises: the first weight of ``gumbel_softmax`` over ``(logits, 0)``. With
    ``hard=True`` it is rounded to 0 or 1, 1 with probability ``sigmoid(logits)`` whatever the
    temperature, with the derivative of the relaxed sample at the same noise.

    Args:
        key: a typed or an old-style key; used once.
        logits: any shape, floating: log-odds of 1. Half-precision logits are sampled in float32.
        temperature: positive; broadcasts to ``logits``. May be traced, and is differentiable.
        hard: return 0 or 1, bitwise, in every dtype, compiled or not.
        where: boolean mask that broadcasts to ``logits``; False gives 0 with gradient 0.
        dtype: of the result; that of ``logits`` by default.

    Returns:
        The sample, of the shape of ``logits``; NaN where a logit is, unless it is masked, and
        where a traced temperature is not positive.

    Raises:
        TypeError: ``key`` is no single key, ``logits`` or ``dtype`` are not floating, ``where`` is
            not boolean, ``hard`` is traced, ``temperature`` is not a real number.
        ValueError: a concrete ``temperature`` is not positive and finite; ``where`` or
            ``temperature`` do not broadcast.

    References:
        Maddison, Mnih, Teh (2017), appendix B, https://arxiv.org/abs/1611.00712.

    Example:
        >>> gumbel_sigmoid(jax.random.key(0), jnp.array([jnp.inf, -jnp.inf]), hard=True).tolist()
        [1.0, 0.0]
    """
    key = _arguments.check_key(key)
    hard = _scalars.static_bool("hard", hard)
    logits = _arguments.floating_array("logits", logits)
    where = _arguments.boolean_mask(where, logits.shape)
    computing = _arguments.computing_dtype(logits.dtype)
    temperature = _arguments.positive_temperature(temperature, logits.shape, None, computing)
    dtype = _arguments.result_dtype(dtype, logits.dtype)
    return _gumbel_sigmoid(key, logits, temperature, where, hard).astype(dtype)


@functools.partial(jax.jit, static_argnums=4, inline=True)
def _gumbel_sigmoid(key, logits, temperature, where, hard):
    logits = computing_logits(logits, where)
    noise = logistic_noise_like(key, logits)
    soft = _relaxed(logits, noise, temperature)
    return with_derivative_of(_rounded(logits, noise, temperature), soft) if hard else soft


def _rounded(logits, noise, temperature):
    score = lax.stop_gradient(logits) + noise
    temperature = positive_or_nan(lax.stop_gradient(temperature))
    is_nan = jnp.isnan(score) | (jnp.isnan(temperature) & (score > -jnp.inf))
    return jnp.where(is_nan, jnp.nan, (score > 0).astype(score.dtype))


@jax.custom_jvp
def _relaxed(logits, noise, temperature):
    score = logits + noise
    temperature = positive_or_nan(temperature)
    sample = jax.nn.sigmoid(score / temperature)
    # An infinite temperature is possible when it is traced; an infinite logit still decides.
    sample = jnp.where((score == jnp.inf) & (temperature > 0), 1, sample)
    return jnp.where(score == -jnp.inf, 0, sample)


@functools.partial(_relaxed.defjvp, symbolic_zeros=True)
def _relaxed_jvp(primals, tangents):
    """``y (1 - y) (dl - dt log(y / (1 - y))) / t``, from the relaxed sample alone.

    The division comes in halves, as in ``softmax_tangent``.
    """
    logits, noise, temperature = primals
    sample = _relaxed(logits, noise, temperature)

    # Computed again in the backward pass, which then keeps nothing but these arguments.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent(sample, temperature, logits_tangent, temperature_tangent):
        scale = 1 / jnp.sqrt(positive_or_nan(temperature))
        is_flat = (sample == 0) | (sample == 1)
        inside = jnp.where(is_flat, 0.5, sample)
        change = jnp.zeros_like(sample)
        if logits_tangent is not None:
            change += logits_tangent * scale
        if temperature_tangent is not None:
            change -= (temperature_tangent * scale) * (jnp.log(inside) - jnp.log1p(-inside))
        slope = inside * (1 - inside)
        return jnp.where(is_flat, 0, slope * jnp.where(is_flat, 0, change) * scale)

    of_logits, _, of_temperature = map(none_if_zero, tangents)
    return sample, tangent(sample, temperature, of_logits, of_temperature)
