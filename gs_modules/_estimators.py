"""Gradient estimators: frozen dataclasses with one signature.

``estimator(key, logits, temperature, *, axis=-1, where=None)`` returns a sample of the shape and
dtype of ``logits``; arguments, refusals and edge cases are those of ``gumbel_softmax``. With one
key every one-hot sample but that of ``StraightThroughArgmax`` has the index of ``gumbel_max``.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from gs_modules import _arguments, _scalars
from gs_modules._categorical import argmax_of_checked, sample_of_checked
from gs_modules._draw import hard_sample, key_of_others, one_hot_draw, scores_given
from gs_modules._noise import class_noise_like, exponential_noises_like
from gs_modules._relaxed import (
    computing_logits,
    perturbed,
    relaxed,
    tempered_softmax,
    with_derivative_of,
)


class _CategoricalEstimator:
    """Checks and widens the arguments; ``_sample`` draws from what ``computing_logits`` gives."""

    def __call__(
        self,
        key: jax.Array,
        logits: ArrayLike,
        temperature: ArrayLike,
        *,
        axis: int = -1,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        """A sample of the shape and dtype of ``logits``.

        Args:
            key: a typed or an old-style key; used once.
            logits: ``[..., K, ...]`` floating, unnormalised log-probabilities.
            temperature: positive; a scalar, or of the shape of ``logits`` with size 1 on ``axis``.
            axis: the axis of the K classes.
            where: boolean mask that broadcasts to ``logits``; False excludes a class.
        """
        key = _arguments.check_key(key)
        array, axis, where = _arguments.categories(logits, axis, where, key, temperature)
        tempered = _arguments.category_temperature(temperature, array, axis)
        self._check(temperature)
        return _draw(self, key, array, tempered, where, axis).astype(array.dtype)

    def _check(self, temperature: ArrayLike) -> None:
        """Refuses a temperature at which the estimator is not defined."""

    def _sample(
        self, key: jax.Array, logits: jax.Array, temperature: jax.Array, axis: int
    ) -> jax.Array:
        raise NotImplementedError


@functools.partial(jax.jit, static_argnums=(0, 5), inline=True)
def _draw(estimator, key, logits, temperature, where, axis):
    return estimator._sample(key, computing_logits(logits, where), temperature, axis)


@dataclasses.dataclass(frozen=True)
class Pathwise(_CategoricalEstimator):
    """The relaxed sample with its exact derivative (the reparameterisation trick).

    Jang, Gu, Poole (2017), https://arxiv.org/abs/1611.01144.

    Example:
        >>> Pathwise()(jax.random.key(0), jnp.zeros((2, 3)), 0.5).shape
        (2, 3)
    """

    def _sample(self, key, logits, temperature, axis):
        return sample_of_checked(key, logits, temperature, None, False, axis, logits.dtype)


@dataclasses.dataclass(frozen=True)
class StraightThroughGumbel(_CategoricalEstimator):
    """A one-hot sample with the derivative of the relaxed sample at the same noise.

    Jang, Gu, Poole (2017), section 2.2, https://arxiv.org/abs/1611.01144.

    Example:
        >>> StraightThroughGumbel()(jax.random.key(0), jnp.zeros((2, 3)), 0.5).sum(-1).tolist()
        [1.0, 1.0]
    """

    def _sample(self, key, logits, temperature, axis):
        return sample_of_checked(key, logits, temperature, None, True, axis, logits.dtype)


@dataclasses.dataclass(frozen=True)
class StraightThrough(_CategoricalEstimator):
    """A one-hot sample with the derivative of ``softmax(logits / temperature)``.

    At temperature 1 its mean gradient is exact for linear losses. Bengio, Leonard, Courville
    (2013), https://arxiv.org/abs/1308.3432.

    Example:
        >>> StraightThrough()(jax.random.key(0), jnp.zeros((2, 3)), 0.5).sum(-1).tolist()
        [1.0, 1.0]
    """

    def _sample(self, key, logits, temperature, axis):
        drawn = one_hot_draw(key, logits, temperature, axis)
        return with_derivative_of(drawn, relaxed(logits, None, temperature, axis))


@dataclasses.dataclass(frozen=True)
class DecoupledStraightThrough(_CategoricalEstimator):
    """A sample that is differentiated as the relaxed one at another temperature.

    The noise is the same in both passes. The derivative with respect to the temperature is that of
    the sample: zero when it is hard.

    Shah, Yan, Mozer, Liu (2024), https://arxiv.org/abs/2410.13331.

    Attributes:
        backward_temperature: positive; the derivative with respect to the logits is at this one.
        hard: a one-hot sample; False: the relaxed one at the temperature of the call.

    Example:
        >>> estimator = DecoupledStraightThrough(backward_temperature=1.0)
        >>> estimator(jax.random.key(0), jnp.zeros((2, 3)), 0.1).sum(-1).tolist()
        [1.0, 1.0]
    """

    backward_temperature: float
    hard: bool = True

    def __post_init__(self):
        value = _scalars.positive_number("backward_temperature", self.backward_temperature)
        object.__setattr__(self, "backward_temperature", value)
        _scalars.static_bool("hard", self.hard)

    def _sample(self, key, logits, temperature, axis):
        backward_temperature = jnp.asarray(self.backward_temperature, logits.dtype)
        if self.hard:
            return hard_sample(key, logits, temperature, backward_temperature, axis, logits.dtype)
        noise = class_noise_like(key, logits, axis)
        surrogate = relaxed(logits, noise, backward_temperature, axis)
        sample = relaxed(lax.stop_gradient(logits), noise, temperature, axis)
        return with_derivative_of(sample, sample + surrogate)


@dataclasses.dataclass(frozen=True)
class GumbelRao(_CategoricalEstimator):
    """A one-hot sample with the mean derivative of relaxed samples that have its index.

    The noises are drawn conditioned on the index D: with E standard exponential,
    ``-log E_D`` is the perturbed log-probability of D and ``-log(E_j / p_j + E_D)`` that of the
    others; no gradient flows through the conditioning. For a loss whose gradient depends on the
    index only, the mean is that of ``StraightThroughGumbel`` and the variance smaller.

    Paulus, Maddison, Krause (2021), https://arxiv.org/abs/2010.04838.

    Attributes:
        num_samples: how many relaxed samples are averaged; memory grows with it.

    Example:
        >>> GumbelRao(num_samples=3)(jax.random.key(0), jnp.zeros((2, 3)), 0.5).sum(-1).tolist()
        [1.0, 1.0]
    """

    num_samples: int = 10

    def __post_init__(self):
        count = _scalars.check_count("num_samples", self.num_samples)
        object.__setattr__(self, "num_samples", count)

    def _sample(self, key, logits, temperature, axis):
        drawn = one_hot_draw(key, logits, temperature, axis)
        from_largest = perturbed(lax.stop_gradient(logits), None, axis)
        total = jnp.sum(jnp.exp(from_largest), axis, keepdims=True)

        def conditioned(noise):
            smallest = jnp.sum(jnp.where(drawn == 1, noise, 0), axis, keepdims=True)
            scores = scores_given(drawn == 1, smallest, noise, from_largest, total)
            return tempered_softmax(logits, scores, temperature, None, axis)

        noise = exponential_noises_like(key_of_others(key), self.num_samples, logits)
        mean = jax.vmap(conditioned)(noise).mean(0)
        return with_derivative_of(drawn, mean)


@dataclasses.dataclass(frozen=True)
class GappedStraightThrough(_CategoricalEstimator):
    """A one-hot sample with the derivative of a softmax whose largest logit is the drawn one.

    ``softmax((logits + m1 - m2) / temperature)``: ``m1 = (max - drawn logit) D`` lifts the drawn
    logit to the largest, ``m2 = relu(logits + gap - max) (1 - D)`` presses the others to at least
    ``gap`` below it; both without gradient.

    Fan, Ho, Cheng, Hsieh (2022), https://arxiv.org/abs/2206.07235.

    Attributes:
        gap: 0 or positive, in nats.

    Example:
        >>> GappedStraightThrough()(jax.random.key(0), jnp.zeros((2, 3)), 0.5).sum(-1).tolist()
        [1.0, 1.0]
    """

    gap: float = 1.0

    def __post_init__(self):
        gap = _scalars.number("gap", self.gap)
        gap = 0.0 if gap == 0 else _scalars.positive_number("gap", self.gap)
        object.__setattr__(self, "gap", gap)

    def _sample(self, key, logits, temperature, axis):
        drawn = one_hot_draw(key, logits, temperature, axis)
        # As logits - max: the drawn one becomes 0, the others at most -gap.
        below_max = perturbed(lax.stop_gradient(logits), None, axis)
        gapped = jnp.where(drawn == 1, 0, jnp.minimum(below_max, -self.gap))
        surrogate = relaxed(with_derivative_of(gapped, logits), None, temperature, axis)
        return with_derivative_of(drawn, surrogate)


@dataclasses.dataclass(frozen=True)
class ReinMax(_CategoricalEstimator):
    """A one-hot sample whose mean gradient at temperature 1 is exact for quadratic losses.

    Derivative of ``2 softmax(stop(log p_D - logits) + logits) - softmax(logits) / 2`` with
    ``p_D = (softmax(logits / temperature) + D) / 2``: Heun's method, second order where the
    straight-through estimator is first order. The derivative with respect to the temperature is
    zero. A concrete temperature below 1 is a ``ValueError``; a traced one is used as it is.

    Liu, Dong, Liu, Zheng, Gao (2023), https://arxiv.org/abs/2304.08612.

    Example:
        >>> ReinMax()(jax.random.key(0), jnp.zeros((2, 3)), 1.0).sum(-1).tolist()
        [1.0, 1.0]
    """

    def _check(self, temperature):
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(temperature)):
            return
        if (coldest := np.min(temperature, initial=np.inf)) < 1:
            raise ValueError(
                f"temperature of ReinMax must be at least 1, got {coldest}; for a smaller one use "
                f"StraightThrough or GappedStraightThrough"
            )

    def _sample(self, key, logits, temperature, axis):
        drawn = one_hot_draw(key, logits, temperature, axis)
        one = jnp.ones((), logits.dtype)
        smoothed = relaxed(lax.stop_gradient(logits), None, lax.stop_gradient(temperature), axis)
        log_p_drawn = jnp.log((smoothed + drawn) / 2)
        second_order = relaxed(with_derivative_of(log_p_drawn, logits), None, one, axis)
        first_order = relaxed(logits, None, one, axis)
        return with_derivative_of(drawn, 2 * second_order - first_order / 2)


@dataclasses.dataclass(frozen=True)
class StraightThroughArgmax(_CategoricalEstimator):
    """The one-hot argmax without noise, with the derivative of ``softmax(logits / temperature)``.

    Example:
        >>> StraightThroughArgmax()(jax.random.key(0), jnp.array([0.0, 1.0]), 0.5).tolist()
        [0.0, 1.0]
    """

    def _sample(self, key, logits, temperature, axis):
        del key
        return argmax_of_checked(logits, temperature, None, axis)


ESTIMATORS = {
    "pathwise": Pathwise,
    "straight_through_gumbel": StraightThroughGumbel,
    "straight_through": StraightThrough,
    "decoupled": DecoupledStraightThrough,
    "gumbel_rao": GumbelRao,
    "gapped": GappedStraightThrough,
    "reinmax": ReinMax,
    "argmax": StraightThroughArgmax,
}
"""The estimators by the names that a YAML config uses."""
