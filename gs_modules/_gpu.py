"""Samples by a fused kernel on a GPU, by XLA anywhere else: the same numbers but for rounding.

For keys of the implementation ``rbg``, whose bits a kernel can draw at the speed of memory. Of the
default keys, threefry, every sample is promised to be the same on any number of devices, which a
kernel that XLA cannot divide among them would not keep; docs/design/gpu.md has the figures.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from gs_modules import _relaxed
from gs_modules._noise import class_noise_like

LARGEST_SIZE = 2**31 - 1
"""Kernels count in int32."""


@functools.cache
def kernels() -> Any:
    """The file of the kernels, or None where jax no longer has Pallas for Triton.

    Imported where there is a GPU: Pallas takes as long to import as the rest of this library.
    """
    try:
        return importlib.import_module("gs_modules._fused")
    except ImportError:
        return None


def has_kernel(key: jax.Array, logits: jax.Array, axis: int) -> bool:
    """Whether a kernel draws the samples of ``logits``, should they be drawn on a GPU.

    Only where there is one device: XLA would gather an array that is divided among several.
    """
    return (
        jax.default_backend() == "gpu"
        and kernels() is not None
        and jax.device_count() == 1
        and jax.sharding.get_abstract_mesh().empty
        and draws_philox(key)
        and axis == logits.ndim - 1
        and logits.shape[axis] != 2  # which take one noise a row, not two
        and logits.dtype != jnp.float64
        and 0 < logits.size <= LARGEST_SIZE
    )


def draws_philox(key: jax.Array) -> bool:
    return jax.random.key_impl(_typed(key)) in ("rbg", "unsafe_rbg")


def _typed(key: jax.Array) -> jax.Array:
    is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key if is_typed else jax.random.wrap_key_data(key)


def masked(logits: jax.Array, where: jax.Array | None) -> jax.Array:
    """``logits`` in their own dtype, ``-inf`` where a class is excluded."""
    return logits if where is None else jnp.where(where, logits, -jnp.inf)


def sample(
    key: jax.Array, logits: jax.Array, temperature: jax.Array, hard: bool, dtype: DTypeLike
) -> jax.Array:
    """``softmax((logits + G) / temperature)`` over the last axis; hard, its one-hot argmax.

    Both have the derivative of the first.
    """
    return _sample(jax.random.key_data(_typed(key)), logits, temperature, hard, dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _sample(data, logits, temperature, hard, dtype):
    def by_xla(data, logits, temperature):
        logits, noise = _logits_and_noise(data, logits)
        axis = logits.ndim - 1
        if hard:
            index = _relaxed.first_argmax(_relaxed.perturbed(logits, noise, axis), axis)
            return _relaxed.one_hot(index, logits, temperature, axis).astype(dtype)
        return _relaxed.relaxed(logits, noise, temperature, axis).astype(dtype)

    def by_kernel(data, logits, temperature):
        draw = kernels().one_hot if hard else kernels().relaxed
        return draw(data, logits, _relaxed.positive_or_nan(temperature), dtype)

    return _by_platform(by_kernel, by_xla, data, logits, temperature)


@functools.partial(_sample.defjvp, symbolic_zeros=True)
def _sample_jvp(hard, dtype, primals, tangents):
    data, logits, temperature = primals
    soft = _sample(data, logits, temperature, False, jnp.float32)
    sample = _sample(data, logits, temperature, True, dtype) if hard else soft.astype(dtype)
    logits_tangent, temperature_tangent = map(_relaxed.none_if_zero, tangents[1:])
    if logits_tangent is not None:
        logits_tangent = logits_tangent.astype(jnp.float32)
    tangent = _relaxed.softmax_tangent(
        soft, temperature, logits_tangent, temperature_tangent, soft.ndim - 1
    )
    return sample, tangent.astype(dtype)


def index_and_relaxed(
    key: jax.Array, logits: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The index of ``_relaxed.first_argmax``, and the relaxed ``sample`` in float32."""
    soft = sample(key, logits, temperature, False, jnp.float32)
    return _first_argmax(key, logits)[..., None], soft


def first_argmax(key: jax.Array, logits: jax.Array) -> jax.Array:
    """The index of a hard ``sample``; -1 for a row without a class or with NaN."""
    return jnp.maximum(_first_argmax(key, logits), -1)


def _first_argmax(key, logits):
    def by_xla(data, logits):
        scores = _relaxed.perturbed(*_logits_and_noise(data, logits), logits.ndim - 1)
        return _relaxed.first_argmax(scores, scores.ndim - 1)[..., 0]

    data = jax.random.key_data(_typed(key))
    return _by_platform(kernels().first_argmax, by_xla, data, lax.stop_gradient(logits))


def _logits_and_noise(data: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    logits = _relaxed.computing_logits(logits, None)
    key = jax.random.wrap_key_data(data, impl="rbg")
    return logits, class_noise_like(key, logits, logits.ndim - 1)


def _by_platform(by_kernel, by_xla, *args):
    return lax.platform_dependent(*args, cuda=by_kernel, default=by_xla)
