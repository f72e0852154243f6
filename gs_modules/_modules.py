"""What a module is in every framework: its mode, its temperature and its output.

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
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments
from gs_modules._categorical import straight_through_argmax
from gs_modules._estimators import ESTIMATORS, StraightThroughGumbel
from gs_modules._objectives import categorical_kl
from gs_modules._relaxed import first_argmax
from gs_modules._types import Estimator, LatentOutput, Prior, Schedule


def resolve_deterministic(call: bool | None, constructor: bool | None) -> bool:
    """The mode of a call: the call's argument, else the constructor's, else False (training).

    Raises:
        TypeError: the flag is traced or not a bool.

    Example:
        >>> resolve_deterministic(None, True)
        True
    """
    chosen = call if call is not None else constructor
    return False if chosen is None else _arguments.static_bool("deterministic", chosen)


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
    is_array = isinstance(temperature, (np.ndarray, jax.Array))
    if is_array and temperature.ndim == 0 and not isinstance(temperature, Tracer):
        temperature = temperature.item()
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float, np.number)):
        raise TypeError(
            f"temperature must be a number or a schedule such as Exponential(1.0, 0.5, rate=1e-4), "
            f"got {temperature!r}"
        )
    _arguments.positive_temperature(temperature, (1,), 0, jnp.float32)
    return float(temperature)


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


def check_count(name: str, value: int) -> int:
    """A constructor's number of latents or classes.

    Raises:
        TypeError: not an integer.
        ValueError: less than 1.

    Example:
        >>> check_count("num_latents", 8)
        8
    """
    return _arguments.positive_count(name, value)


def check_clock(step: Any, owner: str) -> jax.Array:
    """A module's stored clock, which must be int32; anything else is refused, never converted.

    Raises:
        TypeError: the clock has another dtype, after a cast of the whole state for instance.

    Example:
        >>> check_clock(jnp.int32(7), "GumbelSoftmax").item()
        7
    """
    dtype = getattr(step, "dtype", type(step).__name__)
    if dtype != jnp.int32:
        raise TypeError(
            f"{owner}: the clock `step` must be int32, got {dtype}; cast floating leaves only: "
            f"jnp.issubdtype(leaf.dtype, jnp.floating)"
        )
    return step


def draw(
    estimator: Estimator,
    key: jax.Array,
    logits: ArrayLike,
    temperature: ArrayLike,
    *,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """The sample of a training call on ``[..., K]`` logits.

    The estimator draws in the dtype of the logits; the result is then cast to ``dtype``.

    Example:
        >>> from gs_modules import Pathwise
        >>> draw(Pathwise(), jax.random.key(0), jnp.zeros(3), 0.5, dtype=jnp.bfloat16).dtype
        dtype(bfloat16)
    """
    array = _arguments.floating_array("logits", logits)
    dtype = _arguments.result_dtype(dtype, array.dtype)
    return estimator(key, array, temperature, where=where).astype(dtype)


def draw_deterministic(
    logits: ArrayLike, *, where: ArrayLike | None = None, dtype: DTypeLike | None = None
) -> jax.Array:
    """The sample of a deterministic call on ``[..., K]`` logits: the one-hot argmax, no gradient.

    Example:
        >>> draw_deterministic(jnp.array([0.1, 0.7])).tolist()
        [0.0, 1.0]
    """
    array = _arguments.floating_array("logits", logits)
    dtype = _arguments.result_dtype(dtype, array.dtype)
    return straight_through_argmax(lax.stop_gradient(array), where=where).astype(dtype)


def latent_logits(x: ArrayLike, num_latents: int, num_classes: int) -> jax.Array:
    """An encoder's output as ``[..., L, K]`` logits.

    Args:
        x: ``[..., L * K]`` (always so for one latent) or ``[..., L, K]``.
        num_latents: L.
        num_classes: K.

    Raises:
        ValueError: another shape.

    Example:
        >>> latent_logits(jnp.zeros((2, 12)), 3, 4).shape
        (2, 3, 4)
    """
    array = _arguments.floating_array("logits", x)
    if num_latents > 1 and array.shape[-2:] == (num_latents, num_classes):
        return array
    if array.ndim and array.shape[-1] == num_latents * num_classes:
        return array.reshape(*array.shape[:-1], num_latents, num_classes)
    nested = f" or [..., {num_latents}, {num_classes}]" if num_latents > 1 else ""
    raise ValueError(
        f"{num_latents} latents of {num_classes} classes take logits of shape "
        f"[..., {num_latents * num_classes}]{nested}, got {array.shape}"
    )


def has_learned_prior(prior: Prior) -> bool:
    """Whether ``prior`` asks for a parameter; a ``ValueError`` for an unknown one.

    Example:
        >>> has_learned_prior("uniform")
        False
    """
    if prior not in ("uniform", "learned"):
        raise ValueError(f"prior must be 'uniform' or 'learned', got {prior!r}")
    return prior == "learned"


def latent_output(
    sample: jax.Array,
    logits: jax.Array,
    prior_logits: jax.Array | None,
    temperature: ArrayLike | None,
    *,
    where: ArrayLike | None = None,
) -> LatentOutput:
    """The output of ``CategoricalLatent``; ``temperature`` is None in a deterministic call.

    Example:
        >>> latent_output(jnp.eye(2), jnp.zeros((2, 2)), None, 0.5).index.tolist()
        [0, 1]
    """
    kl = categorical_kl(logits, prior_logits, where=where).sum(-1)
    weights = jnp.where(sample == 0, -jnp.inf, sample)  # a row of zeros has no index
    reported = math.nan if temperature is None else temperature
    return LatentOutput(
        sample=sample,
        index=first_argmax(weights, sample.ndim - 1).squeeze(-1),
        logits=logits,
        kl=kl,
        temperature=jnp.asarray(reported, jnp.float32),
        deterministic=temperature is None,
    )
