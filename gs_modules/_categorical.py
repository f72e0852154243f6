"""Categorical samples: relaxed, one-hot, and as an index."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments, _gpu, _scalars
from gs_modules._draw import Given, draw, hard_sample, has_blocks
from gs_modules._noise import class_noise_like
from gs_modules._relaxed import (
    computing_logits,
    masked,
    one_hot,
    perturbed,
    relaxed,
    with_derivative_of,
)
from gs_modules._rows import first_argmax, row_index


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
    (straight-through Gumbel-Softmax). Over more than 1,000 classes a hard sample is drawn by blocks
    of classes: the same law, but not the argmax of the soft sample with the same key, and the
    derivative is that of a relaxed sample drawn given the index.

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
        TypeError: ``key`` is no single key, ``logits`` or ``dtype`` are not floating, ``where`` is
            not boolean, ``hard`` is traced, ``temperature`` is not a real number.
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
    key = _arguments.check_key(key)
    hard = _scalars.static_bool("hard", hard)
    logits, axis, where = _arguments.categories(logits, axis, where, key, temperature)
    temperature = _arguments.category_temperature(temperature, logits, axis)
    dtype = _arguments.result_dtype(dtype, logits.dtype)
    return sample_of_checked(key, logits, temperature, where, hard, axis, dtype)


def gumbel_max(
    key: jax.Array, logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
    """The index of an exact categorical draw, ``argmax(logits + G)``: the Gumbel-max trick.

    With one key, the index of ``gumbel_softmax(key, logits, hard=True)``. Over more than 1,000
    classes it is drawn in two steps, a block of classes and a class of it: the same law.

    Args:
        key: a typed or an old-style key; used once.
        logits: ``[..., K, ...]`` floating, unnormalised log-probabilities.
        axis: the axis of the K classes.
        where: boolean mask that broadcasts to ``logits``; False excludes a class.

    Returns:
        int32, the shape of ``logits`` without ``axis``; -1 for a row with no class left or with a
        NaN logit.

    Raises:
        TypeError: ``key`` is no single key, ``logits`` are not floating, ``where`` is not boolean.
        ValueError: there is no class, ``axis`` is out of range or ``where`` does not broadcast.

    Example:
        >>> gumbel_max(jax.random.key(0), jnp.array([0.0, -jnp.inf, -jnp.inf])).item()
        0
    """
    key = _arguments.check_key(key)
    return _gumbel_max(key, *_arguments.categories(logits, axis, where, key))


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
    logits, axis, where = _arguments.categories(logits, axis, where)
    temperature = _arguments.category_temperature(temperature, logits, axis)
    return argmax_of_checked(logits, temperature, where, axis).astype(logits.dtype)


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
    array = _arguments.floating_array("weights", weights)
    if not isinstance(weights, Tracer) and np.any(np.asarray(weights) < 0):
        raise ValueError(f"weights must be non-negative, the smallest is {np.min(weights)}")
    is_zero = array == 0
    return jnp.where(is_zero, -jnp.inf, jnp.log(jnp.where(is_zero, 1, array)))


@functools.partial(jax.jit, static_argnums=(4, 5, 6), inline=True)
def sample_of_checked(key, logits, temperature, where, hard, axis, dtype):
    if _is_fused(key, logits, axis, hard):
        return _gpu.sample(key, masked(logits, where), temperature, hard, dtype)
    if hard:
        return hard_sample(key, masked(logits, where), temperature, temperature, axis, dtype)
    logits = computing_logits(logits, where)
    return relaxed(logits, class_noise_like(key, logits, axis), temperature, axis).astype(dtype)


def drawn_index(
    key: jax.Array, logits: jax.Array, where: jax.Array | None, axis: int
) -> tuple[jax.Array, jax.Array, Given | None]:
    """The logits as they are drawn from, and what ``draw`` gives; None of a fused kernel."""
    if _is_fused(key, logits, axis, True):
        logits = masked(logits, where)
        return logits, _gpu.draw(key, logits), None
    logits = computing_logits(logits, where)
    return logits, *draw(key, logits, axis)


def _is_fused(key, logits, axis, hard):
    """Whether a kernel draws, should it be on a GPU; blocks are drawn by XLA."""
    is_by_blocks = hard and has_blocks(key, logits, axis)
    return not is_by_blocks and _gpu.draws_each_class(key, logits, axis)


@functools.partial(jax.jit, static_argnums=2, inline=True)
def _gumbel_max(key, logits, axis, where):
    _, index, _ = drawn_index(key, logits, where, axis)
    return row_index(index, axis)


@functools.partial(jax.jit, static_argnums=3, inline=True)
def argmax_of_checked(logits, temperature, where, axis):
    logits = computing_logits(logits, where)
    index = first_argmax(perturbed(lax.stop_gradient(logits), None, axis), axis)
    soft = relaxed(logits, None, temperature, axis)
    return with_derivative_of(one_hot(index, logits, temperature, axis), soft)
