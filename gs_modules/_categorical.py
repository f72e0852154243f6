"""Categorical samples: relaxed, one-hot, as an index, and as the row of a table."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments, _gpu
from gs_modules._draw import draw, hard_sample, has_blocks, relaxed_by_draw
from gs_modules._noise import class_noise_like, explicit_sharding
from gs_modules._relaxed import (
    computing_logits,
    first_argmax,
    is_nan_row,
    none_if_zero,
    one_hot,
    perturbed,
    relaxed,
    row_index,
    softmax_tangent,
    with_derivative_of,
)


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
    hard = _arguments.static_bool("hard", hard)
    logits, axis, where = _arguments.categories(logits, axis, where)
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
    return _gumbel_max(key, *_arguments.categories(logits, axis, where))


def gumbel_lookup(
    key: jax.Array,
    logits: ArrayLike,
    table: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    where: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The row of ``table`` that a categorical draw chooses, and the index of that row.

    ``gumbel_softmax(key, logits, temperature, hard=True) @ table`` and its derivatives, without
    the product and without the one-hot sample in the forward pass: a row is read.

    Args:
        key: a typed or an old-style key; used once.
        logits: ``[..., K]`` floating, unnormalised log-probabilities.
        table: ``[K, ...]`` floating: what each class stands for, an embedding for instance.
        temperature: positive, of the derivative only; a scalar, or ``[..., 1]``.
        where: boolean mask that broadcasts to ``logits``; False excludes a class.

    Returns:
        The rows, ``[..., *table.shape[1:]]`` in the dtype of ``table``, and the index, int32
        ``[...]``, that of ``gumbel_max`` with the same key. Without a class left the row is zero
        and the index -1; with a NaN logit, or a traced temperature that is not positive, the row
        is NaN and the index -1.

    Raises:
        TypeError: as ``gumbel_softmax``; ``table`` is not floating.
        ValueError: as ``gumbel_softmax``; ``table`` has not K rows.

    Example:
        >>> table = jnp.arange(6.0).reshape(3, 2)
        >>> rows, index = gumbel_lookup(jax.random.key(0), jnp.array([0.0, -jnp.inf, 0.0]), table)
        >>> bool((rows == table[index]).all())
        True
    """
    key = _arguments.check_key(key)
    logits, axis, where = _arguments.categories(logits, -1, where)
    temperature = _arguments.category_temperature(temperature, logits, axis)
    table = _arguments.floating_array("table", table)
    if table.shape[:1] != logits.shape[-1:]:
        raise ValueError(
            f"table of shape {table.shape} must have a row for each of the {logits.shape[-1]} "
            f"classes of logits of shape {logits.shape}"
        )
    return _gumbel_lookup(key, logits, table, temperature, where)


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
    if _has_kernel(key, logits, axis, hard):
        return _gpu.sample(key, _gpu.masked(logits, where), temperature, hard, dtype)
    logits = computing_logits(logits, where)
    if hard:
        return hard_sample(key, logits, temperature, temperature, axis).astype(dtype)
    return relaxed(logits, class_noise_like(key, logits, axis), temperature, axis).astype(dtype)


def _has_kernel(key, logits, axis, hard):
    return _gpu.has_kernel(key, logits, axis) and not (hard and has_blocks(key, logits, axis))


@functools.partial(jax.jit, static_argnums=2, inline=True)
def _gumbel_max(key, logits, axis, where):
    if _has_kernel(key, logits, axis, True):
        return row_index(_gpu.draw(key, _gpu.masked(logits, where)), axis)
    return row_index(draw(key, computing_logits(logits, where), axis)[0], axis)


@functools.partial(jax.jit, static_argnums=3, inline=True)
def argmax_of_checked(logits, temperature, where, axis):
    logits = computing_logits(logits, where)
    index = first_argmax(perturbed(lax.stop_gradient(logits), None, axis), axis)
    soft = relaxed(logits, None, temperature, axis)
    return with_derivative_of(one_hot(index, logits, temperature, axis), soft)


@functools.partial(jax.jit, inline=True)
def _gumbel_lookup(key, logits, table, temperature, where):
    axis = logits.ndim - 1
    if _has_kernel(key, logits, axis, True):
        logits = _gpu.masked(logits, where)
        index, given = _gpu.draw(key, logits), None
    else:
        logits = computing_logits(logits, where)
        index, given = draw(key, logits, axis)
    return _lookup(key, logits, table, temperature, index, given)


@jax.custom_jvp
def _lookup(key, logits, table, temperature, index, given):
    del key, logits, given
    return _chosen(table, index, temperature)


@functools.partial(_lookup.defjvp, symbolic_zeros=True)
def _lookup_jvp(primals, tangents):
    """That of ``one_hot @ table``, with the relaxed sample for the one-hot one."""
    key, logits, table, temperature, index, given = primals
    _, logits_tangent, table_tangent, temperature_tangent, *_ = map(none_if_zero, tangents)
    axis = logits.ndim - 1
    if given is None:
        soft = _gpu.sample(key, logits, temperature, False, jnp.float32)
    else:
        soft = relaxed_by_draw(key, logits, temperature, index, given, axis)
    rows, chosen = _chosen(table, index, temperature)
    tangent = jnp.zeros_like(rows)
    if table_tangent is not None:
        tangent += _rows(table_tangent, chosen)
    if logits_tangent is not None or temperature_tangent is not None:
        of_soft = softmax_tangent(soft, temperature, logits_tangent, temperature_tangent, axis)
        wide = max(soft.dtype, table.dtype, key=lambda dtype: dtype.itemsize)
        product = jnp.tensordot(of_soft.astype(wide), table.astype(wide), axes=1)
        is_nan = _like_rows(is_nan_row(index, temperature)[..., 0], table)
        tangent += jnp.where(is_nan, 0, product).astype(table.dtype)
    return (rows, chosen), (tangent, jnp.zeros_like(chosen, jax.dtypes.float0))


def _chosen(table, index, temperature):
    """The rows and the index that ``gumbel_lookup`` gives for an index of ``first_argmax``."""
    is_nan = is_nan_row(index, temperature)
    index = jnp.where(is_nan, -1, index)[..., 0]
    return jnp.where(_like_rows(is_nan[..., 0], table), jnp.nan, _rows(table, index)), index


def _rows(table, index):
    """``table[index]``, zero for -1."""
    rows = table.at[jnp.maximum(index, 0)].get(out_sharding=_of_rows(index, table.ndim - 1))
    return jnp.where(_like_rows(index >= 0, table), rows, 0)


def _like_rows(mask, table):
    return mask.reshape(*mask.shape, *(1 for _ in table.shape[1:]))


def _of_rows(index: jax.Array, trailing: int) -> NamedSharding | None:
    """On a mesh of explicit axes a gather must be told how its result is sharded: as the index."""
    sharding = explicit_sharding(index)
    if sharding is None:
        return None
    return sharding.update(spec=PartitionSpec(*sharding.spec, *[None] * trailing))
