"""The categorical VAE in dm-haiku."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from gs_modules import LatentOutput
from gs_modules.haiku import CategoricalLatent, set_step
from gs_modules.train.config import Config
from gs_modules.train.devices import Devices
from gs_modules.train.models import Model
from gs_modules.train.models.dense import OF_MATRICES, dot_general

UNIFORM = hk.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


class Linear(hk.Linear):
    """``hk.Linear`` of a matrix, by a product of our own: it has no argument for one."""

    def __call__(self, inputs: jax.Array, **options: Any) -> jax.Array:
        shape = (inputs.shape[-1], self.output_size)
        kernel = hk.get_parameter("w", shape, inputs.dtype, init=UNIFORM)
        bias = hk.get_parameter("b", shape[1:], inputs.dtype, init=jnp.zeros)
        return dot_general(inputs, kernel, OF_MATRICES, **options) + bias


class MLP(hk.Module):
    def __init__(self, widths: Sequence[int], name: str):
        super().__init__(name=name)
        self.layers = [Linear(width) for width in widths]

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class VAE(hk.Module):
    def __init__(self, config: Config, pixels: int):
        super().__init__(name="vae")
        model = config.model
        codes = model.num_latents * model.num_classes
        self.encoder = MLP((*model.hidden, codes), name="encoder")
        self.latent = CategoricalLatent(
            model.num_latents,
            model.num_classes,
            prior=model.prior,
            temperature=config.temperature.build(),
            estimator=config.estimator.build(),
            name="latent",
        )
        self.decoder = MLP((*reversed(model.hidden), pixels), name="decoder")
        self.over_classes = Devices(config.mesh).over_classes

    def __call__(self, x: jax.Array) -> tuple[jax.Array, LatentOutput]:
        logits = self.over_classes(self.encoder(x), self.latent.num_classes)
        latent = self.latent(logits)
        return self.decode(latent.sample), latent

    def encode(self, x: jax.Array) -> LatentOutput:
        return self.latent(self.encoder(x), deterministic=True)

    def decode(self, sample: jax.Array) -> jax.Array:
        return self.decoder(sample.reshape(*sample.shape[:-2], -1))


def build(config: Config, pixels: int) -> Model:
    def functions():
        vae = VAE(config, pixels)
        return vae, (vae, vae.encode, vae.decode)

    transformed = hk.multi_transform_with_state(functions)
    example = jnp.zeros((1, pixels))
    _, clock = jax.eval_shape(lambda key: transformed.init(key, example), jax.random.key(0))
    apply_forward, apply_encode, apply_decode = transformed.apply

    def forward(params, x, key, step):
        return apply_forward(params, set_step(clock, step), key, x)[0]

    def prior_logits(params):
        if config.model.prior == "learned":
            return params["vae/~/latent"]["prior_logits"]
        return jnp.zeros((config.model.num_latents, config.model.num_classes))

    return Model(
        init=lambda key: transformed.init(key, example)[0],
        forward=forward,
        encode=lambda params, x: apply_encode(params, {}, None, x)[0],
        decode=lambda params, sample: apply_decode(params, {}, None, sample)[0],
        prior_logits=prior_logits,
    )
