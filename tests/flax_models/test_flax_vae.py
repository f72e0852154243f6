"""Flax's variational autoencoder with binary latents for Gaussian ones, in Linen."""

import functools
import math

import jax
import numpy as np
import pytest
import real_data
import vae
import vae_gated
from training import TrainState

pytestmark = [
    pytest.mark.command,
    pytest.mark.slow,
    pytest.mark.usefixtures("promotion_as_users_have_it"),
]

STEPS = 300
images = functools.cache(real_data.images)


def binary(pixels):
    return (pixels.reshape(len(pixels), -1) >= 0.5).astype(np.float32)


@functools.cache
def trained_vae(module):
    x, key = binary(images().train), jax.random.key(0)
    state = TrainState.of(module.VAE(x.shape[1]), 3e-3, key, x[:1], key)
    generator = np.random.default_rng(0)
    for step in range(STEPS):
        rows = generator.integers(0, len(x), 128)
        state = module.train_step(state, x[rows], jax.random.fold_in(key, step))
    return state


def test_the_autoencoder_learns_its_images():
    """Digits: 21.4 nats with binary latents, 19.9 with Gaussian ones, 25.2 by the marginals."""
    x, test = binary(images().train), binary(images().test)
    p = (x.sum(0) + 0.5) / (len(x) + 1)
    marginals = -np.where(test == 1, np.log(p), np.log1p(-p)).sum(-1).mean()
    plain, gated = (
        module.evaluate(trained_vae(module), test, jax.random.key(1)) for module in (vae, vae_gated)
    )
    assert gated < 0.9 * marginals
    assert gated - plain < 0.5 * (marginals - plain)


def test_the_latents_have_annealed():
    state = trained_vae(vae_gated)
    clock = state.others["anneal"]["code"]["step"]
    assert clock == state.step == STEPS
    schedule = vae_gated.VAE(1).bind({"params": state.params}).code.temperature
    np.testing.assert_allclose(schedule(clock), math.exp(-1e-3 * STEPS), rtol=1e-6)


def test_the_autoencoder_is_deterministic_in_evaluation():
    """And needs no key; the codes that it prefers reconstruct better than drawn ones."""
    state, test = trained_vae(vae_gated), binary(images().test)
    first, second = (vae_gated.evaluate(state, test, None) for _ in range(2))
    assert first == second < vae_gated.evaluate(state, test, jax.random.key(1))
