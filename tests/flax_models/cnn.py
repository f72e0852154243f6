"""The CNN of Flax's MNIST example, small, in NNX."""

from functools import partial

import jax
import optax
from flax import nnx


class CNN(nnx.Module):
    def __init__(self, side: int, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 8, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(8, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.025)
        self.conv2 = nnx.Conv(8, 16, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(16, rngs=rngs)
        self.pool = partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        size = (side // 4) ** 2 * 16
        self.linear1 = nnx.Linear(size, 64, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.025)
        self.linear2 = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.dropout1(self.conv1(x), rngs=rngs)
        x = self.pool(nnx.relu(self.batch_norm1(x)))
        x = self.pool(nnx.relu(self.batch_norm2(self.conv2(x))))
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(self.dropout2(self.linear1(x), rngs=rngs))
        return self.linear2(x)


@nnx.jit
def train_step(model: CNN, optimizer: nnx.Optimizer, rngs: nnx.Rngs, x, y):
    def loss(model, rngs):
        logits = model(x, rngs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    value, gradients = nnx.value_and_grad(loss)(model, rngs)
    optimizer.update(model, gradients)
    return value


@nnx.jit
def accuracy(model: CNN, x, y):
    return (model(x).argmax(-1) == y).mean()
