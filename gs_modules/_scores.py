"""Rows of logits with their scores, inside a kernel for a GPU: the noise of both kinds of keys.

Noise is drawn of positions alone, in registers, so that it is neither written nor read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from gs_modules import _philox, _threefry
from gs_modules._noise import gumbel_of_bits
from gs_modules._tiles import Layout, Rows, fourth, reduced

PHILOX_WORDS = 4
"""Words in the data of a Philox key; a threefry key has two."""

LN_2 = float(np.log(2))
NO_COLUMN = 2**31 - 1

Noise = Callable[[int | jax.Array], list[jax.Array]]
"""Maps a step to the noise of each of its pieces."""


def perturbed_rows(layout: Layout, key_ref, logits_ref) -> list[Scores]:
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


class Scores(Rows):
    """Rows of logits with their scores, as ``_relaxed.perturbed`` has them, step by step."""

    def __init__(self, layout: Layout, logits_ref, *, is_second: bool = False):
        super().__init__(layout, is_second=is_second)
        self.logits_ref = logits_ref
        self.only_logits = self.logits(0) if layout.steps == 1 else None

    def logits(self, step: int | jax.Array) -> list[jax.Array]:
        return self.load(self.logits_ref, step, -jnp.inf)

    def perturb(self, noise: Noise, unit: float) -> None:
        """Perturbs each step by its ``noise``, which is in a ``unit``."""
        self.noise, self.unit = noise, unit

    def largest(self) -> jax.Array:
        """The largest logit of each row, of several steps."""

        def larger(step, largest):
            return functools.reduce(jnp.maximum, self.logits(step), largest)

        return reduced(jnp.max, lax.fori_loop(0, self.layout.steps, larger, self.full(-jnp.inf)))

    def scores(
        self, step: int | jax.Array, largest: jax.Array | None = None
    ) -> tuple[list[jax.Array], jax.Array]:
        """The scores of a step relative to ``largest``, and ``largest``.

        By default that is the step's own largest logit. Where all logits are -inf, the scores are
        those of equal logits. The noise is drawn while the logits are on
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
        """The column of the largest score of each row, -1 without a class; which rows are NaN."""
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
