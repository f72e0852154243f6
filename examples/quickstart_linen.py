"""Flax Linen: classify digits through eight discrete codes whose temperature anneals by itself."""

import argparse

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from gs_modules import Exponential
from gs_modules.linen import GumbelSoftmax

SCHEDULE = Exponential(1.0, 0.3, rate=3e-3)


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool = False):
        logits = nn.Dense(8 * 16)(x).reshape(-1, 8, 16)
        codes = GumbelSoftmax(temperature=SCHEDULE)(logits, deterministic=deterministic)
        return nn.Dense(10)(codes.reshape(-1, 8 * 16))


model, optimizer = Classifier(), optax.adam(3e-3)


@jax.jit
def train_step(variables, opt_state, x, y, key):
    def loss(params):
        given, rngs = {**variables, "params": params}, {"gumbel": key}
        logits, state = model.apply(given, x, rngs=rngs, mutable=["anneal"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

    (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    updates, opt_state = optimizer.update(gradients, opt_state)
    return {**state, "params": optax.apply_updates(variables["params"], updates)}, opt_state, value


def main(steps: int):
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    variables = model.init(jax.random.key(0), x[:1])
    opt_state = optimizer.init(variables["params"])
    for step in range(steps):
        row_key, key = jax.random.split(jax.random.key(step))
        rows = jax.random.randint(row_key, (128,), 0, 1500)
        variables, opt_state, loss = train_step(variables, opt_state, x[rows], y[rows], key)
        if step % 100 == 0 or step == steps - 1:
            ticks = variables["anneal"]["GumbelSoftmax_0"]["step"]  # the layer's own clock
            print(f"step {ticks:4d}  loss {loss:.3f}  temperature {SCHEDULE(ticks):.3f}")
    logits = model.apply({"params": variables["params"]}, x[1500:], deterministic=True)
    print(f"accuracy, deterministic codes: {(logits.argmax(-1) == y[1500:]).mean():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    main(parser.parse_args().steps)
