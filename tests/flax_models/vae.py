"""The variational autoencoder of Flax's VAE example, small, in Linen."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from training import TrainState


class Encoder(nn.Module):
    latents: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(128, name="fc1")(x))
        mean = nn.Dense(self.latents, name="fc2_mean")(x)
        logvar = nn.Dense(self.latents, name="fc2_logvar")(x)
        return mean, logvar


class Decoder(nn.Module):
    pixels: int

    @nn.compact
    def __call__(self, z):
        z = nn.relu(nn.Dense(128, name="fc1")(z))
        return nn.Dense(self.pixels, name="fc2")(z)


class VAE(nn.Module):
    pixels: int
    latents: int = 20

    def setup(self):
        self.encoder = Encoder(self.latents)
        self.decoder = Decoder(self.pixels)

    def __call__(self, x, z_rng):
        mean, logvar = self.encoder(x)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(z_rng, mean.shape)
        return self.decoder(z), mean, logvar


def kl_divergence(mean, logvar):
    return 0.5 * jnp.sum(jnp.exp(logvar) + mean**2 - 1 - logvar, -1)


def neg_elbo(state: TrainState, params, x, z_rng):
    variables = {"params": params, **state.others}
    outputs, others = state.apply_fn(variables, x, z_rng, mutable=list(state.others))
    recon, mean, logvar = outputs
    cross_entropy = optax.sigmoid_binary_cross_entropy(recon, x).sum(-1)
    return (cross_entropy + kl_divergence(mean, logvar)).mean(), others


@jax.jit
def train_step(state: TrainState, x, z_rng):
    gradients, others = jax.grad(lambda p: neg_elbo(state, p, x, z_rng), has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients, others=others)


@jax.jit
def evaluate(state: TrainState, x, z_rng):
    return neg_elbo(state, state.params, x, z_rng)[0]
