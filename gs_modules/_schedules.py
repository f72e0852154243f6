"""Temperature schedules: frozen dataclasses from an optimizer step to a float32 temperature.

Every schedule is a value: equal options are equal and hash alike, so a module that holds one does
not retrace. Steps are compared and divided as int32 and curves are sums of positive terms, so
that a small end keeps its relative precision and both ends are bitwise ``float32(start)`` and
``float32(end)``. optax's curves lack this: its linear schedule can start above ``start``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gs_modules._arguments import as_int32
from gs_modules._scalars import LARGEST_COUNT, check_count, positive_number

LAST_STEP = LARGEST_COUNT
"""The largest step an int32 clock holds; clocks stay there instead of wrapping."""


def as_step(step: int | jax.Array) -> jax.Array:
    """``step`` as int32, clipped to ``0 .. 2**31 - 1``; floats and booleans are refused.

    Example:
        >>> as_step(-1).item(), as_step(2**40).item() == 2**31 - 1
        (0, True)
    """
    try:
        dtype = jnp.result_type(step)
    except (TypeError, ValueError) as error:
        raise TypeError(f"step must be an integer, got {step!r}") from error
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"step must be an integer, got {dtype}; write step.astype(jnp.int32)")
    return jnp.maximum(as_int32(step), 0)


def next_step(step: int | jax.Array) -> jax.Array:
    """The step after ``step`` as int32; at ``2**31 - 1`` it stays there, it never wraps.

    Example:
        >>> int(next_step(2**31 - 1)) == 2**31 - 1
        True
    """
    step = as_step(step)
    return jnp.where(step < LAST_STEP, step + 1, step)


@dataclasses.dataclass(frozen=True)
class Constant:
    """``value`` at every step.

    Example:
        >>> float(Constant(0.5)(7))
        0.5
    """

    value: float

    def __post_init__(self):
        _freeze_positive(self, "value")

    def __call__(self, step: int | jax.Array) -> jax.Array:
        return jnp.full(jnp.shape(as_step(step)), self.value, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Linear:
    """From ``start`` to ``end`` on a straight line over ``steps`` steps, then ``end``.

    ``(start * (steps - t) + end * t) / steps`` with ``t = min(step, steps)``.

    Example:
        >>> float(Linear(1.0, 0.5, steps=100)(50))
        0.75
    """

    start: float
    end: float
    steps: int

    def __post_init__(self):
        _freeze_positive(self, "start", "end")
        _freeze_count(self, "steps")

    def __call__(self, step: int | jax.Array) -> jax.Array:
        return _line(self.start, self.end, as_step(step), self.steps)


@dataclasses.dataclass(frozen=True)
class Exponential:
    """``max(end, start * exp(-rate * t))``, with ``t`` the last multiple of ``every`` reached.

    ``rate`` is per step and positive; ``start`` is at least ``end``. Jang et al. (2017), section
    4.3, use ``start=1``, ``end=0.5``, a rate of 1e-5 or 1e-4 and ``every`` 500 or 1,000 steps.

    Example:
        >>> round(float(Exponential(1.0, 0.1, rate=1e-3)(1000)), 4)
        0.3679
    """

    start: float
    end: float
    rate: float
    every: int = 1

    def __post_init__(self):
        _freeze_positive(self, "start", "end", "rate")
        _freeze_count(self, "every")
        if self.start < self.end:
            raise ValueError(
                f"Exponential falls: start must be at least end, got start={self.start} and "
                f"end={self.end}; for a rising temperature use Linear or Cosine"
            )

    def __call__(self, step: int | jax.Array) -> jax.Array:
        refreshed = as_step(step) // self.every * self.every
        # Two halves: one exponential underflows before start times it does.
        half = jnp.exp(-0.5 * self.rate * refreshed.astype(jnp.float32))
        decayed = self.start * half * half
        return jnp.clip(decayed.astype(jnp.float32), self.end, self.start)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """From ``start`` to ``end`` along half a cosine over ``steps`` steps, then ``end``.

    ``end + (start - end) * (1 + cos(pi * t / steps)) / 2`` with ``t = min(step, steps)``,
    computed as ``start * cos(pi t / 2 steps)**2 + end * sin(pi t / 2 steps)**2``.

    Example:
        >>> round(float(Cosine(1.0, 0.5, steps=100)(50)), 6)
        0.75
    """

    start: float
    end: float
    steps: int

    def __post_init__(self):
        _freeze_positive(self, "start", "end")
        _freeze_count(self, "steps")

    def __call__(self, step: int | jax.Array) -> jax.Array:
        done, left = _done_and_left(as_step(step), self.steps)
        # sin of what is left, not cos of what is done: near the end the cosine of an angle close
        # to pi/2 has no relative precision.
        weight_start = jnp.square(jnp.sin(0.5 * jnp.pi * left))
        weight_end = jnp.square(jnp.sin(0.5 * jnp.pi * done))
        return _between(self.start, self.end, weight_start, weight_end)


@dataclasses.dataclass(frozen=True)
class Piecewise:
    """``values[i]`` from step ``boundaries[i - 1]`` on: absolute values, not factors.

    ``boundaries`` rise strictly and are at least 1; there is one value more than boundaries.

    Example:
        >>> [float(Piecewise([1.0, 0.5], [10])(step)) for step in (9, 10)]
        [1.0, 0.5]
    """

    values: Sequence[float]
    boundaries: Sequence[int]

    def __post_init__(self):
        values = tuple(positive_number("Piecewise values", value) for value in self.values)
        boundaries = tuple(
            check_count("Piecewise boundaries", boundary) for boundary in self.boundaries
        )
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"Piecewise needs one value more than boundaries, got {len(values)} values and "
                f"{len(boundaries)} boundaries"
            )
        if any(a >= b for a, b in itertools.pairwise(boundaries)):
            raise ValueError(f"Piecewise boundaries must rise strictly, got {boundaries}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "boundaries", boundaries)

    def __call__(self, step: int | jax.Array) -> jax.Array:
        boundaries = jnp.asarray(self.boundaries, jnp.int32)
        piece = jnp.searchsorted(boundaries, as_step(step), side="right")
        return jnp.asarray(self.values, jnp.float32)[piece]


@dataclasses.dataclass(frozen=True)
class Cyclic:
    """Falls on a straight line from ``start`` to ``end`` in ``period`` steps, then begins again.

    Step 0 of a period has ``start``, its last step (``period - 1``) has ``end``. Cyclical
    annealing: Fu et al. (2019), there for the weight of the KL term.

    Example:
        >>> [float(Cyclic(1.0, 0.5, period=3)(step)) for step in range(4)]
        [1.0, 0.75, 0.5, 1.0]
    """

    start: float
    end: float
    period: int

    def __post_init__(self):
        _freeze_positive(self, "start", "end")
        _freeze_count(self, "period")
        if self.period < 2 or self.start < self.end:
            raise ValueError(
                "Cyclic falls from start to end in a period of at least 2 steps, got "
                f"start={self.start}, end={self.end}, period={self.period}"
            )

    def __call__(self, step: int | jax.Array) -> jax.Array:
        return _line(self.start, self.end, as_step(step) % self.period, self.period - 1)


SCHEDULES = {
    "constant": Constant,
    "linear": Linear,
    "exponential": Exponential,
    "cosine": Cosine,
    "piecewise": Piecewise,
    "cyclic": Cyclic,
}
"""The schedules by the names that a YAML config uses."""


def _line(start: float, end: float, step: jax.Array, steps: int) -> jax.Array:
    done, left = _done_and_left(step, steps)
    return _between(start, end, left, done)


def _done_and_left(step: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """``t / steps`` and ``(steps - t) / steps``, each exact to float32's last place."""
    step = jnp.minimum(step, steps)
    whole = jnp.float32(steps)
    return step.astype(jnp.float32) / whole, (steps - step).astype(jnp.float32) / whole


def _between(start: float, end: float, weight_start: jax.Array, weight_end: jax.Array) -> jax.Array:
    value = jnp.float32(start) * weight_start + jnp.float32(end) * weight_end
    low, high = min(start, end), max(start, end)
    value = jnp.clip(value, jnp.float32(low), jnp.float32(high))
    # XLA divides by a constant as it likes: 3 / 3 is not 1 in every compiled program.
    value = jnp.where(weight_end == 0, jnp.float32(start), value)
    return jnp.where(weight_start == 0, jnp.float32(end), value)


def _freeze_positive(schedule: object, *names: str) -> None:
    for name in names:
        value = positive_number(f"{type(schedule).__name__} {name}", getattr(schedule, name))
        object.__setattr__(schedule, name, value)


def _freeze_count(schedule: object, name: str) -> None:
    value = check_count(f"{type(schedule).__name__} {name}", getattr(schedule, name))
    object.__setattr__(schedule, name, value)
