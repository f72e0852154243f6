"""dm-haiku: classify digits through eight discrete codes whose temperature anneals by itself."""

import argparse

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from gs_modules import Exponential
from gs_modules.haiku import GumbelSoftmax

SCHEDULE = Exponential(1.0, 0.3, rate=3e-3)


@hk.transform_with_state
def model(x, deterministic=False):
    logits = hk.Linear(8 * 16)(x).reshape(-1, 8, 16)
    codes = GumbelSoftmax(temperature=SCHEDULE)(logits, deterministic=deterministic)
    return hk.Linear(10)(codes.reshape(-1, 8 * 16))


optimizer = optax.adam(3e-3)


@jax.jit
def train_step(params, state, opt_state, x, y, key):
    def loss(params):
        logits, new_state = model.apply(params, state, key, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new_state

    (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return optax.apply_updates(params, updates), state, opt_state, value


def main(steps: int):
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    params, state = model.init(jax.random.key(0), x[:1])
    opt_state = optimizer.init(params)
    for step in range(steps):
        row_key, gumbel_key = jax.random.split(jax.random.key(step))
        rows = jax.random.randint(row_key, (128,), 0, 1500)
        batch = x[rows], y[rows], gumbel_key
        params, state, opt_state, loss = train_step(params, state, opt_state, *batch)
        if step % 100 == 0 or step == steps - 1:
            ticks = state["gumbel_softmax"]["step"]  # the layer's own clock
            print(f"step {ticks:4d}  loss {loss:.3f}  temperature {SCHEDULE(ticks):.3f}")
    logits, _ = model.apply(params, state, None, x[1500:], deterministic=True)
    print(f"accuracy, deterministic codes: {(logits.argmax(-1) == y[1500:]).mean():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    main(parser.parse_args().steps)
