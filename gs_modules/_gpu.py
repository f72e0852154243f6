"""Samples by a fused kernel on a GPU, by XLA anywhere else: the same numbers but for rounding.

With keys of threefry, the default, noise and index are the same to the last bit, since XLA draws on
several devices what the kernel draws on one. With keys of Philox, which jax calls ``rbg``, a noise
is rounded otherwise, and drawn at the speed of memory. docs/design/gpu.md has the figures.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from gs_modules import _kernels, _relaxed, _rows
from gs_modules._noise import class_noise_like
from gs_modules._threefry import is_threefry


def draws_each_class(key: jax.Array, logits: jax.Array, axis: int) -> bool:
    """Whether a kernel draws a noise for each of ``logits``, should they be drawn on a GPU."""
    if not _kernels.serve(logits, axis):
        return False
    if not is_threefry(key):
        return draws_philox(key)
    return logits.size > logits.shape[axis] and _kernels.fused().is_one_step(logits.shape)


def draws_philox(key: jax.Array) -> bool:
    return jax.random.key_impl(key) in ("rbg", "unsafe_rbg")


def sample(
    key: jax.Array, logits: jax.Array, temperature: jax.Array, hard: bool, dtype: DTypeLike
) -> jax.Array:
    """``softmax((logits + G) / temperature)`` over the last axis; hard, its one-hot argmax.

    Both have the derivative of the first.
    """
    return _sample(jax.random.key_data(key), logits, temperature, hard, dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _sample(data, logits, temperature, hard, dtype):
    def by_xla(data, logits, temperature):
        return _by_xla(data, logits, temperature)[hard].astype(dtype)

    def by_kernel(data, logits, temperature):
        draw = _kernels.fused().one_hot if hard else _kernels.fused().relaxed
        return draw(data, logits, _relaxed.positive_or_nan(temperature), dtype)

    return _kernels.by_platform(by_kernel, by_xla, data, logits, temperature)


@functools.partial(_sample.defjvp, symbolic_zeros=True)
def _sample_jvp(hard, dtype, primals, tangents):
    data, logits, temperature = primals
    if hard:
        soft, sample = _both_samples(data, logits, temperature, dtype)
    else:
        soft = _sample(data, logits, temperature, False, jnp.float32)
        sample = soft.astype(dtype)
    _, *tangents = tangents
    return sample, _relaxed.softmax_tangent(soft, temperature, *tangents, soft.ndim - 1, dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _both_samples(data, logits, temperature, dtype):
    """Soft in float32 and hard in ``dtype``, with the derivative of the first."""

    def by_xla(data, logits, temperature):
        soft, hard = _by_xla(data, logits, temperature)
        return soft, hard.astype(dtype)

    def by_kernel(data, logits, temperature):
        temperature = _relaxed.positive_or_nan(temperature)
        return tuple(_kernels.fused().relaxed_and_one_hot(data, logits, temperature, dtype))

    return _kernels.by_platform(by_kernel, by_xla, data, logits, temperature)


@functools.partial(_both_samples.defjvp, symbolic_zeros=True)
def _both_samples_jvp(dtype, primals, tangents):
    soft, hard = _both_samples(*primals, dtype)
    _, _, temperature = primals
    _, *tangents = tangents
    tangent_of = functools.partial(
        _relaxed.softmax_tangent, soft, temperature, *tangents, soft.ndim - 1
    )
    return (soft, hard), (tangent_of(jnp.float32), tangent_of(dtype))


def _by_xla(data, logits, temperature):
    """Soft and hard sample, in the dtype that is computed in."""
    logits, noise = _logits_and_noise(data, logits)
    axis = logits.ndim - 1
    index = _rows.first_argmax(_relaxed.perturbed(logits, noise, axis), axis)
    hard = _relaxed.one_hot(index, logits, temperature, axis)
    return _relaxed.relaxed(logits, noise, temperature, axis), hard


def draw(key: jax.Array, logits: jax.Array) -> jax.Array:
    """The index of a hard ``sample``, as ``_rows.first_argmax`` gives it."""

    def by_xla(data, logits):
        scores = _relaxed.perturbed(*_logits_and_noise(data, logits), logits.ndim - 1)
        return _rows.first_argmax(scores, scores.ndim - 1)[..., 0]

    args = jax.random.key_data(key), lax.stop_gradient(logits)
    return _kernels.by_platform(_kernels.fused().first_argmax, by_xla, *args)[..., None]


def _logits_and_noise(data: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    logits = _relaxed.computing_logits(logits, None)
    key = jax.random.wrap_key_data(data, impl="rbg" if data.size == 4 else "threefry2x32")
    return logits, class_noise_like(key, logits, logits.ndim - 1)
