"""The evidence lower bound of the VAE: in training, and with discrete samples afterwards."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gs_modules import LatentOutput, Usage, gumbel_softmax, latent_output
from gs_modules.train.models import Model, Params

EVALUATION_BATCH = 512


def reconstruction(pixel_logits: jax.Array, x: jax.Array) -> jax.Array:
    """Bernoulli cross-entropy ``[...]`` in nats of the pixels ``[..., pixels]``."""
    # optax's form takes two logarithms of an exponential per pixel where one suffices.
    return (_softplus(pixel_logits) - pixel_logits * x).sum(-1)


@jax.custom_jvp
def _softplus(x: jax.Array) -> jax.Array:
    # jax.nn.softplus takes more than twice as long, guarding the difference of two infinities.
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


_softplus.defjvps(lambda tangent, value, x: tangent * jax.nn.sigmoid(x))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over examples, in nats; they add up over batches.

    Attributes:
        count: examples (times posterior samples).
        reconstruction: Bernoulli cross-entropy of the pixels.
        kl: KL divergence of the posterior from the prior.
        usage: the codes drawn.
    """

    count: jax.Array
    reconstruction: jax.Array
    kl: jax.Array
    usage: Usage

    @classmethod
    def zero(cls, num_latents: int, num_classes: int) -> Totals:
        usage = Usage(jnp.zeros((num_latents, num_classes), jnp.int32))
        return cls(jnp.float32(0), jnp.float32(0), jnp.float32(0), usage)

    @classmethod
    def of(
        cls,
        pixel_logits: jax.Array,
        x: jax.Array,
        latent: LatentOutput,
        keep: jax.Array | None = None,
    ) -> Totals:
        """Of a batch ``[B, pixels]``; ``keep`` ``[B]`` leaves padding rows out."""
        keep = jnp.ones(x.shape[0], bool) if keep is None else keep
        return cls(
            count=keep.sum(dtype=jnp.float32),
            reconstruction=jnp.where(keep, reconstruction(pixel_logits, x), 0).sum(),
            kl=jnp.where(keep, latent.kl, 0).sum(),
            usage=latent.usage(where=keep),
        )

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.count + other.count,
            self.reconstruction + other.reconstruction,
            self.kl + other.kl,
            self.usage.merge(other.usage),
        )

    def metrics(self) -> dict[str, float]:
        """Means per example, by the names that `metrics_of` gives them."""
        count = float(self.count)
        return metrics_of(float(self.reconstruction) / count, float(self.kl) / count, self.usage)


def metrics_of(reconstruction: float, kl: float, usage: Usage) -> dict[str, float]:
    """The parts of the negative ELBO in nats per example, their sum, and the use of the codes.

    Perplexity is the mean over the latents, of 1 to K.
    """
    return {
        "neg_elbo": reconstruction + kl,
        "reconstruction": reconstruction,
        "kl": kl,
        "perplexity": float(usage.perplexity.mean()),
        "codes_used": int(usage.codes_used),
    }


@functools.partial(jax.jit, static_argnums=(0, 3, 5))
def evaluate(
    model: Model, params: Params, images: jax.Array, scale: float, key: jax.Array, samples: int
) -> Totals:
    """The bound with discrete samples: the posterior itself, whatever estimator trained it.

    Args:
        model: pure functions of the VAE.
        params: its parameters.
        images: ``[N, pixels]`` uint8.
        scale: pixel values in 0 .. 1 are ``images * scale``.
        key: of the posterior samples.
        samples: posterior samples per image.
    """
    batch = min(EVALUATION_BATCH, len(images))
    padded = -len(images) % batch
    keep = np.arange(len(images) + padded) < len(images)
    images = jnp.pad(images, ((0, padded), (0, 0))).reshape(-1, batch, images.shape[1])
    keep = keep.reshape(-1, batch)

    def add_batch(totals: Totals, inputs: tuple) -> tuple[Totals, None]:
        index, pixels, keep = inputs
        x = pixels.astype(jnp.float32) * scale
        posterior = model.encode(params, x)

        def add_sample(number: jax.Array, totals: Totals) -> Totals:
            sample_key = jax.random.fold_in(jax.random.fold_in(key, index), number)
            sample = gumbel_softmax(sample_key, posterior.logits, hard=True)
            drawn = latent_output(sample, posterior.logits, model.prior_logits(params), 1.0)
            return totals + Totals.of(model.decode(params, sample), x, drawn, keep)

        return lax.fori_loop(0, samples, add_sample, totals), None

    zero = Totals.zero(*model.prior_logits(params).shape)
    return lax.scan(add_batch, zero, (np.arange(len(images)), images, keep))[0]
