"""The importance-weighted bound: how likely the images are, told by many posterior samples."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gs_modules import Usage, categorical_log_prob, gumbel_max
from gs_modules.train.bound import EVALUATION_BATCH, metrics_of, reconstruction
from gs_modules.train.models import Model, Params

TOGETHER = 2**24
"""Numbers in the widest layer of the decoder at once: 64 MiB of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Likelihoods:
    """What samples of the posterior say of each image, in nats.

    Attributes:
        importance_weighted: ``[N]``, ``log mean_i p(x, z_i) / q(z_i | x)``: in expectation no
            larger than ``log p(x)``, to which it rises with the number of samples.
        reconstruction: ``[N]``, mean Bernoulli cross-entropy of the pixels.
        kl: ``[N]``, KL divergence of the posterior from the prior.
        usage: the codes drawn.
    """

    importance_weighted: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    usage: Usage

    def metrics(self) -> dict[str, float]:
        """Means per image, as in the metrics of a run, and minus the importance-weighted bound."""
        return {
            "neg_importance_weighted": -float(self.importance_weighted.mean()),
            **metrics_of(float(self.reconstruction.mean()), float(self.kl.mean()), self.usage),
        }


def likelihoods(
    model: Model,
    params: Params,
    images: np.ndarray,
    scale: float,
    key: jax.Array,
    samples: int,
    *,
    widest: int,
    track: Callable[[range], Iterable[int]] = lambda batches: batches,
) -> Likelihoods:
    """Evaluates images with discrete samples of the posterior, whatever estimator trained it.

    Memory does not grow with the samples, nor do they depend on how many are drawn at once.

    Args:
        model: pure functions of the VAE.
        params: its parameters.
        images: ``[N, pixels]`` uint8.
        scale: pixel values in 0 .. 1 are ``images * scale``.
        key: of the samples.
        samples: for each image, 1 or more.
        widest: numbers for one sample in the decoder's widest layer.
        track: is given the numbers of the batches, and gives them back as they are worked on.

    Returns:
        Of every image, in float64.

    References:
        Burda, Grosse, Salakhutdinov (2016), arXiv:1509.00519.
    """
    size = min(EVALUATION_BATCH, len(images))
    together = min(samples, max(1, TOGETHER // (size * widest)))
    found = []
    for number in track(range(-(-len(images) // size))):
        batch = images[number * size : (number + 1) * size]
        keep = np.arange(size) < len(batch)
        padded = np.pad(batch, ((0, size - len(batch)), (0, 0)))
        batch_key = jax.random.fold_in(key, number)
        one = _of_batch(model, params, padded, keep, scale, batch_key, samples, together)
        found.append(jax.tree.map(np.asarray, one))
    importance_weighted, cost, kl, usage = zip(*found, strict=True)

    def of_each_image(batches: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate(list(batches))[: len(images)].astype(np.float64)

    return Likelihoods(
        importance_weighted=of_each_image(importance_weighted),
        reconstruction=of_each_image(cost),
        kl=of_each_image(kl),
        usage=functools.reduce(Usage.merge, usage),
    )


@functools.partial(jax.jit, static_argnums=(0, 7))
def _of_batch(
    model: Model,
    params: Params,
    images: jax.Array,
    keep: jax.Array,
    scale: float,
    key: jax.Array,
    samples: jax.Array,
    together: int,
) -> tuple[jax.Array, jax.Array, jax.Array, Usage]:
    """Of one batch ``[B, pixels]``, with so many samples at once."""
    x = images.astype(jnp.float32) * scale
    posterior = model.encode(params, x)
    prior = model.prior_logits(params)
    classes = prior.shape[-1]

    def draw(number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        index = gumbel_max(jax.random.fold_in(key, number), posterior.logits)
        cost = reconstruction(model.decode(params, jax.nn.one_hot(index, classes)), x)
        log_ratio = log_prob(index, prior) - log_prob(index, posterior.logits)
        return index, cost, log_ratio.sum(-1) - cost

    def log_prob(index: jax.Array, logits: jax.Array) -> jax.Array:
        return categorical_log_prob(index, jnp.broadcast_to(logits, (*index.shape, classes)))

    def add(chunk: jax.Array, carry: tuple) -> tuple:
        highest, total, cost, usage = carry
        numbers = chunk * together + jnp.arange(together)
        is_asked = numbers < samples  # the last chunk may hold too many
        index, costs, log_weights = jax.vmap(draw)(numbers)
        log_weights = jnp.where(is_asked[:, None], log_weights, -jnp.inf)
        # The weights are summed relative to the largest so far, which is exact: a running
        # `logaddexp` would round the whole logarithm, of hundreds of nats, every time.
        risen = jnp.maximum(highest, log_weights.max(0))
        total = total * jnp.exp(highest - risen) + jnp.exp(log_weights - risen).sum(0)
        cost += jnp.where(is_asked[:, None], costs, 0).sum(0)
        counted = Usage.of(index, classes, where=is_asked[:, None] & keep)
        return risen, total, cost, usage.merge(counted)

    # Not -inf, from which nothing can be subtracted.
    lowest = jnp.full(len(images), jnp.finfo(jnp.float32).min)
    zeros = jnp.zeros(len(images))
    start = (lowest, zeros, zeros, Usage(jnp.zeros(prior.shape, jnp.int32)))
    highest, total, cost, usage = lax.fori_loop(0, -(-samples // together), add, start)
    return highest + jnp.log(total / samples), cost / samples, posterior.kl, usage
