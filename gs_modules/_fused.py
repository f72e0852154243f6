"""Noise, relaxation, one-hot and derivative in one pass over rows: kernels for a GPU.

XLA writes the noise, or computes it again for each reduction of a row; here a row stays in
registers, so that the logits are read and the sample is written, and that is all. A long row does
not fit there. For an index it is still read once, each of its steps as if it were a row; for a
relaxed sample it is read for its maximum, for its total and for the sample, and its noise drawn
twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.typing import DTypeLike

from gs_modules import _philox, _threefry
from gs_modules._noise import gumbel_of_bits
from gs_modules._tiles import Layout, Rows, call, fourth, reduced

PHILOX_WORDS = 4
LN_2 = float(np.log(2))
LOG2_E = np.float32(np.log2(np.e))
TINY = np.finfo(np.float32).tiny
LOWEST = np.finfo(np.float32).min
NO_COLUMN = 2**31 - 1

Noise = Callable[[int | jax.Array], list[jax.Array]]
"""Of a step, that of each piece."""


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


class Scores(Rows):
    """Rows of logits with their scores, as ``_relaxed.perturbed`` has them, step by step."""

    def __init__(self, layout: Layout, logits_ref, *, is_second: bool = False):
        super().__init__(layout, is_second=is_second)
        self.logits_ref = logits_ref
        self.only_logits = self.logits(0) if layout.steps == 1 else None

    def logits(self, step: int | jax.Array) -> list[jax.Array]:
        return self.load(self.logits_ref, step, -jnp.inf)

    def perturb(self, noise: Noise, unit: float) -> None:
        """By ``noise``, in a ``unit``, of each step."""
        self.noise, self.unit = noise, unit

    def largest(self) -> jax.Array:
        """The largest logit of each row, of several steps."""

        def larger(step, largest):
            return functools.reduce(jnp.maximum, self.logits(step), largest)

        return reduced(jnp.max, lax.fori_loop(0, self.layout.steps, larger, self.full(-jnp.inf)))

    def scores(
        self, step: int | jax.Array, largest: jax.Array | None = None
    ) -> tuple[list[jax.Array], jax.Array]:
        """Those of a step, less ``largest``, by default its own largest logit, and that.

        Of -inf alone, they are those of equal logits. The noise is drawn while the logits are on
        their way: the maximum has to wait for them.
        """
        logits = self.logits(step) if self.only_logits is None else self.only_logits
        noise = self.noise(step)
        if largest is None:
            largest = reduced(jnp.max, functools.reduce(jnp.maximum, logits))
        is_any_infinite = jnp.max(jnp.isinf(largest).astype(jnp.int32)) > 0
        shifted = lax.cond(
            is_any_infinite,
            lambda: [below(x, largest) for x in logits],
            lambda: [x - largest for x in logits],
        )
        if self.unit == 1:
            return [x + noise for x, noise in zip(shifted, noise, strict=True)], largest
        add = functools.partial(_philox.multiply_add, interpret=self.layout.interpret)
        scores = [add(noise, self.unit, x) for x, noise in zip(shifted, noise, strict=True)]
        return scores, largest

    def first_argmax(self) -> tuple[jax.Array, jax.Array]:
        """Of each row, the column of the largest score, -1 without a class; where one is NaN."""
        if self.layout.steps == 1:
            (top, column), largest = self._best(0)
            return jnp.where(largest == -jnp.inf, -1, column), jnp.isnan(top)

        def best_of_each(step, best):
            largest, top, column = best
            (top_here, column_here), largest_here = self._best(step)
            is_here = of_step == step
            return (
                jnp.where(is_here, largest_here, largest),
                jnp.where(is_here, top_here, top),
                jnp.where(is_here, column_here, column),
            )

        of_step = self.of_steps()
        nowhere = jnp.full(of_step.shape, -jnp.inf, jnp.float32)
        start = nowhere, nowhere, jnp.zeros(of_step.shape, jnp.int32)
        largest, top, column = lax.fori_loop(0, self.layout.steps, best_of_each, start)
        highest = reduced(jnp.max, largest)
        top = top + below(largest, highest)
        attained = jnp.where(top == reduced(jnp.max, top), column, NO_COLUMN)
        column = jnp.where(highest == -jnp.inf, -1, reduced(jnp.min, attained))
        return column, jnp.isnan(reduced(jnp.sum, top))

    def _best(self, step: int | jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """The largest score of a step, or NaN, and its column; the largest logit."""
        layout = self.layout
        (first, *others), largest = self.scores(step)
        best, piece = first, jnp.zeros(layout.shape, jnp.int32)
        for number, scores in enumerate(others, 1):
            piece = jnp.where(scores > best, number, piece)
            best = _philox.maximum(best, scores, interpret=layout.interpret)
        column = (piece + step * layout.pieces) * layout.shape[1] + self.column
        top = reduced(jnp.max, best)
        column = reduced(jnp.min, jnp.where(best == top, column, NO_COLUMN))
        # A maximum of rows loses a NaN on a GPU, but a sum of scores, none of which is +inf, not.
        return (jnp.where(jnp.isnan(reduced(jnp.sum, best)), jnp.nan, top), column), largest

    def of_steps(self) -> jax.Array:
        """The number of each step of a row, and some more."""
        shape = 1, pl.next_power_of_2(self.layout.steps)
        return lax.broadcasted_iota(jnp.int32, shape, 1)


def below(x: jax.Array, largest: jax.Array) -> jax.Array:
    """``x - largest``, and 0 where both are the same infinity."""
    return jnp.where(x == largest, 0, x - largest)


def _perturbed(layout: Layout, key_ref, logits_ref) -> list[Scores]:
    """The rows of this program, of each half where there are two."""
    if key_ref.shape[0] == PHILOX_WORDS:
        rows = Scores(layout, logits_ref)
        # Less a constant, which neither argmax nor softmax notices.
        rows.perturb(_philox_noise(rows, key_ref), -LN_2)
        return [rows]
    halves = [Scores(layout, logits_ref, is_second=is_second) for is_second in (False, True)]
    for rows, noise in zip(halves, _threefry_noise(halves[0], key_ref), strict=True):
        rows.perturb(lambda _, noise=noise: noise, 1)
    return halves


def _philox_noise(rows: Rows, key_ref) -> Noise:
    """The logarithm to base 2 of exponential noise."""
    layout, (size, width) = rows.layout, rows.layout.shape
    first = (pl.program_id(0) * (size * layout.classes) // 4).astype(jnp.uint32)
    words = [key_ref[i] for i in range(PHILOX_WORDS)]
    # The key's first half is both Philox's key and the upper half of its counter.
    key, counter = tuple(words[:2]), _philox.add((*words[2:], *words[:2]), first)
    block = fourth(rows.start) + lax.broadcasted_iota(jnp.int32, (size, width // 4), 1)
    block = block.astype(jnp.uint32) - first
    blocks = (size * layout.classes + layout.steps * layout.columns) // 4 + 2
    never_carries = counter[0] < np.uint32(2**32 - blocks)

    def bits_of(counters):
        draw = functools.partial(_philox.random_bits, key=key, interpret=layout.interpret)
        return [draw(counter) for counter in counters]

    def noise(step):
        columns = [(step * layout.pieces + i) * (width // 4) for i in range(layout.pieces)]
        blocks = [block + jnp.asarray(column).astype(jnp.uint32) for column in columns]
        low, *others = counter
        bits = lax.cond(
            never_carries,
            lambda: bits_of([(low + block, *others) for block in blocks]),
            lambda: bits_of([_philox.add(counter, block) for block in blocks]),
        )
        return [_philox.log2_exponential(x, interpret=layout.interpret) for x in bits]

    return noise


def _threefry_noise(rows: Rows, key_ref) -> tuple[list[jax.Array], list[jax.Array]]:
    """Gumbel noise of ``rows``, of the first half, and of those as far into the second.

    Its operations are those of XLA on this platform, to the last bit: so are the indices, on
    however many devices. The logarithm of both is a function of CUDA's library.
    """
    key, pairs = (key_ref[0], key_ref[1]), []
    for piece in rows.pieces(0):
        words = _threefry.words(key, piece.index.astype(jnp.uint32))
        pairs.append([gumbel_of_bits(word, jnp.log) for word in words])
    first, second = zip(*pairs, strict=True)
    return list(first), list(second)


def _relaxed(layout, temperature_ref, key_ref, logits_ref, out_ref):
    for rows in _perturbed(layout, key_ref, logits_ref):
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
    for rows in _perturbed(layout, key_ref, logits_ref):
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
    for rows in _perturbed(layout, key_ref, logits_ref):
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
