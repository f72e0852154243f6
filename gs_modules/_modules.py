"""What a module is in every framework: its mode, its temperature, its clock and its sample.

The front-ends hold the state; these functions decide. A module for another framework can be built
on them in the same way.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments, _scalars
from gs_modules._categorical import straight_through_argmax
from gs_modules._estimators import ESTIMATORS, StraightThroughGumbel
from gs_modules._relaxed import computing_logits
from gs_modules._schedules import as_step
from gs_modules._subset import gumbel_top_k, largest_k_hot
from gs_modules._types import Estimator, Schedule


def resolve_deterministic(call: bool | None, constructor: bool | None) -> bool:
    """The mode of a call: the call's argument, else the constructor's, else False (training).

    Raises:
        TypeError: the flag is traced or not a bool.

    Example:
        >>> resolve_deterministic(None, True)
        True
    """
    chosen = call if call is not None else constructor
    return False if chosen is None else _scalars.static_bool("deterministic", chosen)


def resolve_temperature(
    constructor: float | Schedule, call: ArrayLike | None, step: jax.Array | None
) -> ArrayLike:
    """The temperature of a training call: the call's argument, else the constructor's at ``step``.

    Example:
        >>> resolve_temperature(0.5, None, None), resolve_temperature(0.5, 2.0, None)
        (0.5, 2.0)
    """
    if call is not None:
        return call
    return constructor(step) if callable(constructor) else constructor


def check_temperature(temperature: float | Schedule) -> float | Schedule:
    """A constructor's ``temperature``: a schedule as it is, a number as a positive float.

    A concrete array of no dimension is a number too; a traced one is refused.

    Raises:
        TypeError: neither a number nor callable.
        ValueError: not positive and finite in float32.

    Example:
        >>> check_temperature(1)
        1.0
    """
    if callable(temperature):
        return temperature
    expected = "a number or a schedule such as Exponential(1.0, 0.5, rate=1e-4)"
    number = _scalars.number("temperature", temperature, expected)
    _arguments.positive_temperature(temperature, (1,), 0, jnp.float32)
    return number


def check_estimator(estimator: Estimator) -> Estimator:
    """A constructor's ``estimator``: a value, neither its name nor its class.

    Raises:
        TypeError: anything else.

    Example:
        >>> from gs_modules import Pathwise
        >>> check_estimator(Pathwise())
        Pathwise()
    """
    if callable(estimator) and not isinstance(estimator, type):
        return estimator
    meant = ESTIMATORS.get(estimator) if isinstance(estimator, str) else estimator
    example = meant if isinstance(meant, type) else StraightThroughGumbel
    raise TypeError(
        f"estimator must be a gradient estimator, got {estimator!r}; write {example.__name__}()"
    )


def check_dtype(dtype: DTypeLike | None) -> np.dtype | None:
    """A constructor's ``dtype``, of its sample; None: that of the logits.

    Raises:
        TypeError: not floating-point.

    Example:
        >>> check_dtype(jnp.bfloat16)
        dtype(bfloat16)
    """
    return None if dtype is None else _arguments.result_dtype(dtype, dtype)


def check_step(step: Any) -> jax.Array:
    """The ``step`` that a call is given: one integer, as int32.

    Raises:
        TypeError: not an integer.
        ValueError: more than one.

    Example:
        >>> check_step(7).item()
        7
    """
    checked = as_step(step)
    if checked.shape:
        raise ValueError(f"step must be a single integer, got an array of shape {checked.shape}")
    return checked


def check_clock(step: Any) -> jax.Array:
    """A module's stored clock as a step: int32, and anything else is refused, never converted.

    Raises:
        TypeError: the clock has another dtype, after a cast of the whole state for instance.

    Example:
        >>> check_clock(jnp.int32(7)).item()
        7
    """
    dtype = getattr(step, "dtype", type(step).__name__)
    if dtype != jnp.int32:
        raise TypeError(
            f"the clock `step` must be int32, got {dtype}; cast floating leaves only: "
            f"jnp.issubdtype(leaf.dtype, jnp.floating)"
        )
    return as_step(step)


def draw(
    estimator: Estimator,
    key: jax.Array,
    logits: ArrayLike,
    temperature: ArrayLike,
    *,
    where: ArrayLike | None = None,
    k: int = 1,
) -> jax.Array:
    """The sample of a training call on ``[..., K]`` logits, in float32 (float64 for float64).

    More than one class, k-hot, is drawn by ``gumbel_top_k`` instead.

    Example:
        >>> from gs_modules import Pathwise
        >>> draw(Pathwise(), jax.random.key(0), jnp.zeros(3, jnp.bfloat16), 0.5).dtype
        dtype('float32')
    """
    array, axis, mask = _arguments.categories(logits, -1, where, key, temperature)
    array = computing_logits(array, mask)
    if _scalars.check_count("k", k, array.shape[axis]) > 1:
        return gumbel_top_k(key, array, k, temperature, hard=True)
    return estimator(key, array, temperature)


def draw_deterministic(
    logits: ArrayLike,
    *,
    where: ArrayLike | None = None,
    k: int = 1,
) -> jax.Array:
    """The sample of a deterministic call on ``[..., K]`` logits: 1 on the k largest, no gradient.

    In float32 (float64 for float64).

    Example:
        >>> draw_deterministic(jnp.array([0.1, 0.7])).tolist()
        [0.0, 1.0]
    """
    array, axis, mask = _arguments.categories(logits, -1, where)
    array = lax.stop_gradient(computing_logits(array, mask))
    if _scalars.check_count("k", k, array.shape[axis]) > 1:
        return largest_k_hot(array, k)
    return straight_through_argmax(array)


def sample_output(
    sample: jax.Array, logits: ArrayLike, dtype: DTypeLike | None = None
) -> jax.Array:
    """What a module returns of a sample: in ``dtype``, or else in that of the logits.

    Whatever is read off the sample, its index above all, is read before: rounded to half
    precision, two weights may become equal.

    Raises:
        TypeError: ``dtype`` is not floating-point.

    Example:
        >>> sample_output(jnp.ones(3), jnp.zeros(3, jnp.bfloat16)).dtype
        dtype(bfloat16)
    """
    default = _arguments.floating_array("logits", logits).dtype
    return sample.astype(_arguments.result_dtype(dtype, default))


def temperature_output(temperature: ArrayLike | None) -> jax.Array:
    """What a module reports of the temperature it drew at, None in a deterministic call.

    float32, NaN in a deterministic call.
    """
    return jnp.asarray(math.nan if temperature is None else temperature, jnp.float32)
