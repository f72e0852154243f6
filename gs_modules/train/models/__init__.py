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
    """The model of ``config`` in its framework; only that framework is imported."""
    framework = importlib.import_module(f"gs_modules.train.models.{config.framework}")
    return framework.build(config, pixels)
