"""Loops that XLA on CPU keeps apart from what becomes of their numbers, and out of more threads."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax

FEW = 2**15
"""So many numbers a thread computes in 40 microseconds, which several threads would not shorten."""

PARTS = 2
"""Of an array of few numbers; more than one, since XLA takes the whole for no part."""


def apart(
    function: Callable[[jax.Array], jax.Array],
    otherwise: Callable[[jax.Array], jax.Array],
    word: jax.Array,
    operand: jax.Array,
) -> jax.Array:
    """``function(operand)``, in loops of its own: not once more for each use, number by number.

    ``otherwise`` gives an array of the same type. ``word`` is any integer of 32 bits.
    """
    # Always true, which XLA does not know; an optimization_barrier does not stop it.
    return lax.cond(lax.population_count(word) <= 32, function, otherwise, operand)


def in_place(function: Callable[[jax.Array, jax.Array], jax.Array], array: jax.Array) -> jax.Array:
    """``array`` with ``function(i, part)`` in place of each part ``i`` of its first axis.

    XLA never deals out to threads a loop that updates a part of an array, where it deals out any
    other of a few thousand numbers, and the threads cost more than they spare.
    """

    def step(i, array):
        part = lax.dynamic_slice_in_dim(array, i, 1)
        return lax.dynamic_update_slice_in_dim(array, function(i, part), i, 0)

    return lax.fori_loop(0, array.shape[0], step, array)
