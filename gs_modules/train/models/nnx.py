"""The categorical VAE in Flax NNX."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from gs_modules import LatentOutput
from gs_modules.nnx import CategoricalLatent, set_step
from gs_modules.train.config import Config
from gs_modules.train.devices import Devices
from gs_modules.train.models import Model
from gs_modules.train.models.dense import dot_general

UNIFORM = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class MLP(nnx.Module):
    def __init__(self, widths: Sequence[int], *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            nnx.Linear(a, b, kernel_init=UNIFORM, dot_general=dot_general, rngs=rngs)
            for a, b in itertools.pairwise(widths)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class VAE(nnx.Module):
    def __init__(self, config: Config, pixels: int, *, rngs: nnx.Rngs):
        model = config.model
        codes = model.num_latents * model.num_classes
        self.encoder = MLP((pixels, *model.hidden, codes), rngs=rngs)
        self.latent = CategoricalLatent(
            model.num_latents,
            model.num_classes,
            prior=model.prior,
            temperature=config.temperature.build(),
            estimator=config.estimator.build(),
        )
        self.decoder = MLP((codes, *reversed(model.hidden), pixels), rngs=rngs)
        self.over_classes = Devices(config.mesh).over_classes

    def __call__(self, x: jax.Array, key: jax.Array) -> tuple[jax.Array, LatentOutput]:
        logits = self.over_classes(self.encoder(x), self.latent.num_classes)
        latent = self.latent(logits, key=key)
        return self.decode(latent.sample), latent

    def encode(self, x: jax.Array) -> LatentOutput:
        return self.latent(self.encoder(x), deterministic=True)

    def decode(self, sample: jax.Array) -> jax.Array:
        return self.decoder(sample.reshape(*sample.shape[:-2], -1))


def build(config: Config, pixels: int) -> Model:
    def create(key):
        return VAE(config, pixels, rngs=nnx.Rngs(key))

    abstract = nnx.eval_shape(lambda: create(jax.random.key(0)))
    graph, _, rest = nnx.split(abstract, nnx.Param, ...)
    clock = nnx.to_pure_dict(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rest))

    def merge(params):
        return nnx.merge(graph, params, clock)

    def forward(params, x, key, step):
        vae = merge(params)
        set_step(vae, step)
        return vae(x, key)

    def prior_logits(params):
        if config.model.prior == "learned":
            return merge(params).latent.prior_logits[...]
        return jnp.zeros((config.model.num_latents, config.model.num_classes))

    return Model(
        init=lambda key: nnx.to_pure_dict(nnx.state(create(key), nnx.Param)),
        forward=forward,
        encode=lambda params, x: merge(params).encode(x),
        decode=lambda params, sample: merge(params).decode(sample),
        prior_logits=prior_logits,
    )
