"""Noise, relaxation and one-hot in one pass over the rows of logits: kernels for a GPU.

XLA writes the noise, or computes it again for each reduction of a row; here a row stays in
registers, so that the logits are read and the sample is written, and that is all. A row of more
than ``LONGEST_ROW`` classes does not fit there: it is read once for its maximum, once for its
total and once for the sample, from the second time on out of the cache, and its noise drawn anew.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.typing import DTypeLike

from gs_modules import _philox

LONGEST_ROW = 16384
TILE = 4096
LONG_TILE = 1024
NUMBERS_OF_A_WARP = 1024
LONG_WARPS = 8

LOG2_E = float(np.log2(np.e))
TINY = float(np.finfo(np.float32).tiny)


def relaxed(
    key: jax.Array,
    logits: jax.Array,
    temperature: jax.Array,
    dtype: DTypeLike,
    *,
    interpret: bool = False,
) -> jax.Array:
    """``softmax((logits + G) / temperature)`` over the last axis, in ``dtype``.

    ``key`` is ``[4]`` of uint32, ``temperature`` positive or NaN, of size 1 or ``[..., 1]``.
    """
    out = jax.ShapeDtypeStruct((logits.size,), dtype)
    return _call(_relaxed, key, logits, temperature, out, interpret).reshape(logits.shape)


def one_hot(
    key: jax.Array,
    logits: jax.Array,
    temperature: jax.Array,
    dtype: DTypeLike,
    *,
    interpret: bool = False,
) -> jax.Array:
    """The one-hot argmax of ``logits + G``, of the noise of ``relaxed``; see there."""
    out = jax.ShapeDtypeStruct((logits.size,), dtype)
    return _call(_one_hot, key, logits, temperature, out, interpret).reshape(logits.shape)


def first_argmax(key: jax.Array, logits: jax.Array, *, interpret: bool = False) -> jax.Array:
    """The index of ``one_hot``, int32; -1 for a row without a class, -2 for one with NaN."""
    out = jax.ShapeDtypeStruct((logits.size // logits.shape[-1],), jnp.int32)
    temperature = jnp.ones((), jnp.float32)
    return _call(_first_argmax, key, logits, temperature, out, interpret).reshape(logits.shape[:-1])


def _call(sample, key, logits, temperature, out, interpret):
    classes = logits.shape[-1]
    rows = logits.size // classes
    # Where rows do not start at a multiple of four, a tile starts up to three numbers before.
    width = pl.next_power_of_2(max(classes + (3 if classes % 4 else 0), 4))
    is_long = width > LONGEST_ROW
    shape = (1, LONG_TILE) if is_long else (max(1, TILE // width), width)
    shape = (min(shape[0], pl.next_power_of_2(rows)), shape[1])
    warps = LONG_WARPS if is_long else max(1, math.prod(shape) // NUMBERS_OF_A_WARP)
    is_per_row = temperature.size > 1
    if is_per_row:
        temperature = jnp.broadcast_to(temperature, (*logits.shape[:-1], 1))
    layout = Layout(shape, rows, classes, is_per_row, interpret)
    return pl.pallas_call(
        functools.partial(sample, layout),
        out_shape=out,
        grid=(pl.cdiv(rows, shape[0]),),
        interpret=interpret,
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=1),
        name=f"gumbel{sample.__name__}",
    )(key, temperature.reshape(-1), logits.reshape(-1))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a flat array is cut: every program has ``shape[0]`` rows, in tiles of ``shape``."""

    shape: tuple[int, int]
    rows: int
    classes: int
    is_per_row: bool
    interpret: bool


@dataclasses.dataclass(frozen=True)
class Tile:
    """The class that each number of a tile belongs to, where it stands, and its block of bits."""

    position: jax.Array
    index: jax.Array
    is_class: jax.Array | None
    block: jax.Array

    def load(self, ref) -> jax.Array:
        other = None if self.is_class is None else -jnp.inf
        return plgpu.load(ref.at[self.index], mask=self.is_class, other=other).astype(jnp.float32)

    def store(self, ref, value: jax.Array) -> None:
        plgpu.store(ref.at[self.index], value.astype(ref.dtype), mask=self.is_class)


