"""Refusals of bad flags, counts and numbers, by name."""

from __future__ import annotations

import contextlib
import math
import operator
from typing import Any

import numpy as np
from jax.core import Tracer

LARGEST_COUNT = 2**31 - 1
"""What an int32 holds: the last step of a clock, and more classes than fit in memory."""


def static_bool(name: str, value: bool) -> bool:
    """``value`` as a bool that is known while tracing."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"{name} must be a Python bool, got a traced value; name it in jit's static_argnums "
            f"or static_argnames"
        )
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a Python bool, got {value!r}")
    return bool(value)


def check_count(name: str, value: Any, largest: int = LARGEST_COUNT) -> int:
    """``value`` as an integer known while tracing, in ``1 .. largest``.

    Raises:
        TypeError: not an integer.
        ValueError: out of range.

    Example:
        >>> check_count("num_latents", 8)
        8
    """
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not 1 <= count <= largest:
        limit = "2**31 - 1" if largest == LARGEST_COUNT else largest
        raise ValueError(f"{name} must be in 1 .. {limit}, got {value!r}")
    return count


def number(name: str, value: Any, expected: str = "a number") -> float:
    """``value``, a real number or a concrete array of no dimension, as a float."""
    is_boolean = isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_
    if not (is_boolean or isinstance(value, (str, bytes))):
        with contextlib.suppress(TypeError):
            try:
                return float(value)
            except OverflowError:
                return math.inf if value > 0 else -math.inf
    raise TypeError(f"{name} must be {expected}, got {value!r}")


def positive_number(name: str, value: Any) -> float:
    """``value`` as a float that is positive and finite in float32, and no subnormal there."""
    float32 = np.finfo(np.float32)
    positive = number(name, value)
    if not float(float32.tiny) <= positive <= float(float32.max):
        raise ValueError(f"{name} must be positive and finite in float32, got {value!r}")
    return positive
