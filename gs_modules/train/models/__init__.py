"""One categorical VAE, written in each framework and reduced to the same pure functions.

Encoder ``pixels -> hidden -> L * K`` logits, ``CategoricalLatent``, and a decoder that mirrors the
encoder and gives Bernoulli logits of the pixels. Weights begin uniform in ``±1/sqrt(fan in)``: with
He-normal ones the latents of the MNIST model collapse in most runs.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gs_modules import LatentOutput
from gs_modules.train.config import Config

Params = Any


@dataclasses.dataclass(frozen=True)
class Model:
    """Pure functions of a VAE; ``params`` are a pytree of float32 arrays.

    Attributes:
        init: ``key -> params``.
        forward: ``(params, x [B, pixels], key, step) -> (pixel logits [B, pixels], latent)`` in
            training; ``step`` alone sets the temperature, ``key`` alone the noise.
        encode: ``(params, x) -> latent``, deterministic: its logits and KL are those of q(z|x).
        decode: ``(params, sample [B, L, K]) -> pixel logits [B, pixels]``, deterministic.
        prior_logits: ``params -> [L, K]``.
    """

    init: Callable[[jax.Array], Params]
    forward: Callable[[Params, jax.Array, jax.Array, jax.Array], tuple[jax.Array, LatentOutput]]
    encode: Callable[[Params, jax.Array], LatentOutput]
    decode: Callable[[Params, jax.Array], jax.Array]
    prior_logits: Callable[[Params], jax.Array]


def build(config: Config, pixels: int) -> Model:
    """The model of ``config`` in its framework; only that framework is imported.

    Raises:
        ImpossibleValueError: ``config.mesh`` asks for more devices than there are.
    """
    framework = importlib.import_module(f"gs_modules.train.models.{config.framework}")
    model = framework.build(config, pixels)
    if config.training.compute_dtype == "float32":
        return model
    return _trained_in(jnp.dtype(config.training.compute_dtype), model)


def _trained_in(dtype: jnp.dtype, model: Model) -> Model:
    """The same parameters, rounded to ``dtype`` wherever a training step computes with them."""

    def forward(params, x, key, step):
        rounded = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        pixel_logits, latent = model.forward(rounded, x.astype(dtype), key, step)
        return pixel_logits.astype(jnp.float32), latent

    return dataclasses.replace(model, forward=forward)
