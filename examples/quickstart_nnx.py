"""Flax NNX: classify digits through eight discrete codes whose temperature anneals by itself."""

import argparse

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

from gs_modules import Exponential
from gs_modules.nnx import GumbelSoftmax

SCHEDULE = Exponential(1.0, 0.3, rate=3e-3)


class Classifier(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.encoder = nnx.Linear(64, 8 * 16, rngs=rngs)
        self.codes = GumbelSoftmax(temperature=SCHEDULE, rngs=rngs)
        self.classifier = nnx.Linear(8 * 16, 10, rngs=rngs)

    def __call__(self, x):
        logits = self.encoder(x).reshape(-1, 8, 16)
        return self.classifier(self.codes(logits).reshape(-1, 8 * 16))


@nnx.jit
def train_step(model, optimizer, x, y):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def main(steps: int):
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    model = Classifier(rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    for step in range(steps):
        rows = jax.random.randint(jax.random.key(step), (128,), 0, 1500)
        loss = train_step(model, optimizer, x[rows], y[rows])
        if step % 100 == 0 or step == steps - 1:
            ticks = model.codes.step[...]  # the layer's own clock
            print(f"step {ticks:4d}  loss {loss:.3f}  temperature {SCHEDULE(ticks):.3f}")
    model.eval()
    print(f"accuracy, deterministic codes: {(model(x[1500:]).argmax(-1) == y[1500:]).mean():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    main(parser.parse_args().steps)
