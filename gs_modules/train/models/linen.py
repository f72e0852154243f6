"""The categorical VAE in Flax Linen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gs_modules import LatentOutput
from gs_modules.linen import CategoricalLatent, set_step
from gs_modules.train.config import Config
from gs_modules.train.devices import Devices
from gs_modules.train.models import Model
from gs_modules.train.models.dense import dot_general

UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class MLP(nn.Module):
    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width, kernel_init=UNIFORM, dot_general=dot_general)(x))
        return nn.Dense(self.widths[-1], kernel_init=UNIFORM, dot_general=dot_general)(x)


class VAE(nn.Module):
    config: Config
    pixels: int

    def setup(self):
        model = self.config.model
        codes = model.num_latents * model.num_classes
        self.encoder = MLP((*model.hidden, codes))
        self.latent = CategoricalLatent(
            model.num_latents,
            model.num_classes,
            prior=model.prior,
            temperature=self.config.temperature.build(),
            estimator=self.config.estimator.build(),
        )
        self.decoder = MLP((*reversed(model.hidden), self.pixels))
        self.over_classes = Devices(self.config.mesh).over_classes

    def __call__(self, x: jax.Array) -> tuple[jax.Array, LatentOutput]:
        logits = self.over_classes(self.encoder(x), self.latent.num_classes)
        latent = self.latent(logits)
        return self.decode(latent.sample), latent

    def encode(self, x: jax.Array) -> LatentOutput:
        return self.latent(self.encoder(x), deterministic=True)

    def decode(self, sample: jax.Array) -> jax.Array:
        return self.decoder(sample.reshape(*sample.shape[:-2], -1))


def build(config: Config, pixels: int) -> Model:
    vae = VAE(config, pixels)
    example = jnp.zeros((1, pixels))
    clock = jax.eval_shape(lambda key: vae.init(key, example), jax.random.key(0))["anneal"]

    def forward(params, x, key, step):
        variables = {"params": params, "anneal": clock}
        return vae.apply(set_step(variables, step), x, rngs={"gumbel": key}, mutable=["anneal"])[0]

    def encode(params, x) -> Any:
        return vae.apply({"params": params}, x, method="encode")

    def decode(params, sample) -> Any:
        return vae.apply({"params": params}, sample, method="decode")

    def prior_logits(params):
        if config.model.prior == "learned":
            return params["latent"]["prior_logits"]
        return jnp.zeros((config.model.num_latents, config.model.num_classes))

    return Model(
        init=lambda key: vae.init(key, example)["params"],
        forward=forward,
        encode=encode,
        decode=decode,
        prior_logits=prior_logits,
    )
