"""Noise, relaxation, one-hot and derivative in one pass over rows: kernels for a GPU.

XLA writes the noise, or computes it again for each reduction of a row; here a row stays in
registers, so that the logits are read and the sample is written, and that is all. A long row does
not fit there. For an index it is still read once, each of its steps as if it were a row; for a
relaxed sample it is read for its maximum, for its total and for the sample, and its noise drawn
twice.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import triton as plgpu
from jax.typing import DTypeLike

from gs_modules import _philox, _threefry
from gs_modules._scores import PHILOX_WORDS, Scores, perturbed_rows
from gs_modules._tiles import Layout, Rows, call, reduced

LOG2_E = np.float32(np.log2(np.e))
TINY = np.finfo(np.float32).tiny
LOWEST = np.finfo(np.float32).min


def relaxed(
    key: jax.Array,
    logits: jax.Array,
    temperature: jax.Array,
    dtype: DTypeLike,
    *,
    interpret: bool = False,
) -> jax.Array:
    """``softmax((logits + G) / temperature)`` over the last axis, in ``dtype``.

    ``key`` is the data of a key: four words for Philox, two for threefry, by which rows of one step
    alone are drawn, and not a single one. ``temperature`` is positive or NaN, of size 1 or
    ``[..., 1]``.
    """
    layout = _layout(key, logits, interpret)
    return call(_relaxed, layout, temperature, key, logits, shape=logits.shape, dtype=dtype)


def one_hot(
    key: jax.Array,
    logits: jax.Array,
    temperature: jax.Array,
    dtype: DTypeLike,
    *,
    interpret: bool = False,
) -> jax.Array:
    """The one-hot argmax of ``logits + G``, of the noise of ``relaxed``; see there."""
    layout = _layout(key, logits, interpret, is_of_index=True)
    return call(_one_hot, layout, temperature, key, logits, shape=logits.shape, dtype=dtype)


def first_argmax(key: jax.Array, logits: jax.Array, *, interpret: bool = False) -> jax.Array:
    """The index of ``one_hot``, int32; -1 for a row without a class, -2 for one with NaN."""
    layout, shape = _layout(key, logits, interpret, is_of_index=True), logits.shape[:-1]
    one = jnp.ones((), jnp.float32)
    return call(_first_argmax, layout, one, key, logits, shape=shape, dtype=jnp.int32)


def is_one_step(shape: tuple[int, ...]) -> bool:
    """Whether registers hold a row of this shape."""
    return Layout.of(shape, interpret=False).steps == 1


def _layout(
    key: jax.Array, logits: jax.Array, interpret: bool, *, is_of_index: bool = False
) -> Layout:
    half = None
    if key.size != PHILOX_WORDS:
        half = _threefry.first_half(logits.shape) // logits.shape[-1]
    return Layout.of(logits.shape, interpret, half=half, is_of_index=is_of_index)


def jacobian_product(
    relaxed: jax.Array,
    scale: jax.Array,
    vector: jax.Array,
    dtype: DTypeLike,
    *,
    interpret: bool = False,
) -> jax.Array:
    """As ``_jacobian.product``, of rows of one step."""
    layout, shape = Layout.of(relaxed.shape, interpret), relaxed.shape
    return call(_jacobian_product, layout, scale, relaxed, vector, shape=shape, dtype=dtype)


def _relaxed(layout, temperature_ref, key_ref, logits_ref, out_ref):
    for rows in perturbed_rows(layout, key_ref, logits_ref):
        _write_relaxed(rows, rows.of_each(temperature_ref), out_ref)


def _write_relaxed(rows: Scores, temperature: jax.Array, out_ref) -> None:
    steps = rows.layout.steps
    exp2 = functools.partial(_philox.exp2, interpret=rows.layout.interpret)
    only_scores = None
    if steps == 1:
        only_scores, largest = rows.scores(0)
    else:
        largest = rows.largest()
    is_empty = largest == -jnp.inf
    scale = LOG2_E / temperature
    # A temperature of 1e38 would make it 0, and 0 * -inf is NaN; a maximum would lose a NaN.
    scale = jnp.where(is_empty | (scale < TINY), TINY, scale)

    def inverse_of(total):
        # A maximum loses a NaN on a GPU: beside excluded classes alone, it makes a row look empty.
        return jnp.where(is_empty & ~jnp.isnan(total), 0, 1 / total)

    if only_scores is not None:
        top = reduced(jnp.max, functools.reduce(jnp.maximum, only_scores))
        weights = [exp2((x - top) * scale) for x in only_scores]
        total = reduced(jnp.sum, functools.reduce(jnp.add, weights))
        inverse = inverse_of(total)
        rows.store(out_ref, 0, [weight * inverse for weight in weights])
        return

    def add(step, running):
        """Softmax's maximum and total in one pass, each position of a piece on its own."""
        top, total = running
        scores, _ = rows.scores(step, largest)
        higher = functools.reduce(jnp.maximum, scores, top)
        finite = jnp.maximum(higher, LOWEST)
        total *= exp2((top - finite) * scale)
        weights = [exp2((x - finite) * scale) for x in scores]
        return higher, functools.reduce(jnp.add, weights, total)

    tops, totals = lax.fori_loop(0, steps, add, (rows.full(-jnp.inf), rows.full(0)))
    top = reduced(jnp.max, tops)
    total = reduced(jnp.sum, totals * exp2((tops - top) * scale))
    inverse = inverse_of(total)

    def write(step, carry):
        step = steps - 1 - step  # what was read last may still be in the cache
        scores, _ = rows.scores(step, largest)
        rows.store(out_ref, step, [exp2((x - top) * scale) * inverse for x in scores])
        return carry

    lax.fori_loop(0, steps, write, 0)


def _one_hot(layout, temperature_ref, key_ref, logits_ref, out_ref):
    for rows in perturbed_rows(layout, key_ref, logits_ref):
        _write_one_hot(rows, rows.of_each(temperature_ref), out_ref)


def _write_one_hot(rows: Scores, temperature: jax.Array, out_ref) -> None:
    index, is_nan = rows.first_argmax()
    is_nan |= jnp.isnan(temperature) & (index >= 0)
    one, zero = (jnp.where(is_nan, jnp.nan, jnp.float32(value)) for value in (1, 0))

    def write(step, carry):
        chosen = [rows.column == index - piece.column for piece in rows.pieces(step)]
        rows.store(out_ref, step, [jnp.where(x, one, zero) for x in chosen])
        return carry

    if rows.layout.steps == 1:
        write(0, 0)
    else:
        lax.fori_loop(0, rows.layout.steps, write, 0)


def _first_argmax(layout, temperature_ref, key_ref, logits_ref, out_ref):
    del temperature_ref
    for rows in perturbed_rows(layout, key_ref, logits_ref):
        column, is_nan = rows.first_argmax()
        index = jnp.where(column < 0, -1, column - (rows.first - rows.start))
        index = jnp.where(is_nan, -2, index)
        plgpu.store(out_ref.at[rows.row], index, mask=rows.is_row)


def _jacobian_product(layout, scale_ref, relaxed_ref, vector_ref, out_ref):
    rows = Rows(layout)
    scale = rows.of_each(scale_ref)
    relaxed = rows.load(relaxed_ref, 0, 0)
    change = [x * scale for x in rows.load(vector_ref, 0, 0)]

    def products(change):
        return [jnp.where(y == 0, 0, y * c) for y, c in zip(relaxed, change, strict=True)]

    total = reduced(jnp.sum, functools.reduce(jnp.add, products(change)))
    rows.store(out_ref, 0, [scale * x for x in products([c - total for c in change])])
