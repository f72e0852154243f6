"""A categorical VAE on digits, from nothing but the functional core: one flat file.

The posterior of each image is 8 categoricals of 8 classes. ``gumbel_softmax(hard=True)`` draws
one-hot codes and carries the gradient of their relaxation; ``categorical_kl`` is the rate.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from sklearn.datasets import load_digits

from gs_modules import Exponential, categorical_kl, gumbel_softmax

LATENTS, CLASSES, HIDDEN, BATCH = 8, 8, 256, 100

# The data: 8x8 pixels, black or white; the last 360 of a fixed permutation are for the test.
images = (load_digits().data >= 8).astype(np.float32)
images = jnp.asarray(images[np.random.default_rng(0).permutation(len(images))])
train, test = images[:1437], images[1437:]


def init(key):
    def dense(key, inputs, outputs):
        limit = inputs**-0.5
        weight = jax.random.uniform(key, (inputs, outputs), minval=-limit, maxval=limit)
        return weight, jnp.zeros(outputs)

    keys = jax.random.split(key, 4)
    return {
        "encoder": [dense(keys[0], 64, HIDDEN), dense(keys[1], HIDDEN, LATENTS * CLASSES)],
        "decoder": [dense(keys[2], LATENTS * CLASSES, HIDDEN), dense(keys[3], HIDDEN, 64)],
    }


def mlp(layers, x):
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = jax.nn.relu(x @ w + b)
    return x @ weight + bias


def negative_elbo(params, x, key, temperature):
    """Nats per image: the pixels' cross-entropy, plus the KL from a uniform prior."""
    logits = mlp(params["encoder"], x).reshape(-1, LATENTS, CLASSES)
    codes = gumbel_softmax(key, logits, temperature, hard=True)
    pixels = mlp(params["decoder"], codes.reshape(-1, LATENTS * CLASSES))
    reconstruction = optax.sigmoid_binary_cross_entropy(pixels, x).sum(-1)
    return (reconstruction + categorical_kl(logits).sum(-1)).mean()


schedule = Exponential(1.0, 0.5, rate=5e-4)
optimizer = optax.adamw(1e-3, weight_decay=1e-2)


@jax.jit
def train_epoch(params, opt_state, order, first_step):
    """One pass over the rows of ``order`` ``[steps, BATCH]``, compiled as a single loop."""

    def step(carry, inputs):
        params, opt_state = carry
        number, rows = inputs
        key = jax.random.fold_in(jax.random.key(1), number)
        loss, gradient = jax.value_and_grad(negative_elbo)(
            params, train[rows], key, schedule(number)
        )
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    numbers = first_step + jnp.arange(len(order))
    (params, opt_state), losses = lax.scan(step, (params, opt_state), (numbers, order))
    return params, opt_state, losses.mean()


def main(epochs: int):
    params = init(jax.random.key(0))
    opt_state = optimizer.init(params)
    steps = len(train) // BATCH
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(train))[: steps * BATCH]
        params, opt_state, loss = train_epoch(
            params, opt_state, order.reshape(steps, BATCH), epoch * steps
        )
        if epoch % 20 == 0 or epoch == epochs - 1:
            bound = negative_elbo(params, test, jax.random.key(2), 1.0)
            temperature = schedule((epoch + 1) * steps)
            print(
                f"epoch {epoch:3d}  temperature {temperature:.3f}  negative ELBO (nats): "
                f"train {loss:.2f}, test {bound:.2f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=200)
    main(parser.parse_args().epochs)
