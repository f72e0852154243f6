"""How a kernel of a GPU cuts an array into rows, steps and pieces, in Pallas for Triton.

A program has a few rows, and of these one step at a time: as much as its registers hold, which is
all of a row but for long ones. A step is a list of pieces, tiles side by side, so that most of a
reduction over a row combines registers of one thread, and little has to cross threads.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

LONGEST_STEP = 16384
"""Columns, up to which a row is one step."""

STEP = 4096
"""Numbers of a step of several short rows."""

LONG_STEP, LONG_WARPS = 2048, 8
"""Columns of a step of a row that has several, and its warps."""

NUMBERS_OF_A_WARP, NUMBERS_OF_A_WARP_OF_WIDE_ROWS = 1024, 2048
"""Of the rows of a program, or of a row that fills one by itself."""

PIECES, NARROWEST_PIECE = 8, 8
"""Pieces of a step at most, and columns of a piece at least."""

NUMBERS_OF_A_LOAD = 128
"""Numbers that a warp loads at once, four for each thread."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Every program has ``shape[0]`` rows, in steps of ``pieces`` tiles of ``shape``.

    Of an array in two halves, it has as many rows of each, the first of which has ``half``.
    """

    rows: int
    half: int
    classes: int
    shape: tuple[int, int]
    pieces: int
    steps: int
    warps: int
    interpret: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], interpret: bool, *, half: int | None = None) -> Layout:
        *leading, classes = shape
        rows = math.prod(leading)
        # Where rows do not start at a multiple of four, they are cut from up to three before.
        columns = classes + (3 if classes % 4 and half is None else 0)
        width = pl.next_power_of_2(max(columns, 4))
        is_long = width > LONGEST_STEP
        width = LONG_STEP if is_long else width
        halves = 1 if half is None else 2
        height = 1 if is_long else max(1, STEP // width // halves)
        height = min(height, pl.next_power_of_2(half or rows))
        numbers = height * width * halves
        of_a_warp = NUMBERS_OF_A_WARP if width < STEP else NUMBERS_OF_A_WARP_OF_WIDE_ROWS
        warps = LONG_WARPS if is_long else max(1, numbers // of_a_warp)
        pieces = min(PIECES, width // NARROWEST_PIECE)
        pieces = max(1, min(pieces, height * width // (warps * NUMBERS_OF_A_LOAD)))
        steps = pl.cdiv(columns, width)
        piece = height, width // pieces
        return cls(rows, half or rows, classes, piece, pieces, steps, warps, interpret)

    @property
    def starts_at_rows(self) -> bool:
        """Whether rows are cut from their first class, not from a multiple of four."""
        return self.classes % 4 == 0 or self.half < self.rows

    @property
    def columns(self) -> int:
        """Columns in one step."""
        return self.shape[1] * self.pieces

    @property
    def fills_steps(self) -> bool:
        return self.classes % self.columns == 0


@dataclasses.dataclass(frozen=True)
class Piece:
    """A tile of the rows, and which of its numbers are classes of their rows."""

    column: jax.Array
    """Where its first number stands, counted from the ``start`` of the rows."""

    index: jax.Array
    is_class: jax.Array | None
    is_near_class: jax.Array | None
    """Where one of four numbers that lie together, and are read at once, is a class."""


class Rows:
    """The rows of this program in flat arrays: of the second half of all rows, if ``is_second``."""

    def __init__(self, layout: Layout, *, is_second: bool = False):
        self.layout = layout
        size, width = layout.shape
        begin, end = (layout.half, layout.rows) if is_second else (0, layout.half)
        row = pl.program_id(0) * size + lax.broadcasted_iota(jnp.int32, (size, 1), 0)
        self.row = row + begin
        self.is_row = None if end - begin == pl.cdiv(layout.half, size) * size else self.row < end
        self.first = self.row * layout.classes
        self.start = self.first if layout.starts_at_rows else fourth(self.first) * 4
        self.column = lax.broadcasted_iota(jnp.int32, (size, width), 1)

    def full(self, value: float) -> jax.Array:
        return jnp.full(self.layout.shape, value, jnp.float32)

    def of_each(self, ref: Any) -> jax.Array:
        """The numbers of ``ref``, one for each row or one for all."""
        if ref.shape[0] == 1:
            return jnp.full((1, 1), ref[0])
        other = None if self.is_row is None else 1.0
        return plgpu.load(ref.at[self.row], mask=self.is_row, other=other)

    def load(self, ref: Any, step: int | jax.Array, other: float) -> list[jax.Array]:
        """The pieces of a step, float32; ``other`` where there is no class."""

        def loaded(pieces):
            return [self._loaded(ref, piece, other) for piece in pieces]

        return self._by_step(step, loaded)

    def _loaded(self, ref: Any, piece: Piece, other: float) -> jax.Array:
        is_near = piece.is_near_class
        numbers = plgpu.load(
            ref.at[piece.index], mask=is_near, other=None if is_near is None else other
        ).astype(jnp.float32)
        if piece.is_class is None or piece.is_class is is_near:
            return numbers
        return jnp.where(piece.is_class, numbers, other)

    def store(self, ref: Any, step: int | jax.Array, values: list[jax.Array]) -> None:
        def store(pieces):
            for piece, value in zip(pieces, values, strict=True):
                plgpu.store(ref.at[piece.index], value.astype(ref.dtype), mask=piece.is_class)

        self._by_step(step, store)

    def pieces(self, step: int | jax.Array, *, is_inner: bool = False) -> list[Piece]:
        """The pieces of a step; all numbers of an inner one are classes of their rows."""
        layout, pieces = self.layout, []
        for number in range(layout.pieces):
            column = (step * layout.pieces + number) * layout.shape[1]
            columns = self.column + column
            index, before = self.start + columns, self.first - self.start
            is_class = is_near_class = self._all(
                [] if layout.fills_steps or is_inner else [columns < before + layout.classes]
            )
            if not (layout.starts_at_rows or is_inner):
                is_class = self._all([columns >= before, columns < before + layout.classes])
                is_near_class = self._all([fourth(columns) * 4 < before + layout.classes])
            if layout.interpret:
                # Where it does not store, the interpreter writes what it read, over the row before.
                index = jnp.maximum(index, self.first)
            pieces.append(Piece(jnp.asarray(column), index, is_class, is_near_class))
        return pieces

    def _all(self, masks: list[jax.Array]) -> jax.Array | None:
        masks = masks if self.is_row is None else [self.is_row, *masks]
        if not masks:
            return None
        return jnp.broadcast_to(functools.reduce(jnp.logical_and, masks), self.layout.shape)

    def _by_step(self, step: int | jax.Array, function: Callable[[list[Piece]], Any]) -> Any:
        """``function`` of the pieces of a step; without masks, it moves four numbers at a time."""
        if self.layout.steps == 1 or self.layout.fills_steps or isinstance(step, int):
            return function(self.pieces(step))
        return lax.cond(
            (step > 0) & ((step + 1) * self.layout.columns <= self.layout.classes),
            lambda: function(self.pieces(step, is_inner=True)),
            lambda: function(self.pieces(step)),
        )


def fourth(index: jax.Array) -> jax.Array:
    """The block of four that an index, which is not negative, is in."""
    return lax.div(index, jnp.int32(4))


def reduced(reduction: Callable, numbers: jax.Array) -> jax.Array:
    return reduction(numbers, axis=1, keepdims=True)


def call(
    kernel: Callable[..., None],
    layout: Layout,
    of_rows: jax.Array,
    *args: jax.Array,
    results: Sequence[jax.ShapeDtypeStruct],
) -> list[jax.Array]:
    """``kernel(layout, *refs)`` of flat arrays; ``of_rows`` is one number or one for each row."""
    if of_rows.size > 1:
        *leading, _ = args[-1].shape
        of_rows = jnp.broadcast_to(of_rows, (*leading, 1))
    flat = [array.reshape(-1) for array in (of_rows, *args)]
    found = pl.pallas_call(
        functools.partial(kernel, layout),
        out_shape=[jax.ShapeDtypeStruct((result.size,), result.dtype) for result in results],
        grid=(pl.cdiv(layout.half, layout.shape[0]),),
        interpret=layout.interpret,
        compiler_params=plgpu.CompilerParams(num_warps=layout.warps, num_stages=1),
        name=f"gumbel{kernel.__name__}",
    )(*flat)
    return [x.reshape(result.shape) for x, result in zip(found, results, strict=True)]
