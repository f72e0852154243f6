"""Which class is drawn, and scores whose maximum it is.

Of up to ``MANY`` classes, the drawn one has the largest of the perturbed logits. Of more, its
block is drawn by the mass of the blocks, then the class inside the block: about ``2 sqrt(K)``
noises instead of K. The scores of a draw by blocks are drawn as well, given the class. The number
of classes and the kind of key decide, never devices and never whether a gradient is taken.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from gs_modules import _threefry
from gs_modules._bits import log_of_normal
from gs_modules._gpu import draws_philox
from gs_modules._loops import MOST_BYTES, last_bytes
from gs_modules._noise import (
    class_noise_like,
    exponential_noise_like,
    gumbel_noise_of_rows,
)
from gs_modules._relaxed import (
    computing_logits,
    one_hot,
    perturbed,
    softmax_tangent,
    tempered_softmax,
)
from gs_modules._rows import first_argmax, is_at, is_infinite, row_max
from gs_modules._sharding import explicit_sharding, is_divided, sharding_with

MANY = 1000
"""Classes up to which a hard sample attains the maximum of the soft one of the same key."""

OTHER_COUNT = 2**32 - 1
"""Folded into a key that is not of threefry; a step or an example has a smaller count."""

SHARDS = 8
"""Up to this many equal shards, no block lies on two of them."""

LARGEST_BLOCK = 2**16 - 1
"""The largest size of a block: this many integers of at most 2**15 add up to less than 2**31."""


class ByBlocks(NamedTuple):
    """What the scores of all classes are drawn by later, of each row that was drawn by blocks."""

    smallest: jax.Array
    """The exponential that the drawn class won by."""
    total: jax.Array
    """The sum of ``exp(logits - largest)``."""
    largest: jax.Array
    """The maximum of the logits."""


Given = jax.Array | ByBlocks
"""What ``draw`` returns for ``scores``: the perturbed logits, or what they are drawn by later."""


def draw(key: jax.Array, logits: jax.Array, axis: int) -> tuple[jax.Array, Given]:
    """The index of the drawn class, as ``first_argmax`` gives it, and what ``scores`` needs."""
    logits = lax.stop_gradient(logits)
    if has_blocks(key, logits, axis):
        return _drawn_by_blocks(key, logits, axis)
    perturbed_logits = perturbed(logits, class_noise_like(key, logits, axis), axis)
    return first_argmax(perturbed_logits, axis), perturbed_logits


def scores(
    key: jax.Array, logits: jax.Array, index: jax.Array, given: Given, axis: int
) -> jax.Array:
    """Perturbed logits by which this class is drawn."""
    if not isinstance(given, ByBlocks):
        return given
    smallest, total, largest = given
    logits = lax.stop_gradient(logits)
    others = exponential_noise_like(key_of_others(key), logits)
    from_largest = perturbed(logits, None, axis, largest)
    return scores_given(_is_drawn(index, logits, axis), smallest, others, from_largest, total)


def _is_drawn(index, logits, axis):
    """``is_at``; a byte of each class is compared too, for long vectors on CPU: ``last_bytes``."""
    classes = logits.shape[axis]
    if classes > MOST_BYTES:
        return is_at(index, logits, axis)
    sharding = explicit_sharding(logits)
    byte = lax.broadcast_in_dim(last_bytes(classes), logits.shape, (axis,), out_sharding=sharding)
    return is_at(index, logits, axis) & (byte == index.astype(jnp.uint8))


def relaxed_by_draw(
    key: jax.Array,
    logits: jax.Array,
    temperature: jax.Array,
    index: jax.Array,
    given: Given,
    axis: int,
) -> jax.Array:
    """The relaxed sample of these scores."""
    largest = given.largest if isinstance(given, ByBlocks) else None
    perturbed_logits = scores(key, logits, index, given, axis)
    return tempered_softmax(logits, perturbed_logits, temperature, largest, axis)


def one_hot_draw(key: jax.Array, logits: jax.Array, temperature: jax.Array, axis: int) -> jax.Array:
    """The one-hot of a draw, without a derivative."""
    return one_hot(draw(key, logits, axis)[0], logits, temperature, axis)


def hard_sample(
    key: jax.Array,
    logits: jax.Array,
    temperature: jax.Array,
    backward_temperature: jax.Array,
    axis: int,
    dtype: DTypeLike,
) -> jax.Array:
    """The one-hot of a draw, with the derivative of the relaxed sample at the second temperature.

    ``logits`` are in their own dtype, ``-inf`` where a class is excluded; ``dtype`` is that of the
    sample. Scores are drawn, traced and compiled for a derivative alone.
    """
    index, given = draw(key, computing_logits(logits, None), axis)
    return _hard_sample(key, logits, temperature, backward_temperature, index, given, axis, dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(6, 7))
def _hard_sample(key, logits, temperature, backward_temperature, index, given, axis, dtype):
    del key, backward_temperature, given
    return one_hot(index, computing_logits(logits, None), temperature, axis).astype(dtype)


@functools.partial(_hard_sample.defjvp, symbolic_zeros=True)
def _hard_sample_jvp(axis, dtype, primals, tangents):
    key, logits, _, backward_temperature, index, given = primals
    _, logits_tangent, _, temperature_tangent, _, _ = tangents
    logits = computing_logits(logits, None)
    soft = relaxed_by_draw(key, logits, backward_temperature, index, given, axis)
    # Between the dtypes of the user, so that the kernel of a GPU converts as it reads and writes.
    tangents = logits_tangent, temperature_tangent
    tangent = softmax_tangent(soft, backward_temperature, *tangents, axis, dtype)
    # Not the one-hot itself: this rule is differentiated for second derivatives.
    return _hard_sample(*primals, axis, dtype), tangent


def key_of_others(key: jax.Array) -> jax.Array:
    """The key of the noises given the class, beside ``key``, which draws the class."""
    if _threefry.is_threefry(key):
        return _threefry.other_key(key)
    return jax.random.fold_in(key, OTHER_COUNT)


def scores_given(
    is_drawn: jax.Array, smallest: jax.Array, others: jax.Array, logits: jax.Array, total: jax.Array
) -> jax.Array:
    """Perturbed log-probabilities given the class that has the largest, from which they count.

    With E standard exponential, ``-log E_D`` is the largest and ``-log(E_j / p_j + E_D)`` that of
    another class. ``smallest`` is ``E_D``, ``others`` holds ``E_j``, and ``p`` is
    ``exp(logits) / total``. Paulus, Maddison, Krause (2021), https://arxiv.org/abs/2010.04838.
    """
    scale = jnp.where(total == 0, 1, total / smallest)  # without a class, 0 / 0 in Gumbel-Rao
    scores = logits - log_of_normal(others * scale + jnp.exp(logits))
    none = lax.full_like(scores, 0)
    is_largest = (is_drawn | lax.gt(scores, none)) & lax.eq(scores, scores)
    return lax.select(is_largest, none, scores)


def has_blocks(key: jax.Array, logits: jax.Array, axis: int) -> bool:
    """Whether a block is drawn first."""
    # Kernels draw from Philox keys as fast as memory allows, with a noise for each class.
    classes = logits.shape[axis]
    return isinstance(classes, int) and classes > MANY and not draws_philox(key)


def _drawn_by_blocks(key, logits, axis):
    division = Division(logits.shape[axis])
    noise = gumbel_noise_of_rows(key, division.blocks + division.size + 1, logits, axis)
    of_blocks, of_classes, of_smallest = jnp.split(
        noise, (division.blocks, division.blocks + division.size), axis
    )
    blocks = division.divided(logits, axis)
    log_mass, largest = _log_mass(blocks, axis)
    # Of plain sums, which would do, jaxlib 0.12 never ends to compile some maxima (1,008 classes).
    block = first_argmax(perturbed(log_mass, jnp.expand_dims(of_blocks, axis + 1), axis), axis)
    inside = _inside(blocks, block, axis)
    inside = perturbed(inside, jnp.expand_dims(of_classes, axis), axis + 1)
    position = first_argmax(inside, axis + 1)
    index = lax.select(lax.lt(block, np.int32(0)), block, division.index(block, position))
    total = lax.reduce_sum(lax.exp(log_mass), (axis,))
    index, largest = (jnp.squeeze(of_row, axis + 1) for of_row in (index, largest))
    return index, ByBlocks(lax.exp(lax.neg(of_smallest)), total, largest)


def _log_mass(blocks: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """``log(sum(exp(logits - row maximum)))`` over each block, and this maximum.

    Equal infinite logits share the mass.

    The exponentials are added as integers, of 30 bits below the largest of the block, in two sums
    that cannot overflow in a block of ``LARGEST_BLOCK``. To whatever shards and vectors the
    additions are dealt out, their result is the same to the last bit, and so is the block drawn.
    """
    # XLA on a GPU would read every class again for the maximum of these, which is that of the row.
    largest = lax.optimization_barrier(row_max(blocks, axis + 1))
    # A comparison of every class with infinity it would write and read again.
    number = blocks.dtype.type
    most, fraction = jnp.finfo(blocks.dtype).max, number(2.0**-15)
    shift, none = lax.min(lax.max(largest, -most), most), lax.full_like(largest, 0)
    rest = lax.select(is_infinite(largest, 1), lax.full_like(largest, most), none)
    weights = lax.exp(lax.min(blocks - shift - rest, number(0)))
    units = lax.mul(weights, number(2.0**30)).astype(jnp.int32)
    high = lax.shift_right_arithmetic(units, np.int32(15))
    low = lax.bitwise_and(units, np.int32(0x7FFF))
    high, low, is_nan = lax.reduce(
        (high, low, lax.ne(weights, weights)),
        (jnp.int32(0), jnp.int32(0), False),
        lambda one, other: (one[0] + other[0], one[1] + other[1], one[2] | other[2]),
        (axis + 1,),
    )
    high, low = (half.astype(blocks.dtype) for half in (high, low))
    mass = lax.mul(lax.add(high, lax.mul(low, fraction)), fraction)
    mass, is_nan = (jnp.expand_dims(of_block, axis + 1) for of_block in (mass, is_nan))
    mass = lax.select(lax.eq(mass, number(0)), lax.full_like(mass, 1), mass)
    log_mass = lax.select(is_infinite(largest, -1), largest, lax.log(mass))
    log_mass = lax.select(is_nan, lax.full_like(log_mass, jnp.nan), log_mass)
    of_row = row_max(largest, axis)
    return lax.add(perturbed(largest, None, axis, of_row), log_mass), of_row


def _inside(blocks: jax.Array, block: jax.Array, axis: int) -> jax.Array:
    """The logits of the block that is drawn, ``[..., 1, size, ...]``; of any, where none is."""
    if is_divided(blocks, axis):
        of_block = jnp.where(is_at(block, blocks, axis), blocks, 0)
        return jnp.sum(of_block, axis, keepdims=True)
    return jnp.take_along_axis(blocks, jnp.maximum(block, 0), axis, mode="promise_in_bounds")


class Division:
    """K classes as blocks of one size, about ``sqrt(K)`` of ``sqrt(K)``.

    They are made of ``groups`` of classes, 8 where 8 divides K, so that none lies on two shards of
    such a group. The last block of a group is filled up with classes that are never drawn, unless
    blocks of another size divide it evenly.
    """

    def __init__(self, classes: int):
        self.groups = math.gcd(classes, SHARDS)
        self.of_group = classes // self.groups
        self.of_blocks = max(1, round(math.sqrt(classes) / self.groups))
        small = [n for n in range(1, math.isqrt(self.of_group) + 1) if self.of_group % n == 0]
        cheapest = min([*small, *(self.of_group // n for n in small)], key=self._noises)
        is_cheap = self._noises(cheapest) < 8 * math.sqrt(classes)
        if is_cheap and self.of_group // cheapest <= LARGEST_BLOCK:
            self.of_blocks = cheapest
        self.size = -(-self.of_group // self.of_blocks)
        self.blocks = self.groups * self.of_blocks

    def _noises(self, of_blocks: int) -> int:
        return self.groups * of_blocks + self.of_group // of_blocks

    def divided(self, array: jax.Array, axis: int) -> jax.Array:
        """``[..., K, ...]`` as ``[..., blocks, size, ...]``, filled up with ``-inf``."""
        missing = self.of_blocks * self.size - self.of_group
        if missing:
            array = _reshaped(array, axis, 1, (self.groups, self.of_group))
            widths = [(0, missing if i == axis + 1 else 0, 0) for i in range(array.ndim)]
            array = lax.pad(array, jnp.asarray(-jnp.inf, array.dtype), widths)
            return _reshaped(array, axis, 2, (self.blocks, self.size))
        return _reshaped(array, axis, 1, (self.blocks, self.size))

    def index(self, block: jax.Array, position: jax.Array) -> jax.Array:
        """The index of a class from that of its block and its position inside."""
        filled_up = self.of_blocks * self.size - self.of_group
        index = lax.add(lax.mul(block, np.int32(self.size)), position)
        group = lax.div(block, np.int32(self.of_blocks))
        return lax.sub(index, lax.mul(group, np.int32(filled_up)))


def _reshaped(array: jax.Array, axis: int, axes: int, sizes: tuple[int, ...]) -> jax.Array:
    """Other sizes in place of some axes, the first of which is sharded as the first of them."""
    shape = (*array.shape[:axis], *sizes, *array.shape[axis + axes :])
    others = [None] * (len(sizes) - 1)
    sharding = sharding_with(array, lambda spec: (*spec[: axis + 1], *others, *spec[axis + axes :]))
    return lax.reshape(array, shape, out_sharding=sharding)
