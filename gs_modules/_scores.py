"""Rows of logits with their scores, inside a kernel for a GPU: the noise of both kinds of keys.

Noise is drawn of positions alone, in registers, so that it is neither written nor read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

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

NEAR = 8.0
"""By how much a reference may be too low: a score of 8 to 16 is then rounded as one of up to 24."""

State = TypeVar("State")
Visit = Callable[[int | jax.Array, list[jax.Array], State], State]

Noise = Callable[[int | jax.Array], list[jax.Array]]
"""Maps a step to the noise of each of its pieces."""


def perturbed_rows(layout: Layout, key_ref, logits_ref) -> list[Scores]:
    """The rows of this program, of each half where there are two."""
    rows = Rows(layout)
    if key_ref.shape[0] == PHILOX_WORDS:
        # Less a constant, which neither argmax nor softmax notices.
        return [Scores(layout, logits_ref, _philox_noise(rows, key_ref), -LN_2)]
    halves = functools.cache(lambda: _threefry_noise(rows, key_ref))
    return [
        Scores(layout, logits_ref, lambda _, half=half: halves()[half], 1, is_second=half == 1)
        for half in (0, 1)
    ]


class Scores(Rows):
    """Rows of logits with their scores, as ``_relaxed.perturbed`` has them, step by step.

    ``noise`` is in a ``unit``, and drawn while the first logits are on their way.
    """

    def __init__(
        self, layout: Layout, logits_ref, noise: Noise, unit: float, *, is_second: bool = False
    ):
        super().__init__(layout, is_second=is_second)
        self.logits_ref, self.noise, self.unit = logits_ref, noise, unit
        self.first_logits = self.logits(0)

    def logits(self, step: int | jax.Array) -> list[jax.Array]:
        return self.load(self.logits_ref, step, -jnp.inf)

    def only_scores(self) -> tuple[list[jax.Array], jax.Array]:
        """The scores of rows of one step, and their largest logits, relative to which they are.

        Where all logits are -inf, the scores are those of equal logits.
        """
        noise, largest = self.noise(0), largest_of(self.first_logits)
        return self._perturbed(self.first_logits, noise, largest), largest

    def scores(self, step: int | jax.Array, reference: jax.Array) -> list[jax.Array]:
        """The scores of a step relative to a ``reference``, of rows of several."""
        return self._perturbed(self.logits(step), self.noise(step), reference)

    def _perturbed(self, logits, noise, reference) -> list[jax.Array]:
        is_any_infinite = jnp.max(jnp.isinf(reference).astype(jnp.int32)) > 0
        shifted = lax.cond(
            is_any_infinite,
            lambda: [below(x, reference) for x in logits],
            lambda: [x - reference for x in logits],
        )
        if self.unit == 1:
            return [x + noise for x, noise in zip(shifted, noise, strict=True)]
        add = functools.partial(_philox.multiply_add, interpret=self.layout.interpret)
        return [add(noise, self.unit, x) for x, noise in zip(shifted, noise, strict=True)]

    def accumulated(self, visit: Visit[State], start: State) -> tuple[State, jax.Array]:
        """What ``visit(step, scores, state)`` makes of all steps, and what scores are relative to.

        That should be the largest logit, which is known only in the end. The largest of the first
        step stands for it. If a later one is larger by more than ``NEAR``, the row is visited from
        the start again, relative to the largest of all.
        """

        def of_step(step, carry):
            reference, tops, state = carry
            logits = self.logits(step)
            scores = self._perturbed(logits, self.noise(step), reference)
            tops = functools.reduce(jnp.maximum, logits, tops)
            return reference, tops, visit(step, scores, state)

        def of_all(_, carry):
            reference, steps, state = carry
            state = jax.tree.map(lambda x, y: jnp.where(steps > 0, x, y), start, state)
            carry = reference, self.full(-jnp.inf), state
            _, tops, state = lax.fori_loop(0, steps, of_step, carry)
            largest = reduced(jnp.max, tops)
            is_far = largest > reference + NEAR
            steps = jnp.max(is_far.astype(jnp.int32)) * self.layout.steps
            return jnp.where(is_far, largest, reference), steps, state

        carry = largest_of(self.first_logits), jnp.int32(self.layout.steps), start
        # The second time it has no steps, but for such rows: while loops crash Triton's compiler.
        reference, _, state = lax.fori_loop(0, 2, of_all, carry)
        return state, reference


def largest_of(pieces: list[jax.Array]) -> jax.Array:
    return reduced(jnp.max, functools.reduce(jnp.maximum, pieces))


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
