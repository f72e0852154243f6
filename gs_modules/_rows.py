"""Reductions of the rows of an array: maximum, sum, and the index of the first maximum."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gs_modules._loops import is_few
from gs_modules._sharding import has_one_device, is_divided, positions

SHORT = 16
"""Classes that fill one vector of numbers."""

EXACT_FLOATS = 2**24
"""Up to here every integer is a float32."""


def row_max(array: jax.Array, axis: int) -> jax.Array:
    """The maximum of each row, with ``axis`` kept; for two classes beside each of the two.

    XLA on CPU takes many times as long to reduce rows of two as to combine them with themselves,
    the other way round. A NaN may be lost.
    """
    if is_pair(array, axis):
        return lax.max(array, lax.rev(array, (axis,)))
    return jnp.expand_dims(lax.reduce_max(array, (axis,)), axis)


def row_sum(array: jax.Array, axis: int) -> jax.Array:
    """The sum of each row, as ``row_max`` gives the maximum."""
    if is_pair(array, axis):
        return lax.add(array, lax.rev(array, (axis,)))
    return jnp.expand_dims(lax.reduce_sum(array, (axis,)), axis)


def is_infinite(array: jax.Array, sign: int) -> jax.Array:
    """Where ``array`` is ``inf``, or ``-inf``."""
    return lax.eq(array, array.dtype.type(sign * jnp.inf))


def is_pair(array: jax.Array, axis: int) -> bool:
    return array.shape[axis] == 2 and not is_divided(array, axis)


def first_argmax(scores: jax.Array, axis: int) -> jax.Array:
    """The index of the first maximum of each row, with ``axis`` kept.

    It is -1 in a row of -inf and -2 in a row with NaN; of two classes, it stands at each.
    """
    if not is_pair(scores, axis):
        scores = lax.stop_gradient(scores)
        by_cpu, otherwise = (
            functools.partial(function, axis=axis)
            for function in (argmax_by_two_reductions, argmax_by_one_reduction)
        )
        return lax.platform_dependent(scores, cpu=by_cpu, default=otherwise)
    other, position = lax.rev(scores, (axis,)), positions(scores, axis)
    is_second = lax.select(
        lax.eq(position, np.int32(0)), lax.gt(other, scores), lax.gt(scores, other)
    )
    index = jnp.where(row_max(scores, axis) == -jnp.inf, -1, is_second.astype(jnp.int32))
    return jnp.where(lax.ne(scores, scores) | lax.ne(other, other), -2, index)


def argmax_by_two_reductions(scores: jax.Array, axis: int) -> jax.Array:
    """``first_argmax`` as XLA on CPU computes it by vectors, which it does not one reduction."""
    largest = row_max(scores, axis)
    unattained = lax.full_like(largest, jnp.inf)
    largest = lax.select(is_infinite(largest, -1), unattained, largest)
    classes = scores.shape[axis]
    position = positions(scores, axis)
    # XLA on CPU has a library for the minimum of floats. Many rows of few classes it makes slower.
    if is_few(scores.shape) or (isinstance(classes, int) and 4 * SHORT <= classes < EXACT_FLOATS):
        position = position.astype(jnp.float32)
    attained = lax.select(scores == largest, position, lax.full_like(position, classes))
    # A maximum of floats may lose a NaN: on CPU over some hundreds, anywhere in an all-reduce.
    attained = lax.select(lax.ne(scores, scores), lax.full_like(attained, -2), attained)
    first = jnp.expand_dims(lax.reduce_min(attained, (axis,)), axis).astype(jnp.int32)
    return lax.select(lax.eq(first, lax.full_like(first, classes)), lax.full_like(first, -1), first)


def argmax_by_one_reduction(scores: jax.Array, axis: int) -> jax.Array:
    """``first_argmax`` in one pass; devices that divide ``axis`` exchange a pair each."""

    def better(one, other):
        (score, index), (other_score, other_index) = one, other
        is_first = lax.eq(score, other_score) & lax.lt(index, other_index)
        is_better = lax.gt(score, other_score) | lax.ne(score, score) | is_first
        pairs = (score, other_score), (index, other_index)
        return tuple(lax.select(is_better, *pair) for pair in pairs)

    none = jnp.asarray(-jnp.inf, scores.dtype), jnp.int32(-1)
    largest, index = lax.reduce((scores, positions(scores, axis)), none, better, (axis,))
    # A single class XLA does not reduce.
    # Under vmap on an explicit mesh, a select would find the index sharded in another way.
    index = jnp.where(is_infinite(largest, -1), -1, index)
    index = jnp.where(lax.ne(largest, largest), -2, index)
    return jnp.expand_dims(index, axis)


def row_index(index: jax.Array, axis: int) -> jax.Array:
    """The index of ``first_argmax``, without ``axis``; -1 in a row with NaN too."""
    return jnp.squeeze(lax.slice_in_dim(jnp.maximum(index, -1), 0, 1, axis=axis), axis)


def is_at(index: jax.Array, logits: jax.Array, axis: int) -> jax.Array:
    """Where the index stands, boolean; nowhere in a row without a class or with NaN."""
    stands = positions(logits, axis) == index
    if has_one_device():
        return stands
    # Of positions alone, every device of a mesh would hold the whole. Compared with themselves, the
    # logits change nothing (a row with NaN has no index) and the result is sharded as they are.
    return lax.bitwise_and(stands, lax.eq(logits, logits))