class Rows:
    """The scores of a program's rows, as ``_relaxed.perturbed`` has them, tile by tile.

    Only, a row without a class has the scores of equal logits: ``is_empty`` tells it.
    """

    def __init__(self, layout: Layout, key_ref, temperature_ref, logits_ref):
        self.layout, self.logits_ref = layout, logits_ref
        self.tiles = pl.cdiv(layout.classes + (3 if layout.classes % 4 else 0), layout.shape[1])
        size = layout.shape[0]
        self.row = pl.program_id(0) * size + lax.broadcasted_iota(jnp.int32, (size, 1), 0)
        self.is_row = self.row < layout.rows if layout.rows % size else None
        self.key = [key_ref[i] for i in range(4)]
        self.temperature = jnp.full((1, 1), temperature_ref[0])
        if layout.is_per_row:
            other = None if self.is_row is None else 1.0
            self.temperature = plgpu.load(
                temperature_ref.at[self.row], mask=self.is_row, other=other
            )

        # Drawn while the logits are on their way: the maximum has to wait for them.
        self.only_noise = self.noise(self.tile(0)) if self.tiles == 1 else None

        def maximum(number, largest):
            return jnp.maximum(largest, self.tile(number).load(logits_ref))

        self.largest = _reduced(jnp.max, self.over_tiles(maximum, self.full(-jnp.inf)))
        self.is_empty = self.largest == -jnp.inf

    def full(self, value: float) -> jax.Array:
        return jnp.full(self.layout.shape, value, jnp.float32)

    def over_tiles(self, body, carry):
        return body(0, carry) if self.tiles == 1 else lax.fori_loop(0, self.tiles, body, carry)

    def tile(self, number: int | jax.Array) -> Tile:
        shape, classes = self.layout.shape, self.layout.classes
        column = lax.broadcasted_iota(jnp.int32, shape, 1) + number * shape[1]
        first = self.row * classes
        start = first // 4 * 4 if classes % 4 else first
        position = column - (first - start) if classes % 4 else column
        masks = [] if self.is_row is None else [self.is_row]
        masks += [position < classes] if classes != shape[1] else []
        masks += [position >= 0] if classes % 4 else []
        is_class = functools.reduce(jnp.logical_and, masks) if masks else None
        is_class = None if is_class is None else jnp.broadcast_to(is_class, shape)
        index = start + column
        if self.layout.interpret:
            # Where it does not store, the interpreter writes what it read, over the row before.
            index = jnp.maximum(index, first)
        block = lax.broadcasted_iota(jnp.int32, (shape[0], shape[1] // 4), 1)
        block += start // 4 + number * (shape[1] // 4)
        return Tile(position, index, is_class, block.astype(jnp.uint32))

    def noise(self, tile: Tile) -> jax.Array:
        bits = _philox.random_bits(self.key, tile.block)
        return _philox.gumbel_noise(bits, interpret=self.layout.interpret)

    def scores(self, number: int | jax.Array) -> tuple[Tile, jax.Array]:
        tile = self.tile(number)
        logits = tile.load(self.logits_ref)
        shifted = jnp.where(logits == self.largest, 0, logits - self.largest)
        return tile, shifted + (self.noise(tile) if self.only_noise is None else self.only_noise)

    def first_argmax(self) -> tuple[jax.Array, jax.Array]:
        """The index of each row, and where a row has NaN.

        Maxima do not hear of a NaN on a GPU; a sum of scores, none of which is +inf, does.
        """

        def better(number, best):
            largest, index, total = best
            tile, scores = self.scores(number)
            is_better = scores > largest
            index = jnp.where(is_better, tile.position, index)
            return jnp.where(is_better, scores, largest), index, total + scores

        if self.tiles == 1:
            tile, scores = self.scores(0)
            largest, index, total = scores, tile.position, scores
        else:
            nowhere = jnp.full(self.layout.shape, self.layout.classes, jnp.int32)
            start = self.full(-jnp.inf), nowhere, self.full(0)
            largest, index, total = lax.fori_loop(0, self.tiles, better, start)
        attained = jnp.where(largest == _reduced(jnp.max, largest), index, self.layout.classes)
        return _reduced(jnp.min, attained), jnp.isnan(_reduced(jnp.sum, total))


def _reduced(reduction, numbers: jax.Array) -> jax.Array:
    return reduction(numbers, axis=1, keepdims=True)


def _relaxed(layout, key_ref, temperature_ref, logits_ref, out_ref):
    rows = Rows(layout, key_ref, temperature_ref, logits_ref)
    exp2 = functools.partial(_philox.exp2, interpret=layout.interpret)
    scale = np.float32(LOG2_E) / rows.temperature
    # A temperature of 1e38 would make it 0, and 0 * -inf is NaN; a maximum would lose a NaN.
    scale = jnp.where(rows.is_empty | (scale < TINY), np.float32(TINY), scale)

    if rows.tiles == 1:
        tile, scores = rows.scores(0)
        weights = exp2((scores - _reduced(jnp.max, scores)) * scale)
        total = _reduced(jnp.sum, weights)
        tile.store(out_ref, weights * jnp.where(rows.is_empty, 0, 1 / total))
        return

    def add(number, running):
        """Softmax's maximum and total in one pass, each position of the tile on its own."""
        largest, total = running
        _, scores = rows.scores(number)
        larger = jnp.maximum(largest, scores)
        finite = jnp.maximum(larger, np.float32(-3e38))
        return larger, total * exp2((largest - finite) * scale) + exp2((scores - finite) * scale)

    maxima, totals = rows.over_tiles(add, (rows.full(-jnp.inf), rows.full(0)))
    largest = _reduced(jnp.max, maxima)
    total = _reduced(jnp.sum, totals * exp2((maxima - largest) * scale))
    inverse = jnp.where(rows.is_empty, 0, 1 / total)

    def write(number, carry):
        tile, scores = rows.scores(number)
        tile.store(out_ref, exp2((scores - largest) * scale) * inverse)
        return carry

    rows.over_tiles(write, 0)


def _one_hot(layout, key_ref, temperature_ref, logits_ref, out_ref):
    rows = Rows(layout, key_ref, temperature_ref, logits_ref)
    index, is_nan = rows.first_argmax()
    index = jnp.where(rows.is_empty, -1, index)
    is_nan |= jnp.isnan(rows.temperature) & ~rows.is_empty

    def write(number, carry):
        tile = rows.tile(number)
        chosen = (tile.position == index).astype(jnp.float32)
        tile.store(out_ref, jnp.where(is_nan, jnp.nan, chosen))
        return carry

    rows.over_tiles(write, 0)


def _first_argmax(layout, key_ref, temperature_ref, logits_ref, out_ref):
    rows = Rows(layout, key_ref, temperature_ref, logits_ref)
    index, is_nan = rows.first_argmax()
    index = jnp.where(is_nan, -2, jnp.where(rows.is_empty, -1, index))
    plgpu.store(out_ref.at[rows.row], index, mask=rows.is_row)
