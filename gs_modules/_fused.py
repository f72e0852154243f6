"""Noise, relaxation, one-hot and derivative in one pass over rows: kernels for a GPU.

XLA writes the noise, or computes it again for each reduction of a row; here a row stays in
registers, so that the logits are read and the sample is written, and that is all. A long row does
not fit there: it is read once for an index, and once more for a relaxed sample, whose noise is
then drawn twice; and again from the start where its first step misled (``Scores.accumulated``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import triton as plgpu
from jax.typing import DTypeLike

from gs_modules import _philox, _threefry
from gs_modules._scores import PHILOX_WORDS, Scores, largest_of, perturbed_rows
from gs_modules._tiles import Layout, Rows, call, reduced

LOG2_E = np.float32(np.log2(np.e))
LOWEST = np.finfo(np.float32).min
NO_COLUMN = 2**31 - 1


def samples(
    key: jax.Array,
    logits: jax.Array,
    temperature: jax.Array,
    kinds: Sequence[tuple[bool, DTypeLike]],
    *,
    interpret: bool = False,
) -> list[jax.Array]:
    """``softmax((logits + G) / temperature)`` over the last axis, or its one-hot argmax.

    One for each of ``kinds``, of noise that is drawn once: whether it is hard, and its dtype.
    ``key`` is the data of a key: four words for Philox, two for threefry, by which rows of one step
    alone are drawn, and not a single one. ``temperature`` is as ``_relaxed.positive_or_nan`` gives
    it, of size 1 or ``[..., 1]``.
    """

    def _samples(layout, temperature_ref, key_ref, logits_ref, *refs):
        for rows in perturbed_rows(layout, key_ref, logits_ref):
            temperature = rows.of_each(temperature_ref)
            drawn = [(OneHot if hard else Softmax)(rows, temperature) for hard, _ in kinds]
            _write(rows, list(zip(drawn, refs, strict=True)))

    results = [jax.ShapeDtypeStruct(logits.shape, dtype) for _, dtype in kinds]
    return _drawn(_samples, key, logits, temperature, results, interpret)


def first_argmax(key: jax.Array, logits: jax.Array, *, interpret: bool = False) -> jax.Array:
    """The index of a hard sample, int32; -1 for a row without a class, -2 for one with NaN."""
    result = jax.ShapeDtypeStruct(logits.shape[:-1], jnp.int32)
    one = jnp.ones((), jnp.float32)
    return _drawn(_first_argmax, key, logits, one, [result], interpret)[0]


def jacobian_product(
    relaxed: jax.Array,
    scale: jax.Array,
    vector: jax.Array,
    dtype: DTypeLike,
    *,
    interpret: bool = False,
) -> jax.Array:
    """As ``_jacobian.product``, of rows of one step."""
    layout = Layout.of(relaxed.shape, interpret)
    results = [jax.ShapeDtypeStruct(relaxed.shape, dtype)]
    return call(_jacobian_product, layout, scale, relaxed, vector, results=results)[0]


def is_one_step(shape: tuple[int, ...]) -> bool:
    """Whether registers hold a row of this shape."""
    return Layout.of(shape, interpret=False).steps == 1


def _drawn(kernel, key, logits, temperature, results, interpret) -> list[jax.Array]:
    half = None
    if key.size != PHILOX_WORDS:
        half = _threefry.first_half(logits.shape) // logits.shape[-1]
    layout = Layout.of(logits.shape, interpret, half=half)
    return call(kernel, layout, temperature, key, logits, results=results)


def _first_argmax(layout, temperature_ref, key_ref, logits_ref, out_ref):
    for rows in perturbed_rows(layout, key_ref, logits_ref):
        argmax = OneHot(rows, rows.of_each(temperature_ref))
        _read(rows, [argmax])
        index = jnp.where(argmax.column < 0, -1, argmax.column - (rows.first - rows.start))
        index = jnp.where(argmax.is_nan, -2, index)
        plgpu.store(out_ref.at[rows.row], index, mask=rows.is_row)


def _read(rows: Scores, samples: list[Softmax | OneHot]) -> None:
    """Shows every sample the scores of the rows, which are drawn once."""
    if rows.layout.steps == 1:
        scores, largest = rows.only_scores()
        for sample in samples:
            sample.read(scores, largest)
        return

    def visit(step, scores, states):
        return [s.add(step, scores, state) for s, state in zip(samples, states, strict=True)]

    states, reference = rows.accumulated(visit, [sample.start() for sample in samples])
    for sample, state in zip(samples, states, strict=True):
        sample.finish(state, reference)


def _write(rows: Scores, samples_and_refs: list[tuple[Softmax | OneHot, Any]]) -> None:
    _read(rows, [sample for sample, _ in samples_and_refs])
    steps = rows.layout.steps

    def write(step, carry):
        step = steps - 1 - step  # what was read last may still be in the cache
        for sample, ref in samples_and_refs:
            rows.store(ref, step, sample.values(step))
        return carry

    if steps == 1:
        write(0, 0)
    else:
        lax.fori_loop(0, steps, write, 0)


class Softmax:
    """``softmax(scores / temperature)``, of one step by ``read``, of several by the others."""

    def __init__(self, rows: Scores, temperature: jax.Array):
        self.rows, self.is_wrong = rows, jnp.isnan(temperature)
        self.scale = jnp.where(self.is_wrong, 1, LOG2_E / temperature)

    def read(self, scores: list[jax.Array], largest: jax.Array) -> None:
        self.only_weights = self._weights(scores, largest_of(scores))
        self._divide_by(functools.reduce(jnp.add, self.only_weights), largest)

    def start(self):
        return self.rows.full(-jnp.inf), self.rows.full(0)

    def add(self, step, scores, running):
        """Maximum and total in one pass, each position of a piece on its own."""
        del step
        top, total = running
        higher = functools.reduce(jnp.maximum, scores, top)
        finite = jnp.maximum(higher, LOWEST)
        (rest,) = self._weights([top], finite)
        return higher, functools.reduce(jnp.add, self._weights(scores, finite), total * rest)

    def finish(self, running, reference: jax.Array) -> None:
        tops, totals = running
        self.reference, self.top = reference, reduced(jnp.max, tops)
        (rest,) = self._weights([tops], self.top)
        self._divide_by(totals * rest, reference)

    def values(self, step: int | jax.Array) -> list[jax.Array]:
        if self.rows.layout.steps == 1:
            weights = self.only_weights
        else:
            weights = self._weights(self.rows.scores(step, self.reference), self.top)
        return [weight * self.inverse for weight in weights]

    def _weights(self, scores: list[jax.Array], top: jax.Array) -> list[jax.Array]:
        exp2 = functools.partial(_philox.exp2, interpret=self.rows.layout.interpret)
        return [exp2((x - top) * self.scale) for x in scores]

    def _divide_by(self, totals: jax.Array, reference: jax.Array) -> None:
        total = reduced(jnp.sum, totals)
        inverse = jnp.where(self.is_wrong, jnp.nan, 1 / total)
        # A maximum loses a NaN on a GPU: beside excluded classes alone, it makes a row look empty.
        self.inverse = jnp.where((reference == -jnp.inf) & ~jnp.isnan(total), 0, inverse)


class OneHot:
    """1 where the score is the largest, in the first such ``column``, which is -1 without a class.

    Read like ``Softmax``.
    """

    def __init__(self, rows: Scores, temperature: jax.Array):
        self.rows, self.is_wrong = rows, jnp.isnan(temperature)

    def read(self, scores: list[jax.Array], largest: jax.Array) -> None:
        first, *others = scores
        self.finish(self._better((first, self._piece(0)), 1, others), largest)

    def start(self):
        return self.rows.full(-jnp.inf), self._piece(0)

    def add(self, step, scores, running):
        return self._better(running, step * self.rows.layout.pieces, scores)

    def finish(self, running, reference: jax.Array) -> None:
        best, piece = running
        column = piece * self.rows.layout.shape[1] + self.rows.column
        column = jnp.where(best == reduced(jnp.max, best), column, NO_COLUMN)
        self.column = jnp.where(reference == -jnp.inf, -1, reduced(jnp.min, column))
        # A maximum of rows loses a NaN on a GPU, but a sum of scores, none of which is +inf, not.
        is_nan = jnp.isnan(reduced(jnp.sum, best))
        self.is_nan = is_nan | (self.is_wrong & (self.column >= 0))

    def values(self, step: int | jax.Array) -> list[jax.Array]:
        one, zero = (jnp.where(self.is_nan, jnp.nan, jnp.float32(value)) for value in (1, 0))
        is_one = [self.rows.column == self.column - x.column for x in self.rows.pieces(step)]
        return [jnp.where(x, one, zero) for x in is_one]

    def _piece(self, number: int) -> jax.Array:
        return jnp.full(self.rows.layout.shape, number, jnp.int32)

    def _better(self, running, first: int | jax.Array, scores: list[jax.Array]):
        """The best score of each position of a piece, or NaN, and the number of its piece."""
        best, piece = running
        for number, score in enumerate(scores):
            piece = jnp.where(score > best, first + number, piece)
            best = _philox.maximum(best, score, interpret=self.rows.layout.interpret)
        return best, piece


def _jacobian_product(layout, scale_ref, relaxed_ref, vector_ref, out_ref):
    rows = Rows(layout)
    scale = rows.of_each(scale_ref)
    relaxed = rows.load(relaxed_ref, 0, 0)
    change = [x * scale for x in rows.load(vector_ref, 0, 0)]

    def products(change):
        return [jnp.where(y == 0, 0, y * c) for y, c in zip(relaxed, change, strict=True)]

    total = reduced(jnp.sum, functools.reduce(jnp.add, products(change)))
    rows.store(out_ref, 0, [scale * x for x in products([c - total for c in change])])
