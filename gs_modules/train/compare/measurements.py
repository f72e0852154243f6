"""Gradient estimators against the true gradient: bias, variance, direction and time."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gs_modules import Estimator
from gs_modules.train.compare.blocks import BLOCKS, block_size, squared_norm
from gs_modules.train.compare.truth import TOGETHER, ComparisonError, Loss, Truth, true_gradient

TIMED_CALLS = 15
"""Calls of the compiled gradient, of which the median time counts."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One estimator at one temperature; lengths are relative to the norm of the true gradient.

    Attributes:
        estimator: its name.
        temperature: of the relaxation.
        bias: length of the mean gradient minus the true one, with the noise of both taken out.
        bias_standard_error: what to add to ``bias`` for one standard error upwards.
        variance: of one gradient: trace of its covariance, relative to the squared norm.
        variance_standard_error: of ``variance``.
        cosine: between the mean gradient and the true one, the noise of both taken out.
        sample_cosine: mean cosine between one gradient and the true one.
        seconds: median time of one call of the compiled gradient.
    """

    estimator: str
    temperature: float
    bias: float
    bias_standard_error: float
    variance: float
    variance_standard_error: float
    cosine: float
    sample_cosine: float
    seconds: float

    def error(self, averaged: int = 1) -> float:
        """Mean squared error of the mean of so many gradients: bias² + variance / averaged."""
        return self.bias**2 + self.variance / averaged

    def bias_within(self, errors: float = 2) -> tuple[float, float]:
        """The bias less and more so many standard errors, which are those of its square."""
        square = self.bias**2
        error = errors * ((self.bias + self.bias_standard_error) ** 2 - square)
        return math.sqrt(max(square - error, 0.0)), math.sqrt(square + error)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An estimator and a temperature that it does not take, or gives no finite gradient at."""

    estimator: str
    temperature: float
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What was measured, in the order of the estimators and temperatures given.

    Attributes:
        truth: what all are compared with.
        samples: gradients drawn for each estimator and temperature.
        measurements: one for each estimator and temperature that it takes.
        refusals: the others.
    """

    truth: Truth
    samples: int
    measurements: tuple[Measurement, ...]
    refusals: tuple[Refusal, ...]

    def least_error(self, averaged: int = 1) -> Measurement:
        """The smallest mean squared error of the mean of so many gradients."""
        return min(self.measurements, key=lambda one: one.error(averaged))

    def least_bias(self) -> Measurement:
        """The smallest bias, two standard errors counted against each: noise wins nothing."""
        return min(self.measurements, key=lambda one: one.bias_within()[1])


def compare(
    key: jax.Array,
    loss: Loss,
    logits: jax.Array,
    estimators: Mapping[str, Estimator],
    temperatures: Iterable[float],
    *,
    samples: int = 2048,
    truth_samples: int = 65_536,
    tell: Callable[[str], object] = lambda name: None,
) -> Comparison:
    """Measures the gradients of estimators against that of the expected loss of exact samples.

    Each estimator is compiled once. All draw from the same keys, so that differences between
    them, and between temperatures, hold less noise than their standard errors say.

    Args:
        key: of all samples.
        loss: ``[..., L, K] -> [...]``, a number for each row, which depends on that row alone; it
            sees relaxed samples too where an estimator gives them.
        logits: ``[..., L, K]``, L latents of K classes for each row.
        estimators: by the names to call them.
        temperatures: at which each is measured.
        samples: gradients for each estimator and temperature, rounded up to whole blocks.
        truth_samples: for the true gradient, where it cannot be enumerated.
        tell: is called with the name of each estimator before it is measured.

    Raises:
        ComparisonError: the true gradient is not finite, or cannot be told from 0; no estimator
            takes any of the temperatures.
        ValueError: no estimator or no temperature, a temperature that is not positive, a loss that
            does not return a number for each row.

    Example:
        >>> from gs_modules import StraightThrough
        >>> cost = jnp.array([1.0, 2.0, 4.0])
        >>> found = compare(
        ...     jax.random.key(0), lambda sample: sample[..., 0, :] @ cost,
        ...     jnp.array([[0.5, -0.2, 0.1]]), {"ours": StraightThrough()}, [1.0], samples=64,
        ... )
        >>> found.truth.method, round(found.measurements[0].bias, 4)
        ('enumeration', 0.0)
    """
    logits, temperatures = jnp.asarray(logits), [float(value) for value in temperatures]
    if not estimators or not temperatures:
        raise ValueError("nothing to compare: give at least one estimator and one temperature")
    if wrong := [value for value in temperatures if not 0 < value < float("inf")]:
        raise ValueError(f"temperatures must be positive and finite, got {wrong[0]}")
    truth_key, samples_key = jax.random.split(key)
    truth = true_gradient(truth_key, loss, logits, samples=truth_samples)
    keys = jax.random.split(samples_key, (BLOCKS, block_size(samples)))
    found: list[Measurement | Refusal] = []
    for name, estimator in estimators.items():
        tell(name)
        found += _measure(keys, loss, logits, name, estimator, temperatures, truth)
    measurements = tuple(one for one in found if isinstance(one, Measurement))
    refusals = tuple(one for one in found if isinstance(one, Refusal))
    if not measurements:
        raise ComparisonError(f"no estimator takes any of the temperatures: {refusals[0].reason}")
    return Comparison(truth, keys.size, measurements, refusals)


def _measure(
    keys: jax.Array,
    loss: Loss,
    logits: jax.Array,
    name: str,
    estimator: Estimator,
    temperatures: Iterable[float],
    truth: Truth,
) -> Iterator[Measurement | Refusal]:
    """One estimator at all temperatures, with keys ``[BLOCKS, samples]``."""

    def gradient(key: jax.Array, temperature: jax.typing.ArrayLike) -> jax.Array:
        return jax.grad(lambda logits: loss(estimator(key, logits, temperature)).sum())(logits)

    def block(keys: jax.Array, temperature: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The mean gradient, the variance and the mean cosine of one block."""
        gradients = lax.map(
            lambda key: gradient(key, temperature), keys, batch_size=min(TOGETHER, len(keys))
        )
        rows = gradients.reshape(len(keys), -1)
        norms = jnp.linalg.norm(rows, axis=-1)
        # A gradient of 0 has no direction: it counts as 0.
        cosines = jnp.where(norms > 0, rows @ direction / jnp.where(norms > 0, norms, 1), 0)
        # From the first on: without noise in the gradients the variance is 0, not a rounding error.
        shifted = gradients - gradients[:1]
        mean = shifted.mean(0, keepdims=True)
        variance = jnp.square(shifted - mean).sum() / (len(keys) - 1)
        return gradients[0] + mean[0], variance, cosines.mean()

    norm = truth.norm
    direction = jnp.asarray(truth.gradient.ravel() / norm, logits.dtype)
    blocks = jax.jit(lambda temperature: lax.map(lambda keys: block(keys, temperature), keys))
    timed, key = jax.jit(gradient), keys[0, 0]
    a_row = logits.reshape(-1, *logits.shape[-2:])[0]
    for temperature in temperatures:
        # Outside of any trace: inside, a temperature is traced and cannot be refused.
        try:
            estimator(key, a_row, temperature)
        except ValueError as error:
            yield Refusal(name, temperature, str(error))
            continue
        means, variances, cosines = (np.asarray(value, np.float64) for value in blocks(temperature))
        if not (np.isfinite(means).all() and np.isfinite(variances).all()):
            yield Refusal(name, temperature, "its gradient is not finite")
            continue
        squared_bias, bias_error = squared_norm(means - truth.blocks)
        bias = np.sqrt(max(squared_bias, 0.0))
        yield Measurement(
            name,
            temperature,
            bias=float(bias / norm),
            # Of the square, carried over to the root; it stays right where the bias is 0.
            bias_standard_error=float((np.sqrt(bias**2 + bias_error) - bias) / norm),
            variance=float(variances.mean() / norm**2),
            variance_standard_error=float(variances.std(ddof=1) / BLOCKS**0.5 / norm**2),
            cosine=_cosine(means, truth),
            sample_cosine=float(cosines.mean()),
            seconds=_median_seconds(timed, key, temperature),
        )


def _cosine(means: np.ndarray, truth: Truth) -> float:
    """Between the mean of the blocks and the truth, by their norms without noise."""
    product = np.vdot(means.mean(0), truth.gradient)
    squared, error = squared_norm(means)
    # Where the mean is noise alone, its norm may come out as 0 or less.
    norms = np.sqrt(max(squared, error)) * truth.norm
    return float(np.clip(product / norms, -1, 1)) if norms else 0.0


def _median_seconds(call: Callable[..., jax.Array], *arguments: object) -> float:
    """Of some calls, after one that compiles."""
    jax.block_until_ready(call(*arguments))
    seconds = []
    for _ in range(TIMED_CALLS):
        began = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
