"""Refusals of bad keys, arrays and temperatures, by name, before anything is computed.

Traced values cannot be looked at; each public docstring says what they give.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from gs_modules._scalars import LARGEST_COUNT


@contextlib.contextmanager
def errors_of(owner: str) -> Iterator[None]:
    """Refusals inside say whose they are, ``owner: ...``: the module's class and path.

    Example:
        >>> with errors_of("GumbelGate at router"):
        ...     raise ValueError("k must be in 1 .. 4, got 5")
        Traceback (most recent call last):
        ValueError: GumbelGate at router: k must be in 1 .. 4, got 5
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) in (TypeError, ValueError):  # not those with arguments of their own
            error.args = (f"{owner}: {error}",)
        raise


DTYPES = jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64


def floating_array(name: str, value: ArrayLike) -> jax.Array:
    """``value`` as an array, or a ``TypeError`` unless it is real floating-point.

    Floats of 8 bits are refused: some have no infinity, by which a class is excluded.
    """
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a floating-point array, got {value!r}") from error
    if array.dtype not in DTYPES:
        raise TypeError(
            f"{name} must be floating-point, of 16 to 64 bits, got {array.dtype}; "
            f"write {name}.astype(jnp.float32)"
        )
    return array


def check_key(key: Any) -> jax.Array:
    """``key``, or the uint32 data of an old-style one, as a typed key; else a ``TypeError``.

    Example:
        >>> check_key(0)
        Traceback (most recent call last):
        TypeError: key must be a random key such as jax.random.key(0), got 0
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if is_typed and shape == ():
        return key
    if dtype == jnp.uint32 and shape is not None and len(shape) == 1:
        with contextlib.suppress(TypeError, ValueError):  # another length than keys have
            return jax.random.wrap_key_data(key)
    if is_typed:
        raise TypeError(
            f"key must be a single key, got an array of {shape}; use jax.vmap over keys"
        )
    found = repr(key) if dtype is None else f"{dtype} of shape {shape}"
    raise TypeError(f"key must be a random key such as jax.random.key(0), got {found}")


def category_axis(axis: int, shape: tuple[int, ...], name: str = "logits") -> int:
    """``axis`` counted from the front; it must exist and hold at least one category."""
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {axis!r}") from None
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} is out of range for {name} of shape {shape}")
    axis %= len(shape)
    if shape[axis] == 0:
        raise ValueError(f"{name} of shape {shape} hold no category on axis {axis}")
    return axis


def categories(
    logits: ArrayLike, axis: int, where: ArrayLike | None, *drawn_by: Any
) -> tuple[jax.Array, int, jax.Array | None]:
    """``logits`` as a floating array, ``axis`` counted from the front, ``where`` broadcast.

    ``drawn_by`` are key and temperature. If one of them is traced and the logits are a constant,
    XLA would reduce the logits at compile time, number by number: seconds for a million.
    """
    array = floating_array("logits", logits)
    axis = category_axis(axis, array.shape)
    is_drawn_while_tracing = any(isinstance(argument, Tracer) for argument in drawn_by)
    if is_drawn_while_tracing and not isinstance(array, Tracer):
        array = lax.optimization_barrier(array)
    return array, axis, boolean_mask(where, array.shape)


def boolean_mask(
    where: ArrayLike | None, shape: tuple[int, ...], of: str = "logits"
) -> jax.Array | None:
    """``where`` broadcast to ``shape``; True keeps a category, or an example."""
    if where is None:
        return None
    try:
        mask = jnp.asarray(where)
    except (TypeError, ValueError) as error:
        raise TypeError(f"where must be a boolean array, got {where!r}") from error
    if mask.dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, True keeps; got {mask.dtype}: write where != 0")
    try:
        return jnp.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"where of shape {mask.shape} does not broadcast to {of} of shape {shape}"
        ) from None


def prior_like(prior_logits: ArrayLike | None, logits: jax.Array) -> jax.Array:
    """``prior_logits`` broadcast to ``logits``; uniform where there are none."""
    if prior_logits is None:
        return jnp.zeros_like(logits)
    return like_logits("prior_logits", prior_logits, logits)


def like_logits(name: str, value: ArrayLike, logits: jax.Array) -> jax.Array:
    """Floating ``value`` broadcast to ``logits``."""
    array = floating_array(name, value)
    try:
        return jnp.broadcast_to(array, logits.shape)
    except ValueError:
        raise ValueError(
            f"{name} of shape {array.shape} does not broadcast to logits of shape {logits.shape}"
        ) from None


def category_temperature(temperature: Any, logits: jax.Array, axis: int) -> jax.Array:
    """``temperature`` in the computing dtype of ``logits``, with size 1 on ``axis``."""
    return positive_temperature(temperature, logits.shape, axis, computing_dtype(logits.dtype))


def positive_temperature(
    temperature: Any, shape: tuple[int, ...], axis: int | None, dtype: DTypeLike
) -> jax.Array:
    """``temperature`` in ``dtype``: a scalar, or of full rank with size 1 on ``axis``.

    Without an axis (``axis=None``) it may differ from element to element.

    A concrete value must be positive and finite in ``dtype``; of a traced one only the shape and
    the dtype are checked.
    """
    value = temperature if isinstance(temperature, jax.Array) else _concrete(temperature)
    if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
        raise TypeError(f"temperature must be a positive number, got {temperature!r}")
    if not isinstance(value, Tracer):
        # NumPy compares: XLA on CPU flushes subnormal numbers to zero before it does.
        with np.errstate(over="ignore"):
            in_dtype = np.asarray(value).astype(dtype)
        if not np.all((in_dtype > 0) & np.isfinite(in_dtype)):
            raise ValueError(
                f"temperature must be positive and finite in {np.dtype(dtype).name}, "
                f"got {temperature!r}"
            )
    if value.dtype == jnp.float32 and dtype == jnp.float64:
        # XLA on CPU would widen a subnormal number to zero.
        is_positive = lax.bitcast_convert_type(jnp.asarray(value), jnp.int32) > 0
        value = jnp.where(is_positive, jnp.maximum(value, jnp.finfo(jnp.float32).tiny), value)
    value = jnp.asarray(value, dtype)
    if value.ndim == 0:
        return value
    allowed = shape if axis is None else (*shape[:axis], 1, *shape[axis + 1 :])
    full_rank = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if len(full_rank.shape) != len(shape) or any(
        size not in (1, whole) for size, whole in zip(full_rank.shape, allowed, strict=True)
    ):
        of_axis = "" if axis is None else f", {shape}, with size 1 on axis {axis}"
        raise ValueError(
            f"temperature of shape {value.shape} must be a scalar or broadcast to {allowed}: the "
            f"shape of logits{of_axis}"
        )
    return full_rank


def _concrete(temperature: Any) -> np.ndarray | jax.Array:
    """As an array of NumPy: while tracing, JAX would trace a Python number too and hide it."""
    try:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(temperature)):
            return jnp.asarray(temperature)
        return np.asarray(temperature)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"temperature must be a positive number, got {temperature!r}") from error


def computing_dtype(dtype: DTypeLike) -> np.dtype:
    """float64 for float64, float32 for everything smaller."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def result_dtype(dtype: DTypeLike | None, default: DTypeLike) -> np.dtype:
    """``dtype``, or else ``default``; a ``TypeError`` unless it is real floating-point."""
    try:
        chosen = jnp.dtype(default if dtype is None else dtype)
    except TypeError as error:
        raise TypeError(f"dtype must be floating-point, got {dtype!r}") from error
    if not jnp.issubdtype(chosen, jnp.floating):
        raise TypeError(f"dtype must be floating-point, got {chosen}")
    if chosen == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise TypeError("dtype float64 needs jax.config.update('jax_enable_x64', True)")
    return chosen


def as_int32(integers: Any) -> jax.Array:
    """``integers`` as int32; what that cannot hold becomes its smallest or its largest number."""
    smallest, largest = -(2**31), LARGEST_COUNT
    if isinstance(integers, int):
        return jnp.int32(min(max(integers, smallest), largest))
    if not np.can_cast(integers.dtype, np.int32):
        limits = jnp.iinfo(integers.dtype)
        # jnp.asarray would wrap an int64 of NumPy.
        clip = np.clip if isinstance(integers, (np.ndarray, np.integer)) else jnp.clip
        integers = clip(integers, max(limits.min, smallest), min(limits.max, largest))
    return jnp.asarray(integers, jnp.int32)


def index_array(name: str, value: ArrayLike) -> jax.Array:
    """``value`` as int32, or a ``TypeError`` unless it is an array of integers."""
    is_array = isinstance(value, (jax.Array, np.ndarray, np.integer))
    array = value if is_array else jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be an integer array, got {array.dtype}")
    return as_int32(array)
