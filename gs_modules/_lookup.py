"""A categorical draw as the row of a table, without the one-hot sample and the product."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gs_modules import _arguments, _gpu
from gs_modules._categorical import drawn_index
from gs_modules._draw import relaxed_by_draw
from gs_modules._relaxed import is_nan_row, none_if_zero, softmax_tangent
from gs_modules._sharding import sharding_with


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
    the product and without the one-hot sample in the forward pass: a row is read. One second
    derivative is missing, that of a reverse-mode gradient of ``table`` with respect to the logits
    or the temperature: it would cost the product. Differentiate the product where it is needed.

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
    logits, axis, where = _arguments.categories(logits, -1, where, key, temperature)
    temperature = _arguments.category_temperature(temperature, logits, axis)
    table = _arguments.floating_array("table", table)
    if table.shape[:1] != logits.shape[-1:]:
        raise ValueError(
            f"table of shape {table.shape} must have a row for each of the {logits.shape[-1]} "
            f"classes of logits of shape {logits.shape}"
        )
    return _gumbel_lookup(key, logits, table, temperature, where)


@functools.partial(jax.jit, inline=True)
def _gumbel_lookup(key, logits, table, temperature, where):
    axis = logits.ndim - 1
    logits, index, given = drawn_index(key, logits, where, axis)
    is_nan = is_nan_row(index, temperature)
    chosen = jnp.where(is_nan, -1, index)[..., 0]
    rows = _chosen_rows(table, chosen, key, logits, temperature, index, given)
    return jnp.where(_like_rows(is_nan[..., 0], table), jnp.nan, rows), chosen


@jax.custom_jvp
def _chosen_rows(table, chosen, key, logits, temperature, index, given):
    """``table[chosen]``, zero for -1; the others are what its derivative is drawn by."""
    del key, logits, temperature, index, given
    index = jnp.atleast_1d(chosen)  # of a single row, vmap on an explicit mesh would not find rows
    sharding = sharding_with(index, lambda spec: (*spec, *[None] * (table.ndim - 1)))
    rows = table.at[jnp.maximum(index, 0)].get(out_sharding=sharding)
    rows = rows.reshape(*chosen.shape, *table.shape[1:])
    return jnp.where(_like_rows(chosen >= 0, table), rows, 0)


@functools.partial(_chosen_rows.defjvp, symbolic_zeros=True)
def _chosen_rows_jvp(primals, tangents):
    """The derivative of ``one_hot @ table``, with the relaxed sample for the one-hot one."""
    table, _, key, logits, temperature, index, given = primals
    table_tangent, _, _, logits_tangent, temperature_tangent, *_ = map(none_if_zero, tangents)
    rows, axis = _chosen_rows(*primals), logits.ndim - 1
    tangent = jnp.zeros_like(rows)
    if table_tangent is not None:
        # In forward mode it has a derivative itself; reverse mode transposes a gather of rows.
        tangent += _chosen_rows(table_tangent, *primals[1:])
    if logits_tangent is not None or temperature_tangent is not None:
        if given is None:
            soft = _gpu.sample(key, logits, temperature, False, jnp.float32)
        else:
            soft = relaxed_by_draw(key, logits, temperature, index, given, axis)
        of_soft = softmax_tangent(soft, temperature, logits_tangent, temperature_tangent, axis)
        wide = max(soft.dtype, table.dtype, key=lambda dtype: dtype.itemsize)
        product = jnp.tensordot(of_soft.astype(wide), table.astype(wide), axes=1)
        tangent += product.astype(table.dtype)
    return rows, tangent


def _like_rows(mask, table):
    return mask.reshape(*mask.shape, *(1 for _ in table.shape[1:]))
