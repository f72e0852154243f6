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
    return _samples(jax.random.key_data(key), logits, temperature, ((hard, dtype),))[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _samples(data, logits, temperature, kinds):
    """A list as ``_fused.samples`` draws it, of noise that is drawn once."""

    def by_xla(data, logits, temperature):
        logits, noise = _logits_and_noise(data, logits)
        axis = logits.ndim - 1

        def sample(hard):
            if not hard:
                return _relaxed.relaxed(logits, noise, temperature, axis)
            index = _rows.first_argmax(_relaxed.perturbed(logits, noise, axis), axis)
            return _relaxed.one_hot(index, logits, temperature, axis)

        return [sample(hard).astype(dtype) for hard, dtype in kinds]

    def by_kernel(data, logits, temperature):
        temperature = _relaxed.positive_or_nan(temperature)
        return _kernels.fused().samples(data, logits, temperature, kinds)

    return _kernels.by_platform(by_kernel, by_xla, data, logits, temperature)


@functools.partial(_samples.defjvp, symbolic_zeros=True)
def _samples_jvp(kinds, primals, tangents):
    hard_kinds = tuple(kind for kind in kinds if kind[0])
    soft, *hard_samples = _samples(*primals, ((False, jnp.float32), *hard_kinds))
    hard_samples = iter(hard_samples)
    samples = [next(hard_samples) if hard else soft.astype(dtype) for hard, dtype in kinds]
    _, *tangents = tangents
    tangent_of = functools.partial(
        _relaxed.softmax_tangent, soft, primals[2], *tangents, soft.ndim - 1
    )
    return samples, [tangent_of(dtype) for _, dtype in kinds]


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
